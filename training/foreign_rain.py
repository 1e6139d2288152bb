"""Other rain renderers, for evaluation only: what a model makes of rain it was not trained on.

`foreign_rain` is the usual recipe of photo editors, which shares nothing with `rain.py`: white noise,
thresholded, smeared along one direction, and screened or added over the picture, twice.
`albumentations_rain` is that of the augmentation library, if it is installed. Never train on them.
"""

from __future__ import annotations

import importlib.util
import os

import numpy as np

from sdps.core.console import need
from sdps.core.errors import MissingDependency
from sdps.core.frame import Image


def foreign_rain(image: Image, seed: int) -> Image:
    """Rains heavily on a (H, W, 3) uint8 RGB picture; the same seed gives the same rain."""
    cv2 = need("cv2")
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    result = image.astype(np.float32) / 255
    for _ in range(2):
        drops = (rng.random((height, width)) > 0.98).astype(np.float32)
        length = int(rng.integers(15, 40))
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1
        middle = ((length - 1) / 2, (length - 1) / 2)
        turn = cv2.getRotationMatrix2D(middle, 90 + rng.uniform(-25, 25), 1)
        kernel = cv2.GaussianBlur(cv2.warpAffine(kernel, turn, (length, length)), (3, 3), 0.6)
        streaks = cv2.filter2D(drops, -1, kernel * (0.35 * length / kernel.sum()))
        streaks = np.clip(streaks * rng.uniform(0.6, 1.0), 0, 1)[..., None]
        screened = 1 - (1 - result) * (1 - 0.85 * streaks)
        added = np.clip(result + 0.8 * streaks, 0, 1)
        result = added if rng.random() < 0.5 else screened
    return (result * 255).round().astype(np.uint8)


def has_albumentations() -> bool:
    """Whether the library is installed; sdps does not need it otherwise."""
    return importlib.util.find_spec("albumentations") is not None


def albumentations_rain(image: Image, seed: int) -> Image:
    """Heavy rain of albumentations 2 on a (H, W, 3) uint8 RGB picture; the same seed, the same rain.

    Its darkening is turned off: what it takes from the light no deraining could give back.

    Raises:
        MissingDependency: albumentations is not installed.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks the network
    try:
        library = need("albumentations")
    except MissingDependency as error:  # which no extra of ours brings
        raise MissingDependency(error.message, "Install it with: pip install albumentations") from None
    rain = library.RandomRain(
        slant_range=(-15, 15),
        drop_width=1,
        blur_value=3,
        brightness_coefficient=1.0,
        rain_type="torrential",
        p=1,
    )
    rainy: Image = library.Compose([rain], seed=seed)(image=image)["image"]
    return rainy
