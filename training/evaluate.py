"""How much rain a model removes from the held-out photographs, in dB.

`python -m sdps.training.evaluate [MODEL ...]` prints a table; a model is a name, an ONNX file or a
checkpoint. The rain is synthetic (`rain.py`), seeded, and the same for every model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sdps.core.frame import Image
from sdps.training.foreign_rain import foreign_rain
from sdps.training.photos import load_split
from sdps.training.rain import RainField, render, sample_rain

LOOKS = ("heavy", "medium", "light", "drizzle", "dry", "foreign")
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


def psnr(a: Image, b: Image) -> float:
    """10 log10(255^2 / MSE) over all pixels and channels; infinite for equal pictures."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def rainy_pairs(photos: Sequence[Image], look: str) -> Iterator[tuple[Image, Image]]:
    """Each photograph with rain of a look, and without: (H, W, 3) uint8.

    'dry' is no rain at all; 'foreign' is heavy rain of another renderer (foreign_rain.py).
    """
    for i, photo in enumerate(photos):
        if look == "dry":
            yield photo, photo
            continue
        if look == "foreign":
            yield foreign_rain(photo, i), photo
            continue
        clean = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
        seed = 1_000_000 + i  # far from the training seeds
        rain = sample_rain(np.random.default_rng((seed, LOOKS.index(look))), look)
        field = RainField(rain, photo.shape[0], photo.shape[1], seed)
        yield (render(clean, field) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(), photo


def evaluate(restore: Restore, photos: Sequence[Image], looks: Sequence[str] = LOOKS) -> list[Score]:
    """Scores a model per picture and look."""
    return [
        Score(look, psnr(rainy, clean), psnr(restore(rainy), clean))
        for look in looks
        for rainy, clean in rainy_pairs(photos, look)
    ]


def summarise(scores: Sequence[Score]) -> list[tuple[str, float, float, float, float]]:
    """Per look: mean PSNR before, after, mean gain, worst gain of a single picture."""
    rows = []
    for look in dict.fromkeys(score.look for score in scores):
        before, after, gain = np.array([(s.before, s.after, s.gain) for s in scores if s.look == look]).T
        rows.append((look, float(before.mean()), float(after.mean()), float(gain.mean()), float(gain.min())))
    return rows


def main(models: Sequence[str]) -> None:
    """Prints the table for each model."""
    from rich.console import Console
    from rich.table import Table

    from sdps.runtime.derainer import Derainer

    photos = load_split("evaluate")
    for name in models:
        with Derainer.load(name) as derainer:
            scores = evaluate(derainer, photos)
        table = Table(title=f"{name}: {len(photos)} held-out photographs, synthetic rain, PSNR on RGB in dB")
        for column in ("rain", "rainy", "derained", "gain", "worst gain"):
            table.add_column(column, justify="left" if column == "rain" else "right")
        for look, before, after, gain, worst in summarise(scores):
            table.add_row(
                look, *("-" if not math.isfinite(v) else f"{v:.2f}" for v in (before, after, gain, worst))
            )
        Console().print(table)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:] or ["sdps-nano"])
