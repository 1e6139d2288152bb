"""The one place where pictures are made to fit a graph: padded, or cut into tiles (grid.py).

A dynamic graph takes multiples of its stride (SD-PSFNet's is 4), a fixed graph has one size, and
memory grows with the picture; users have pictures of any size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest
from sdps.core.spec import ShapeRange, Size
from sdps.runtime.backends.base import Backend
from sdps.runtime.context import FrameContext
from sdps.runtime.grid import Grid, pad
from sdps.runtime.room import tile_side

MAX_PIXELS = 1920 * 1088
"""Larger pictures are tiled unasked, and smaller ones where memory is short."""


@dataclass(frozen=True)
class Begun:
    """A picture that was begun: calling it, once, gives the restored one; `done` says that it is there."""

    wait: Callable[[], Image]
    done: bool = False

    def __call__(self) -> Image:
        return self.wait()


def restore(
    backend: Backend,
    image: Image,
    tile: int | None = None,
    overlap: int | None = None,
    context: FrameContext | None = None,
) -> Image:
    """Restores a picture of any size with a graph of any size.

    Args:
        backend: Runs the graph.
        image: (H, W, 3) uint8 RGB.
        tile: Side of square tiles for a dynamic graph, a multiple of its stride; None tiles only what is
            larger than MAX_PIXELS or than the memory that is free holds (`unasked_tile`), or than the
            backend takes. A fixed graph's tiles have its size.
        overlap: Pixels that neighbouring tiles share, over which one fades into the next; None for
            `default_overlap` or a quarter of the tile, whichever is less. Half a tile averages uniformly
            on a regular grid, as the paper's protocol does: tile 128, overlap 64.
        context: Gives tiles the means of the whole picture; None for each tile's own.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UsageError: the tile is no multiple of the stride, or the overlap is larger than half a tile.
    """
    height, width = image.shape[:2]
    cell = _cell(backend, height, width, tile)
    if height <= cell.height and width <= cell.width:
        return _uncovered(backend.run(pad(image, cell)[None]), height, width)
    return _in_tiles(backend, image, cell, overlap, context)


def begin(
    backend: Backend,
    image: Image,
    tile: int | None = None,
    overlap: int | None = None,
    context: FrameContext | None = None,
) -> Begun:
    """`restore` in two: starts on a picture, and returns what waits for it.

    With a backend of depth 2 or more the next picture can be begun before this one is waited for, and
    then more pictures a second are restored; each of them may take longer. A picture in tiles is finished
    at once, its tiles in flight among themselves.
    """
    height, width = image.shape[:2]
    cell = _cell(backend, height, width, tile)
    if height <= cell.height and width <= cell.width:
        ticket = backend.submit(pad(image, cell)[None])
        return Begun(lambda: _uncovered(backend.result(ticket), height, width))
    restored = _in_tiles(backend, image, cell, overlap, context)
    return Begun(lambda: restored, done=True)


def _in_tiles(
    backend: Backend, image: Image, cell: Size, overlap: int | None, context: FrameContext | None
) -> Image:
    height, width = image.shape[:2]
    if overlap is None:
        overlap = min(default_overlap(backend.manifest), cell.height // 4, cell.width // 4)
    cut = [side for side, length in ((cell.height, height), (cell.width, width)) if length > side]
    if overlap < 0 or any(2 * overlap > side for side in cut):
        raise UsageError(
            f"An overlap of {overlap} pixels does not fit tiles of {cell}.", "It must be at most half a tile."
        )
    grid = Grid(image, cell, overlap)
    if context is None:
        return grid.join(_in_flight(backend, grid.parts()))
    return context.restore(backend, grid)


def _uncovered(batch: Image, height: int, width: int) -> Image:
    """The one picture of a batch without its padding."""
    return np.ascontiguousarray(batch[0, :height, :width])


def unasked_tile(backend: Backend, height: int, width: int) -> int | None:
    """The side of tiles for a picture where nobody said one; that of a tile that holds it, to run it whole.
    None where the engine's sizes settle it.

    It depends on the memory that is free now, so who restores a stream asks once (`Derainer` does):
    each new size costs an engine time and memory.
    """
    manifest = backend.manifest
    if manifest.fixed_size is not None or backend.limits:  # their sizes and memory are settled
        return None
    side = tile_side(manifest) // manifest.stride * manifest.stride
    if height * width <= min(MAX_PIXELS, side * side):
        whole = Size(height, width).padded_to(manifest.stride)
        side = max(whole.height, whole.width)
    return max(side, 2 * manifest.stride)


def receptive_radius(manifest: GraphManifest) -> int:
    """How far, in pixels, the convolutions of an SD-PSFNet carry; its global means know no distance.

    The longest path: in the first stage 4 (shallow features) + 28 (encoder: 4, 8 and 16 at its three
    levels) + 49 (decoder: 28, 14, 7) = 81; in each middle stage 1 + 28 + 49; in the last one 1, three
    blocks of 2 * cabs + 1, and 1; and 3 more in each stage that halves, for where it samples.
    """
    config = manifest.config
    tau, cabs = int(config.get("tau", 3)), int(config.get("cabs", 8))
    return (81 + 3) + (78 + 3) * tau + 3 * (2 * cabs + 1) + 2


def default_overlap(manifest: GraphManifest) -> int:
    """A quarter of the receptive radius, rounded up to 16 pixels: most of the influence comes from
    there (docs/tiling.md)."""
    return -(-receptive_radius(manifest) // 64) * 16


def _cell(backend: Backend, height: int, width: int, tile: int | None) -> Size:
    """The one size that the backend is given: that of the padded picture, or of a tile."""
    manifest = backend.manifest
    if tile is None:
        tile = unasked_tile(backend, height, width)
    if manifest.fixed_size is not None:
        return manifest.fixed_size
    stride = manifest.stride
    wanted = Size(height, width).padded_to(stride)
    if tile is not None:
        if tile % stride or tile < 2 * stride:
            raise UsageError(
                f"A tile of {tile} pixels does not fit.", f"Use a multiple of {stride}, from {2 * stride}."
            )
        wanted = Size(min(tile, wanted.height), min(tile, wanted.width))
    if not backend.limits:
        return wanted
    fitting = [fit for part in backend.limits if (fit := _within(part, wanted)) is not None]
    if fitting:
        return min(fitting, key=lambda size: size.height * size.width)
    # Too large: the largest range, as much of it as the picture fills.
    part = max(backend.limits, key=lambda part: part.max.height * part.max.width)
    return Size(
        max(part.min.height, min(part.max.height, wanted.height)),
        max(part.min.width, min(part.max.width, wanted.width)),
    )


def _within(part: ShapeRange, size: Size) -> Size | None:
    """The smallest size of a range that holds `size`, or None if it is too large for it."""
    if size.height > part.max.height or size.width > part.max.width:
        return None
    return Size(max(size.height, part.min.height), max(size.width, part.min.width))


def _in_flight(backend: Backend, parts: Iterable[Image]) -> Iterator[Image]:
    """Each part restored, in order, with as many in flight as the backend holds."""
    waiting: deque[Any] = deque()
    for part in parts:
        if len(waiting) == backend.depth:
            yield backend.result(waiting.popleft())[0]
        waiting.append(backend.submit(part[None]))
    while waiting:
        yield backend.result(waiting.popleft())[0]
