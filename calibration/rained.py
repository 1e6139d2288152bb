"""Photographs with rendered rain, to calibrate on: those that sdps fetches, or one's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sdps.calibration.entry import Entry, Picture, UnreadableError
from sdps.core.errors import SdpsError

LOOKS = ("heavy", "medium", "light", "drizzle")


def fetched_with_rain() -> list[Entry]:
    """The photographs of the split 'calibrate' in every look; they are few and stay in memory."""
    from sdps.training.evaluate import rainy_pairs
    from sdps.training.photos import load_split, photo_list

    photos = load_split("calibrate")
    names = [photo.path for photo in photo_list("calibrate")]
    entries = []
    for look in LOOKS:
        for name, (rainy, clean) in zip(names, rainy_pairs(photos, look), strict=True):
            picture = Picture(rainy, clean, hashlib.sha256(clean.tobytes()).hexdigest())
            entries.append(Entry(name, look, lambda picture=picture: picture))  # type: ignore[misc]
    return entries


def with_rain(folder: Path, files: Sequence[Path]) -> list[Entry]:
    """Clean photographs in every look, shrunk to 960 pixels as those that sdps trains on are.

    Each reading renders anew, and the same: a hundred of them need no more memory than one.

    Args:
        folder: What the names are relative to.
        files: The photographs.
    """
    return [
        Entry(str(path.relative_to(folder)), look, partial(_read, path, look, number))
        for number, path in enumerate(files)
        for look in LOOKS
    ]


def _read(path: Path, look: str, number: int) -> Picture:
    from sdps.training.evaluate import rained
    from sdps.training.photos import load_photo

    try:
        clean = load_photo(path)
    except SdpsError:
        raise UnreadableError(path) from None
    return Picture(rained(clean, look, number), clean, hashlib.sha256(clean.tobytes()).hexdigest())
