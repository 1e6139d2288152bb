"""How much rain a model removes from the held-out photographs, in dB.

`sdps-eval MODEL` prints a table, and so does `python -m sdps.training.evaluate [MODEL ...]`; a model
is a name, an ONNX file, an engine or a checkpoint. The rain is synthetic (`rain.py`), seeded, and the
same for every model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sdps.core.frame import Image
from sdps.core.metrics import psnr
from sdps.training.foreign_rain import albumentations_rain, foreign_rain, has_albumentations
from sdps.training.photos import load_split
from sdps.training.rain import RainField, render, sample_rain

if TYPE_CHECKING:
    from rich.table import Table

LOOKS = ("heavy", "medium", "light", "drizzle", "dry", "foreign")
ALBUMENTATIONS = "albumentations"
"""A look more, where that library is installed."""
Restore = Callable[[Image], Image]


@dataclass(frozen=True)
class Score:
    """PSNR in dB on RGB, 8-bit, of the input and of the result, against the clean photograph."""

    look: str
    before: float
    after: float

    @property
    def gain(self) -> float:
        return self.after - self.before


def rainy_pairs(photos: Sequence[Image], look: str) -> Iterator[tuple[Image, Image]]:
    """Each photograph with rain of a look, and without: (H, W, 3) uint8.

    'dry' is no rain at all; 'foreign' and 'albumentations' are heavy rain of other renderers
    (foreign_rain.py).
    """
    for i, photo in enumerate(photos):
        if look == "dry":
            yield photo, photo
            continue
        if look == "foreign":
            yield foreign_rain(photo, i), photo
            continue
        if look == ALBUMENTATIONS:
            yield albumentations_rain(photo, i), photo
            continue
        clean = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
        seed = 1_000_000 + i  # far from the training seeds
        rain = sample_rain(np.random.default_rng((seed, LOOKS.index(look))), look)
        field = RainField(rain, photo.shape[0], photo.shape[1], seed)
        yield (render(clean, field) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(), photo


def looks_here() -> tuple[str, ...]:
    """LOOKS, and albumentations' where it is installed."""
    return (*LOOKS, ALBUMENTATIONS) if has_albumentations() else LOOKS


def evaluate(
    restore: Restore,
    photos: Sequence[Image],
    looks: Sequence[str] = LOOKS,
    on_score: Callable[[int], None] = lambda done: None,
) -> list[Score]:
    """Scores a model per picture and look; `on_score` is told how many scores there are."""
    scores: list[Score] = []
    for look in looks:
        for rainy, clean in rainy_pairs(photos, look):
            scores.append(Score(look, psnr(clean, rainy), psnr(clean, restore(rainy))))
            on_score(len(scores))
    return scores


def summarise(scores: Sequence[Score]) -> list[tuple[str, float, float, float, float]]:
    """Per look: mean PSNR before, after, mean gain, worst gain of a single picture."""
    rows = []
    for look in dict.fromkeys(score.look for score in scores):
        before, after, gain = np.array([(s.before, s.after, s.gain) for s in scores if s.look == look]).T
        rows.append((look, float(before.mean()), float(after.mean()), float(gain.mean()), float(gain.min())))
    return rows


def table(name: str, scores: Sequence[Score]) -> Table:
    """The rows of `summarise` for a terminal."""
    from rich.table import Table

    count = max(Counter(score.look for score in scores).values())
    result = Table(title=f"{name}: {count} held-out photographs, synthetic rain, PSNR on RGB in dB")
    for column in ("rain", "rainy", "derained", "gain", "worst gain"):
        result.add_column(column, justify="left" if column == "rain" else "right")
    for look, *values in summarise(scores):
        result.add_row(look, *("-" if not math.isfinite(v) else f"{v:.2f}" for v in values))
    return result


def main(models: Sequence[str]) -> None:
    """Prints the table for each model."""
    from rich.console import Console

    from sdps.runtime.derainer import Derainer

    photos = load_split("evaluate")
    for name in models:
        with Derainer.load(name) as derainer:
            Console().print(table(name, evaluate(derainer, photos, looks_here())))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:] or ["sdps-nano"])
