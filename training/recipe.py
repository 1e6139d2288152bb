"""What a training run depends on, beside the network and the pictures; and the recipes that are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sdps.core.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """A schedule. The defaults are the bundled models'.

    Attributes:
        steps: Length of the schedule.
        phases: (share of the schedule at which it begins, side of a patch in pixels, patches per
            step). Larger patches at the end, because the network's global means must learn to rest
            on whole frames (Restormer trains so, too).
        rate, final_rate: Learning rate after warm-up and at the end (cosine between).
        warmup: Steps of linear warm-up.
        edge, frequency, decibels: Weights of the loss terms (losses.py).
        taught: Where there is a teacher: the share of the loss that compares with what it makes of the
            rainy picture; the rest compares with the clean one.
        drift: Weight of what the result loses to the teacher, where there is one (losses.py).
        int8_share: In fine-tuning for INT8: the least part of the multiply-accumulates that is INT8.
        normalised: Whether the loss compares pictures in the network's normalised space, as the
            authors' loop does, and not in RGB 0..1. It is then about four times as large, which
            counts against Charbonnier's epsilon and the gradient's bound.
        clip: Bound of the gradient norm.
        average: Decay of the moving average of the weights, which is what is kept; 0 keeps the
            weights themselves.
        seed: Of the weights, the patches and the rain.
    """

    steps: int = 12_000
    phases: tuple[tuple[float, int, int], ...] = ((0.0, 96, 8), (0.8, 160, 3))
    rate: float = 2e-3
    final_rate: float = 1e-6
    warmup: int = 300
    edge: float = 0.05
    frequency: float = 0.0
    decibels: float = 0.01
    taught: float = 1.0
    drift: float = 0.0
    int8_share: float = 0.0
    normalised: bool = False
    clip: float = 2.0
    average: float = 0.999
    seed: int = 0

    def learning_rate(self, position: float) -> float:
        """At a position in the schedule, 0 to `steps`."""
        if position < self.warmup:
            return self.rate * (position + 1) / self.warmup
        progress = min(1.0, (position - self.warmup) / max(1, self.steps - self.warmup))
        return self.final_rate + 0.5 * (self.rate - self.final_rate) * (1 + math.cos(math.pi * progress))

    def phase(self, position: float) -> int:
        """Index of the phase that a position lies in."""
        return max(
            i for i, (share, _, _) in enumerate(self.phases) if math.floor(share * self.steps) <= position
        )

    def resized(self, patch: int | None, batch: int | None) -> Recipe:
        """With patches of one size and number, instead of the phases' own."""
        if patch is None and batch is None:
            return self
        phases = tuple((share, patch or own, batch or number) for share, own, number in self.phases)
        return replace(self, phases=phases)


PAPER_EPOCHS = 2000
PAPER_WARMUP_EPOCHS = 3
PAPER = Recipe(
    phases=((0.0, 128, 2),),
    rate=1e-4,
    final_rate=1e-6,
    edge=0.05,
    frequency=0.01,
    decibels=0.0,
    normalised=True,
    clip=2.0,
    average=0.0,
)
"""The paper's recipe and the authors' loop, but for its length, which is counted in epochs."""

BUNDLED = Recipe()
"""That of the bundled models: larger patches at the end, the decibel loss, a moving average."""

QAT = replace(BUNDLED, steps=1200, rate=1e-4, warmup=30, average=0.99, drift=1.0, int8_share=0.9)
"""For trained weights that learn to bear INT8: short, and slow enough to keep what they know."""


def in_epochs(recipe: Recipe, epochs: int, pictures: int) -> Recipe:
    """A recipe of so many epochs; an epoch takes one patch of every picture.

    Raises:
        UsageError: no picture, or no epoch.
    """
    if epochs < 1 or pictures < 1:
        raise UsageError(f"{epochs} epochs of {pictures} pictures are no training.")
    per_epoch = max(1, pictures // recipe.phases[0][2])
    return replace(recipe, steps=epochs * per_epoch, warmup=min(PAPER_WARMUP_EPOCHS, epochs) * per_epoch)


@dataclass(frozen=True)
class Clock:
    """Where in the schedule a step is. Without a time budget, step and position are the same.

    With one the schedule is travelled faster or slower, so that it ends when the time does; the
    position stays continuous when the pace changes.
    """

    step: int = 0
    position: float = 0.0
    pace: float = 1.0

    def at(self, step: int) -> float:
        return self.position + (step - self.step) * self.pace

    def fitted(self, step: int, steps: int, left: float) -> Clock:
        """From `step` on at the pace that reaches `steps` in `left` more steps."""
        position = self.at(step)
        return Clock(step, position, max(0.0, steps - position) / max(1.0, left))
