"""Pairs of rainy and clean patches, each a pure function of (seed, step): resuming is exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sdps.core.console import need
from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.training.rain import RainField, render, sample_rain

MIX = {"any": 0.26, "heavy": 0.24, "medium": 0.14, "light": 0.20, "drizzle": 0.09, "": 0.07}
"""Share of each rain look in training; '' is a dry picture, which must come out as it went in."""


class RainyPatches:
    """Random patches of photographs with rain rendered on them.

    Args:
        photos: (H, W, 3) uint8 RGB pictures.
        patch: Side of a patch in pixels.
        batch: Patches per step.
        seed: Decides everything.

    Raises:
        UsageError: no picture is as large as a patch.
    """

    def __init__(self, photos: Sequence[Image], patch: int, batch: int, seed: int = 0) -> None:
        self.photos = [photo for photo in photos if min(photo.shape[:2]) >= patch]
        if not self.photos:
            raise UsageError(
                f"None of the {len(photos)} pictures is {patch} pixels wide and high.",
                "Use larger pictures or --patch.",
            )
        self.patch, self.batch, self.seed = patch, batch, seed
        areas = np.array([photo.size for photo in self.photos], dtype=float) ** 0.5
        self.chances = areas / areas.sum()

    def step(self, index: int) -> tuple[Tensor, Tensor]:
        """The batch of one step: rainy and clean, float32 [B,3,patch,patch] in 0..1."""
        pairs = [self.pair(index * self.batch + i) for i in range(self.batch)]
        rainy, clean = zip(*pairs, strict=True)
        return torch.stack(rainy), torch.stack(clean)

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """One rainy patch and its clean original, float32 [3,patch,patch]."""
        rng = np.random.default_rng((self.seed, index))
        clean = torch.from_numpy(self._cut(rng)).permute(2, 0, 1).float() / 255
        look = str(rng.choice(list(MIX), p=list(MIX.values())))
        if not look:
            return clean, clean
        field = RainField(sample_rain(rng, look), self.patch, self.patch, seed=int(rng.integers(2**31)))
        rainy = render(clean, field)
        # What a network sees later is 8-bit.
        return (rainy * 255).round() / 255, clean

    def _cut(self, rng: np.random.Generator) -> Image:
        photo = self.photos[int(rng.choice(len(self.photos), p=self.chances))]
        height, width = photo.shape[:2]
        # Up to twice the patch, shrunk: pictures at other scales, and finer detail.
        side = int(min(self.patch * float(rng.choice([1, 1, rng.uniform(1, 2)])), height, width))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        cut = photo[top : top + side, left : left + side]
        if side != self.patch:
            cv2 = need("cv2")
            cut = cv2.resize(cut, (self.patch, self.patch), interpolation=cv2.INTER_AREA)
        # Flips and quarter turns of the scene; the rain still falls down.
        cut = np.rot90(cut, int(rng.integers(4)))
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        if rng.random() < 0.3:  # exposure: scenes at dusk and at noon
            table = 255 * (np.arange(256) / 255) ** rng.uniform(0.6, 1.7)
            cut = table.round().astype(np.uint8)[cut]
        return np.ascontiguousarray(cut)
