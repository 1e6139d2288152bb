"""One picture that may calibrate, read when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdps.core.errors import UsageError
from sdps.core.frame import Image

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
"""How files are called that are taken for pictures."""


@dataclass(frozen=True)
class Picture:
    """A whole picture: (H, W, 3) uint8 RGB, its ground truth or None, and the hash of its source."""

    rainy: Image
    clean: Image | None
    sha256: str


class UnequalError(UsageError):
    """A picture and its ground truth differ in size."""


class UnreadableError(UsageError):
    """A file is no picture."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is not a readable picture.", "Take it out of the folder.")
        self.path = path


@dataclass(frozen=True)
class Entry:
    """One picture of an origin.

    Attributes:
        name: Equal for the same scene in several rains.
        group: What is averaged together, e.g. a look of rain.
        read: Reads it, each time anew; raises `UnreadableError`.
    """

    name: str
    group: str
    read: Callable[[], Picture]
