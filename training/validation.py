"""What a run is judged by while it trains: PSNR and SSIM on pictures that it never trains on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sdps.core.frame import Image
from sdps.core.metrics import SMALLEST, quality
from sdps.model import SDPSFNet
from sdps.training.datasets import Pair, read_pair
from sdps.training.evaluate import rainy_pairs
from sdps.training.restorers import NetworkRestorer

LOOKS = ("heavy", "light")
PICTURES = 16
"""More would cost a noticeable share of the training's time."""

Validate = Callable[[SDPSFNet], "list[Group]"]


@dataclass(frozen=True)
class Group:
    """Means over the pictures of one kind, whole frames, RGB; PSNR in dB.

    Attributes:
        name: A rain look, or a set's name.
        before, after: PSNR of the rainy pictures and of the results.
        ssim: Of the results.
        worst: Gain of the picture that gained least.
    """

    name: str
    before: float
    after: float
    ssim: float
    worst: float


def on_photos(photos: Sequence[Image], looks: Sequence[str] = LOOKS) -> Validate:
    """Validation on photographs with rendered rain, the same each time."""
    return lambda network: [_group(network, look, list(rainy_pairs(photos, look))) for look in looks]


def on_pairs(pairs: Sequence[Pair], name: str) -> Validate:
    """Validation on at most PICTURES of the pairs, evenly picked."""
    some = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(PICTURES, len(pairs))).round().astype(int)]
    return lambda network: [_group(network, name, [read_pair(pair, SMALLEST) for pair in some])]


def overall(groups: Sequence[Group]) -> float:
    """What `best` is chosen by: the mean PSNR over the groups; minus infinity where it is not finite."""
    value = float(np.mean([group.after for group in groups]))
    return value if math.isfinite(value) else -math.inf


def _group(network: SDPSFNet, name: str, pictures: Sequence[tuple[Image, Image]]) -> Group:
    restorer = NetworkRestorer(network, name, str(next(network.parameters()).device))
    before = [quality(clean, rainy).psnr for rainy, clean in pictures]
    after = [quality(clean, restorer.frame(rainy)) for rainy, clean in pictures]
    gains = [b.psnr - a for a, b in zip(before, after, strict=True)]
    return Group(
        name,
        float(np.mean(before)),
        float(np.mean([q.psnr for q in after])),
        float(np.mean([q.ssim for q in after])),
        min(gains),
    )
