"""What a run is judged by while it trains: PSNR and SSIM on pictures that it never trains on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sdps.core.frame import Image
from sdps.core.metrics import SMALLEST, Quality, quality
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

    Pictures that are restored exactly, whose PSNR is infinite, count in no mean of PSNR, unless all are.
    Where the network gives NaN, so do the means.

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


def picked(pairs: Sequence[Pair]) -> list[Pair]:
    """At most PICTURES of the pairs, evenly picked."""
    places = np.linspace(0, len(pairs) - 1, min(PICTURES, len(pairs))).round().astype(int)
    return [pairs[place] for place in places]


def on_pairs(pairs: Sequence[Pair], name: str) -> Validate:
    """Validation on the pairs that `picked` takes."""
    some = picked(pairs)
    return lambda network: [_group(network, name, [read_pair(pair, SMALLEST) for pair in some])]


def overall(groups: Sequence[Group]) -> float:
    """What `best` is chosen by: the mean PSNR (`_mean`) over the groups; minus infinity for NaN or none."""
    value = _mean([group.after for group in groups]) if groups else math.nan
    return -math.inf if math.isnan(value) else value


def _group(network: SDPSFNet, name: str, pictures: Sequence[tuple[Image, Image]]) -> Group:
    restorer = NetworkRestorer(network, name, str(next(network.parameters()).device))
    before = [quality(clean, rainy).psnr for rainy, clean in pictures]
    after = [_restored(restorer, rainy, clean) for rainy, clean in pictures]
    # Of two infinite ones the difference would be NaN.
    gains = [0.0 if a == b.psnr else b.psnr - a for a, b in zip(before, after, strict=True)]
    ssim = float(np.mean([q.ssim for q in after]))
    return Group(name, _mean(before), _mean([q.psnr for q in after]), ssim, min(gains))


def _restored(restorer: NetworkRestorer, rainy: Image, clean: Image) -> Quality:
    """Of a whole frame; NaN where the network gives anything that is not finite, which no picture shows."""
    levels = restorer.tiles(rainy[None])[0]
    if not np.isfinite(levels).all():
        return Quality(math.nan, math.nan)
    return quality(clean, np.clip(levels, 0, 255).round().astype(np.uint8))


def _mean(values: Sequence[float]) -> float:
    """Of PSNR: over the finite ones, or one exact picture would hide all others; NaN if one is NaN."""
    if any(math.isnan(value) for value in values):
        return math.nan
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else float(np.mean(values))
