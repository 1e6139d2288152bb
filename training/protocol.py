"""The evaluation protocol behind the paper's numbers, and the whole frame beside it.

Paper (docs/network.md): tiles of 128 pixels that overlap by 64, the picture reflected at the bottom and
right until they fit, averaged uniformly where they overlap; clamped to 0..1 and truncated (not
rounded) to 8 bits. A graph gives levels that are rounded already; their average is rounded, since
truncating twice would darken the picture by half a level.

Frame: the whole picture at once, as `sdps-run` restores one that it does not tile, however little memory
is free. The network's global means then see all of it, so the two differ, by tenths of a dB. Only what is
larger than a fixed graph or an engine takes is cut into tiles, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sdps.core.frame import Image
from sdps.core.metrics import CONVENTIONS, Quality, quality
from sdps.training.restorers import Restorer

TILE, STEP = 128, 64
PROTOCOLS = ("paper", "frame")
SCORING = "scoring"
"""The step of a picture that follows its protocols."""
BATCH = 16
"""Tiles that run at once: memory, not a result."""


@dataclass(frozen=True)
class PictureScore:
    """One picture under one protocol and one convention ('rgb' or 'y').

    Attributes:
        tiled: Whether protocol 'frame' had to cut it into tiles, as the graph takes none so large.
    """

    picture: str
    protocol: str
    convention: str
    height: int
    width: int
    before: Quality
    after: Quality
    tiled: bool = False

    @property
    def gain(self) -> float:
        """dB of PSNR; NaN where the rainy picture had no error at all."""
        return self.after.psnr - self.before.psnr


@dataclass(frozen=True)
class Mean:
    """The mean over the pictures of one protocol and convention, as papers print it.

    The PSNR of equal pictures is infinite and stays out of the means of PSNR, else one of them would
    blank a whole set. NaN where nothing is left.

    Attributes:
        before: Of the rainy pictures.
        after: Of the derained ones.
        gain: dB of PSNR, over the pictures in which both are finite.
        worst_gain: The lowest of them.
        equal_before: Rainy pictures that equal the clean one.
        equal_after: Derained ones that do.
        tiled: Pictures that protocol 'frame' had to cut into tiles, as the graph takes none so large.
    """

    protocol: str
    convention: str
    pictures: int
    before: Quality
    after: Quality
    gain: float
    worst_gain: float
    equal_before: int = 0
    equal_after: int = 0
    tiled: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON has it: what is not finite (the PSNR of equal pictures) becomes null."""
        values = asdict(self)
        for side in ("before", "after"):
            values[side] = {k: v if math.isfinite(v) else None for k, v in values[side].items()}
        gains = {key: values[key] if math.isfinite(values[key]) else None for key in ("gain", "worst_gain")}
        return values | gains


def paper_tiles(restorer: Restorer, image: Image) -> Image:
    """Restores a picture by the paper's tiles: (H, W, 3) uint8 RGB both, any size."""
    height, width = image.shape[:2]
    tall, wide = (max(0, -(-(side - TILE) // STEP)) * STEP + TILE for side in (height, width))
    padded = np.pad(image, ((0, tall - height), (0, wide - width), (0, 0)), mode="reflect")
    corners = [(y, x) for y in range(0, tall - TILE + 1, STEP) for x in range(0, wide - TILE + 1, STEP)]
    total = np.zeros((tall, wide, 3), np.float64)
    count = np.zeros((tall, wide, 1))
    for begin in range(0, len(corners), BATCH):
        some = corners[begin : begin + BATCH]
        batch = np.stack([padded[y : y + TILE, x : x + TILE] for y, x in some])
        for (y, x), tile in zip(some, restorer.tiles(batch), strict=True):
            total[y : y + TILE, x : x + TILE] += tile
            count[y : y + TILE, x : x + TILE] += 1
    mean = np.clip((total / count)[:height, :width], 0, 255)
    result: Image = (mean if restorer.exact else np.round(mean)).astype(np.uint8)
    return result


def restore_by(protocol: str, restorer: Restorer, image: Image) -> Image:
    """Restores a picture by one of PROTOCOLS."""
    return paper_tiles(restorer, image) if protocol == "paper" else restorer.frame(image)


def score_picture(
    name: str,
    rainy: Image,
    clean: Image,
    restorer: Restorer,
    protocols: Sequence[str] = PROTOCOLS,
    on_result: Callable[[PictureScore, Image, Image, Image], None] = lambda score, *images: None,
    on_step: Callable[[str], None] = lambda step: None,
) -> list[PictureScore]:
    """Scores a picture by every protocol and both conventions.

    Args:
        name: Of the picture.
        rainy: (H, W, 3) uint8 RGB, from 11x11.
        clean: The same without rain.
        restorer: The model.
        protocols: Of PROTOCOLS.
        on_result: Given the score on RGB by the first protocol with the rainy picture, the result and
            the clean one, once the other protocols are done too.
        on_step: Given what begins: the protocol that restores it, and SCORING when all have.
    """
    results = {}
    for protocol in protocols:
        on_step(protocol)
        results[protocol] = restore_by(protocol, restorer, rainy)
    on_step(SCORING)
    tiled = {protocol: protocol == "frame" and restorer.must_tile(rainy) for protocol in protocols}
    before = {convention: quality(clean, rainy, convention) for convention in CONVENTIONS}
    size = (rainy.shape[0], rainy.shape[1])
    scores = [
        PictureScore(
            name,
            protocol,
            convention,
            *size,
            before[convention],
            quality(clean, result, convention),
            tiled[protocol],
        )
        for protocol, result in results.items()
        for convention in CONVENTIONS
    ]
    on_result(scores[0], rainy, results[protocols[0]], clean)
    return scores


def means(scores: Sequence[PictureScore]) -> list[Mean]:
    """The means over pictures, per protocol and convention, in order of appearance."""
    result = []
    for key in dict.fromkeys((score.protocol, score.convention) for score in scores):
        rows = [score for score in scores if (score.protocol, score.convention) == key]
        sides = [[row.before for row in rows], [row.after for row in rows]]
        before, after = (
            Quality(_mean(side.psnr for side in one), _mean(side.ssim for side in one)) for one in sides
        )
        gains = [row.gain for row in rows if math.isfinite(row.gain)]
        equal = [sum(math.isinf(side.psnr) for side in one) for one in sides]
        worst, tiled = min(gains, default=math.nan), sum(row.tiled for row in rows)
        result.append(Mean(*key, len(rows), before, after, _mean(gains), worst, equal[0], equal[1], tiled))
    return result


def _mean(values: Iterable[float]) -> float:
    """Over the finite ones; NaN without any."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
