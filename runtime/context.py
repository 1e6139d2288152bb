"""`--context frame`: tiles are restored with the means of their whole frame instead of their own.

SD-PSFNet's gates, attention and point-spread function follow from means over all that it sees. A first
pass over the tiles collects those means, a second one is given them (docs/tiling.md has the figures).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np

from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.means import Means
from sdps.core.spec import Size
from sdps.runtime.backends.base import Backend, TakesMeans
from sdps.runtime.grid import Grid

CONTEXTS = ("tile", "frame")
SAME_SCENE = 0.2
"""How far, in relation to their size, a frame's means may be from those of the frame before it: measured
up to 0.16 from frame to frame, and 0.26 to 0.68 where another scene begins."""


class FrameContext:
    """Restores pictures in tiles with the means of the whole picture.

    Args:
        video: Pictures follow each other. Each is then given the means of the one before, and one pass
            is enough; another scene is noticed by its means, and begins with two of its own.
    """

    def __init__(self, video: bool = False) -> None:
        self.video = video
        self._before: tuple[Backend, Size, Means] | None = None

    def restore(self, backend: Backend, grid: Grid) -> Image:
        """The restored picture of a grid; (H, W, 3) uint8. `backend` is of a graph with tile means."""
        taker = cast(TakesMeans, backend)
        given = self._means_before(backend, grid)
        if given is not None:
            found = np.zeros_like(given)
            restored = grid.join(_pass(taker, grid, given, found))
            if _distance(found, given) <= SAME_SCENE:
                self._before = (backend, grid.size, found)
                return restored
        given = np.zeros(backend.manifest.tile_means, np.float32)
        for _ in _pass(taker, grid, None, given):
            continue
        found = np.zeros_like(given)
        restored = grid.join(_pass(taker, grid, given, found))
        self._before = (backend, grid.size, found)
        return restored

    def _means_before(self, backend: Backend, grid: Grid) -> Means | None:
        """Those of the frame before, if there was one of this size and this backend restored it."""
        if not self.video or self._before is None:
            return None
        restored_by, size, means = self._before
        return means if restored_by is backend and size == grid.size else None


def choose_context(context: str | None, backend: Backend) -> str:
    """'frame' or 'tile': what was asked for, or if nothing was, 'frame' where the graph can do it.

    Raises:
        UsageError: no such context, or 'frame' of a graph that takes no means.
    """
    if context is None:
        return "frame" if backend.manifest.tile_means else "tile"
    if context not in CONTEXTS:
        raise UsageError(f"There is no context {context!r}.", f"Choose from {', '.join(CONTEXTS)}.")
    if context == "frame" and not backend.manifest.tile_means:
        raise UsageError(
            f"{backend.manifest.name} takes no means of the whole frame.",
            "Export it so: sdps-export CHECKPOINT --tile-means; or leave out --context frame.",
        )
    return context


def _pass(backend: TakesMeans, grid: Grid, given: Means | None, found: Means) -> Iterator[Image]:
    """Each tile restored; adds the picture's means, those of its tiles by their area, to `found`."""
    for part, share in zip(grid.parts(), grid.shares(), strict=True):
        restored, means = backend.run_with(part[None], given)
        found += np.float32(share) * means
        yield restored[0]


def _distance(means: Means, others: Means) -> float:
    return float(np.abs(means - others).sum() / np.abs(others).sum())
