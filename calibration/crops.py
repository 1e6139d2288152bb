"""Which crops of pictures calibrate and verify: those that differ most, found by a greedy k-centre.

Places are chosen by cheap features first, and cut in a second reading: of a hundred large pictures
only one is in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sdps.calibration.drift import Pair
from sdps.calibration.entry import Entry, Picture
from sdps.core.frame import Image

PER_PICTURE = 8
"""Candidate crops of each picture."""
FLAT = 1.0
"""A crop of which no channel deviates by this many levels says nothing about ranges."""


@dataclass(frozen=True)
class Crop:
    """A piece of a picture, cut at (top, left).

    Attributes:
        name, group: Of the picture, see `Entry`.
        sha256: Of the picture's source.
        image: (side, side, 3) uint8 RGB.
        clean: The same of its ground truth, or None.
    """

    name: str
    group: str
    sha256: str
    top: int
    left: int
    image: Image
    clean: Image | None

    @property
    def pair(self) -> Pair:
        """With its ground truth."""
        return Pair(self.image, self.clean, self.group)

    def to_json(self) -> dict[str, Any]:
        """What names this crop for good."""
        return {
            "source": self.name,
            "source_sha256": self.sha256,
            "group": self.group,
            "box": [self.top, self.left, *self.image.shape[:2]],
            "sha256": hashlib.sha256(self.image.tobytes()).hexdigest(),
        }


@dataclass(frozen=True)
class Place:
    """Where a crop may be cut, and its `features`."""

    entry: Entry
    top: int
    left: int
    features: npt.NDArray[np.float64]


def choose(
    entries: Sequence[Entry], most: int, side: int, tick: Callable[[], None]
) -> tuple[list[Place], int]:
    """`most` places by greedy k-centre over `features`; and how many flat ones were passed over."""
    candidates: list[Place] = []
    flat = 0
    for index, entry in enumerate(entries):
        tick()
        image = entry.read().rainy
        rng = np.random.default_rng((20, index))
        height, width = image.shape[:2]
        places = {
            (int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)))
            for _ in range(PER_PICTURE)
        }
        for top, left in sorted(places):
            piece = _window(image, top, left, side)
            if piece.std((0, 1)).max() < FLAT:  # of any colour
                flat += 1
            else:
                candidates.append(Place(entry, top, left, features(piece)))
    if not candidates:
        return [], flat
    return [candidates[i] for i in k_centres(np.stack([c.features for c in candidates]), most)], flat


def cut(chosen: Sequence[Place], side: int) -> list[Crop]:
    """The crops themselves, in the same order. Every picture is read once more, and let go."""
    made: dict[int, Crop] = {}
    for entry in dict.fromkeys(place.entry for place in chosen):
        picture = entry.read()
        of_it = ((i, place) for i, place in enumerate(chosen) if place.entry is entry)
        made |= {i: _crop(place, picture, side) for i, place in of_it}
    return [made[i] for i in range(len(chosen))]


def _crop(place: Place, picture: Picture, side: int) -> Crop:
    image, clean = (
        None if whole is None else _window(whole, place.top, place.left, side)
        for whole in (picture.rainy, picture.clean)
    )
    assert image is not None
    return Crop(place.entry.name, place.entry.group, picture.sha256, place.top, place.left, image, clean)


def _window(image: Image, top: int, left: int, side: int) -> Image:
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def features(image: Image) -> npt.NDArray[np.float64]:
    """What distinguishes crops for calibration, cheaply: brightness, colour, detail, rain.

    Five quantiles of luma, the channels' means, the energy of fine detail, and the energy of
    structures that run down the picture (streaks of rain) over that of those that run across.
    """
    luma = image.astype(np.float64) @ (0.299, 0.587, 0.114)
    down, across = np.abs(np.diff(luma, axis=0)).mean(), np.abs(np.diff(luma, axis=1)).mean()
    fine = np.abs(
        luma[1:-1, 1:-1] * 4 - luma[:-2, 1:-1] - luma[2:, 1:-1] - luma[1:-1, :-2] - luma[1:-1, 2:]
    ).mean()
    return np.array(
        [
            *np.quantile(luma, (0.02, 0.25, 0.5, 0.75, 0.98)) / 64,
            *image.mean((0, 1)) / 64,
            np.log2(1 + fine),
            np.log2((across + 0.1) / (down + 0.1)),
        ]
    )


def k_centres(points: npt.NDArray[np.float64], count: int) -> list[int]:
    """Indices of `count` points, each the farthest from those before (Gonzalez 1985); the first is
    the one nearest to the mean. With no more points than `count`, all of them."""
    if len(points) <= count:
        return list(range(len(points)))
    scaled = (points - points.mean(0)) / (points.std(0) + 1e-9)
    chosen = [int(np.argmin((scaled**2).sum(1)))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, ((scaled - scaled[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(np.argmax(nearest)))
    return chosen
