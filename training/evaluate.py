"""The held-out photographs with synthetic rain: seeded, so the same for every model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from sdps.core.frame import Image
from sdps.training.foreign_rain import albumentations_rain, foreign_rain, has_albumentations
from sdps.training.photos import load_split, photo_list
from sdps.training.rain import RainField, render, sample_rain
from sdps.training.recording import jpeg

LOOKS = ("heavy", "medium", "light", "drizzle", "dry", "foreign")
ALBUMENTATIONS = "albumentations"
"""A look more, where that library is installed."""
SMALL = 512
"""Pixels of the longer side of the photographs of some sets more."""
SMALL_LOOKS = tuple(f"{look}@{SMALL}" for look in ("light", "drizzle", "dry"))
"""Shrunk, texture is as fine as drops are: spines of a hedgehog go for drizzle. Where there is little rain it
shows in decibels."""
QUALITY = 75
"""Of the JPEG of some sets more; about what H.264 leaves at its usual rates."""
COMPRESSED = "+jpeg"
COMPRESSED_LOOKS = tuple(look + COMPRESSED for look in ("heavy", "light"))
"""As cameras record: streaks are smeared over blocks. Compared with the clean picture as compressed."""


def rainy_pairs(photos: Sequence[Image], look: str) -> Iterator[tuple[Image, Image]]:
    """Each photograph with rain of a look, and without: (H, W, 3) uint8."""
    for i, photo in enumerate(photos):
        yield rained(photo, look, i), photo


def rained(photo: Image, look: str, number: int) -> Image:
    """A photograph with rain of a look, (H, W, 3) uint8; `number` decides which rain of that look.

    'dry' is no rain at all; 'foreign' and 'albumentations' are heavy rain of other renderers
    (foreign_rain.py).
    """
    if look == "dry":
        return photo
    if look == "foreign":
        return foreign_rain(photo, number)
    if look == ALBUMENTATIONS:
        return albumentations_rain(photo, number)
    clean = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
    seed = 1_000_000 + number  # far from the training seeds
    rain = sample_rain(np.random.default_rng((seed, LOOKS.index(look))), look)
    field = RainField(rain, photo.shape[0], photo.shape[1], seed)
    return (render(clean, field) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def looks_here() -> tuple[str, ...]:
    """LOOKS, SMALL_LOOKS and COMPRESSED_LOOKS, and albumentations' where it is installed."""
    return (*LOOKS, *((ALBUMENTATIONS,) if has_albumentations() else ()), *SMALL_LOOKS, *COMPRESSED_LOOKS)


def held_out(look: str, limit: int = 0) -> Iterator[tuple[str, Image, Image]]:
    """Name, rainy and clean picture of the photographs of split `evaluate`; `limit` takes the first ones.

    `look` is one of `looks_here`: behind an @ stands the size that they are shrunk to; with COMPRESSED at
    its end both pictures have been through JPEG.
    """
    names = [photo.path for photo in photo_list("evaluate")]
    rain, _, size = look.removesuffix(COMPRESSED).partition("@")
    photos = load_split("evaluate", int(size) if size else 960)[: limit or None]
    for name, (rainy, clean) in zip(names, rainy_pairs(photos, rain), strict=False):
        if look.endswith(COMPRESSED):
            rainy, clean = jpeg(rainy, QUALITY), jpeg(clean, QUALITY)
        yield name.rsplit("/", 1)[-1], rainy, clean
