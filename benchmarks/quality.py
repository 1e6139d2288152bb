"""Whether a graph restores the picture that PyTorch FP32 restores, and how good that picture is.

PSNR and SSIM on RGB (`core/metrics.py`). Papers on deraining often print them on luma instead, which
reads higher: `sdps-eval` prints both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdps.benchmarks.measurement import Drift, PictureDrift, Truth
from sdps.core.errors import SourceError, UsageError
from sdps.core.frame import Image
from sdps.core.metrics import psnr, ssim
from sdps.core.pictures import read_picture
from sdps.core.spec import Size
from sdps.runtime.sources import PICTURES

SMALLEST = 8
"""Pixels of the shortest side: SSIM's window and the network's padding need that many."""

INPUT = "input"

Restore = Callable[[Image], Image]


@dataclass(frozen=True)
class Sample:
    """A rainy picture, (H, W, 3) uint8 RGB, and its ground truth of the same size, if known."""

    name: str
    image: Image
    truth: Image | None = None


@dataclass(frozen=True)
class Assessment:
    """What `assess` found.

    Attributes:
        drift: Contender to drift from the reference; the reference has none.
        truth: Contender (and 'input', the rainy pictures themselves) to score against ground
            truth; empty without ground truth.
    """

    drift: dict[str, Drift]
    truth: dict[str, Truth]


def picture_files(folder: Path) -> list[Path]:
    """The pictures directly in a folder, by name; not macOS' hidden `._0.png`.

    Raises:
        UsageError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Give a folder of pictures.")
    files = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith(".")
    )
    if not files:
        raise UsageError(
            f"The folder {folder} holds no pictures.", f"Put some there: {', '.join(sorted(PICTURES))}."
        )
    return files


def truth_files(pictures: Sequence[Path], folder: Path) -> list[Path]:
    """The ground truth of each picture: the file of the same name, whatever its suffix.

    Raises:
        UsageError: a picture has none.
    """
    by_stem = {path.stem: path for path in picture_files(folder)}
    lonely = [path.name for path in pictures if path.stem not in by_stem]
    if lonely:
        some = ", ".join(lonely[:3]) + (", ..." if len(lonely) > 3 else "")
        raise UsageError(
            f"{len(lonely)} of {len(pictures)} pictures have no ground truth in {folder} ({some}).",
            "Give both the same name, whatever the suffix.",
        )
    return [by_stem[path.stem] for path in pictures]


def cut(image: Image, size: Size) -> Image:
    """The middle `size` of a picture, mirrored outwards where the picture is smaller."""
    missing = [
        max(0, want - have) for want, have in zip((size.height, size.width), image.shape[:2], strict=True)
    ]
    image = np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], "symmetric")
    top, left = (image.shape[0] - size.height) // 2, (image.shape[1] - size.width) // 2
    return np.ascontiguousarray(image[top : top + size.height, left : left + size.width])


def picture_drift(name: str, reference: Image, image: Image) -> PictureDrift:
    """How far `image` is from the reference's."""
    difference = image.astype(np.int16) - reference
    r, g, b = (float(v) for v in difference.mean((0, 1)))
    return PictureDrift(
        name, psnr(reference, image), ssim(reference, image), int(np.abs(difference).max()), (r, g, b)
    )


def load_samples(
    pictures: Sequence[Path], truths: Sequence[Path] = (), window: Size | None = None
) -> Iterator[Sample]:
    """Reads pictures one at a time, with their ground truth where that is given, cut to `window` if given.

    Raises:
        SourceError: a picture is unreadable, or its ground truth has another size.
    """
    for i, path in enumerate(pictures):
        image = read_picture(path, SMALLEST)
        truth = read_picture(truths[i], SMALLEST) if truths else None
        if truth is not None and truth.shape != image.shape:
            raise SourceError(
                f"{truths[i]} is not of the size of {path}.",
                "Pictures and ground truth must match pixel by pixel.",
            )
        if window is not None:
            image, truth = cut(image, window), None if truth is None else cut(truth, window)
        yield Sample(path.name, image, truth)


def assess(
    samples: Iterable[Sample],
    contenders: Mapping[str, Restore],
    on_sample: Callable[[int], None] = lambda done: None,
) -> Assessment:
    """Restores every sample with every contender; the first contender is the reference.

    `on_sample` is told the number of samples done, after each.
    """
    reference, *others = contenders
    drifts: dict[str, list[PictureDrift]] = {name: [] for name in others}
    scores: dict[str, list[Truth]] = {name: [] for name in (INPUT, *contenders)}
    for done, sample in enumerate(samples, 1):
        results = {name: restore(sample.image) for name, restore in contenders.items()}
        for name in others:
            drifts[name].append(picture_drift(sample.name, results[reference], results[name]))
        if sample.truth is not None:
            for name, image in {INPUT: sample.image, **results}.items():
                scores[name].append(Truth(psnr(sample.truth, image), ssim(sample.truth, image)))
        on_sample(done)
    return Assessment(
        {name: Drift(tuple(rows)) for name, rows in drifts.items()},
        {name: _mean(rows) for name, rows in scores.items() if rows},
    )


def _mean(scores: Sequence[Truth]) -> Truth:
    finite = [s.psnr_db for s in scores if math.isfinite(s.psnr_db)]
    psnr_db = float(np.mean(finite)) if finite else math.inf
    return Truth(psnr_db, float(np.mean([s.ssim for s in scores])), len(scores) - len(finite))
