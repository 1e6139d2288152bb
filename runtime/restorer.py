"""What the runtime restores pictures with: a `Derainer`, or whatever else can be called with a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest
from sdps.runtime.tiling import Begun

Derain = Callable[[Image], Image]
"""(H, W, 3) uint8 RGB to the same."""


class Restorer:
    """A model for one thread at a time. What is only called has these defaults for all else.

    Attributes:
        tile, overlap: How pictures are cut, where they can be; see `tiling.restore`.
        exit: Which of its networks the next picture takes, where it has several.
    """

    tile: int | None = None
    overlap: int | None = None
    exit: int = 0

    @property
    def manifest(self) -> GraphManifest | None:
        """Its graph's description, if it has a graph: only such a one can cut pictures into tiles."""
        return None

    @property
    def depth(self) -> int:
        """Pictures that may be begun before the first is waited for."""
        return 1

    def __call__(self, rgb: Any) -> Image:
        """Restores one picture."""
        raise NotImplementedError

    def begin(self, rgb: Any) -> Begun:
        """Starts on a picture and returns what waits for it, in order and at most `depth` at a time."""
        restored = self(rgb)
        return Begun(lambda: restored, done=True)

    def one_at_a_time(self) -> bool:
        """Has no more pictures in flight, to save memory; False where there never was more than one."""
        return False

    def usage(self) -> str:
        """What of it was used for how many frames; empty where there is no choice."""
        return ""

    def close(self) -> None:
        """Frees it. Calling it again does nothing."""


class Called(Restorer):
    """A function, or anything else that can be called with a picture."""

    def __init__(self, derain: Derain) -> None:
        self.derain = derain

    def __call__(self, rgb: Any) -> Image:
        return self.derain(rgb)


def restorer(derain: Derain) -> Restorer:
    """It as a `Restorer`."""
    return derain if isinstance(derain, Restorer) else Called(derain)
