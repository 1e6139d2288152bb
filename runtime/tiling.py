"""The one place where pictures are padded, cut into tiles and put together again.

A dynamic graph takes multiples of its stride (SD-PSFNet's is 4), a fixed graph has one size, and
memory grows with the picture; users have pictures of any size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.spec import Size
from sdps.runtime.backends.base import Backend

MAX_PIXELS = 1920 * 1088
"""Larger pictures are tiled unasked, and smaller ones where memory is short."""
OVERLAP = 32
"""Of tiles from 128 pixels up; smaller ones share a quarter. docs/tiling.md has what it costs and brings."""


def restore(backend: Backend, image: Image, tile: int | None = None, overlap: int | None = None) -> Image:
    """Restores a picture of any size with a graph of any size.

    Args:
        backend: Runs the graph.
        image: (H, W, 3) uint8 RGB.
        tile: Side of square tiles for a dynamic graph, a multiple of its stride; None tiles only what is
            larger than MAX_PIXELS, does not fit the memory that is free (`room.tile_side`), or what the
            backend does not take. A fixed graph's tiles have its size.
        overlap: Pixels that neighbouring tiles share, over which one fades into the next; None for
            OVERLAP or a quarter of the tile, whichever is less. Half a tile of it averages uniformly,
            as the paper's protocol does: tile 128, overlap 64.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UsageError: the tile is no multiple of the stride or not among the backend's sizes, or the
            overlap is larger than half a tile.
    """
    return begin(backend, image, tile, overlap)()


def begin(
    backend: Backend, image: Image, tile: int | None = None, overlap: int | None = None
) -> Callable[[], Image]:
    """`restore` in two: starts on a picture, and returns what waits for it.

    With a backend of depth 2 or more, the next picture can be begun before this one is waited for; a
    picture in tiles is finished at once, its tiles in flight among themselves.
    """
    height, width = image.shape[:2]
    cell = _cell(backend, height, width, tile)
    if height <= cell.height and width <= cell.width:
        ticket = backend.submit(pad(image, cell)[None])
        if (height, width) == (cell.height, cell.width):
            return lambda: backend.result(ticket)[0]
        return lambda: np.ascontiguousarray(backend.result(ticket)[0, :height, :width])
    if overlap is None:
        overlap = min(OVERLAP, cell.height // 4, cell.width // 4)
    cut = [side for side, length in ((cell.height, height), (cell.width, width)) if length > side]
    if overlap < 0 or any(2 * overlap > side for side in cut):
        raise UsageError(
            f"An overlap of {overlap} pixels does not fit tiles of {cell}.",
            "It must be at most half a tile.",
        )
    restored = _tiled(backend, image, cell, overlap)
    return lambda: restored


def _cell(backend: Backend, height: int, width: int, tile: int | None) -> Size:
    """The one size that the backend is given: that of the padded picture, or of a tile."""
    manifest = backend.manifest
    if manifest.fixed_size is not None:
        return manifest.fixed_size
    stride = manifest.stride
    whole = Size(height, width).padded_to(stride)
    if tile is None:
        side = _side_that_fits(manifest, height * width)
        side = None if side is None else max(side // stride, 2) * stride
    elif tile % stride or tile < 2 * stride:
        raise UsageError(
            f"A tile of {tile} pixels does not fit.", f"Use a multiple of {stride}, from {2 * stride}."
        )
    else:
        side = tile
    wanted = whole if side is None else Size(min(side, whole.height), min(side, whole.width))
    if not backend.limits:
        return wanted
    fitting = [fit for part in backend.limits if (fit := _within(part, wanted)) is not None]
    if fitting:
        return min(fitting, key=lambda size: size.height * size.width)
    if tile is not None:
        raise UsageError(
            f"{backend.name} takes no tiles of {wanted}.",
            "It takes " + ", ".join(f"{part.min} to {part.max}" for part in backend.limits) + ".",
        )
    # Too large in one direction at least: the largest range, as much of it as the picture fills.
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


def _side_that_fits(manifest: GraphManifest, pixels: int) -> int | None:
    """The side of tiles for a picture of so many pixels, or None to run it whole."""
    if pixels <= ALWAYS_WHOLE or manifest.architecture == "identity":
        return None if pixels <= MAX_PIXELS else AUTO_TILE
    side = tile_side(manifest)
    if pixels <= min(MAX_PIXELS, side * side):
        return None
    return side


def pad(image: Image, size: Size) -> Image:
    """Reflects a picture at the bottom and right up to `size`; (H, W, 3) uint8, C-contiguous.

    The reflection of a picture smaller than the padding goes to and fro, so any size can be filled.
    """
    height, width = image.shape[:2]
    if (height, width) == (size.height, size.width):
        return np.ascontiguousarray(image)
    return np.pad(
        image, ((0, max(0, size.height - height)), (0, max(0, size.width - width)), (0, 0)), mode="reflect"
    )


def _tiled(backend: Backend, image: Image, cell: Size, overlap: int) -> Image:
    height, width = image.shape[:2]
    whole = pad(image, Size(max(height, cell.height), max(width, cell.width)))
    rows = list(_starts(whole.shape[0], cell.height, overlap))
    columns = list(_starts(whole.shape[1], cell.width, overlap))
    result = np.empty_like(whole)
    # One band of float at a time: an 8K picture in float would be 400 MB.
    carried: np.ndarray | None = None
    done = 0
    across = _weights(columns, cell.width)
    down = _weights(rows, cell.height)
    for i, top in enumerate(rows):
        band = np.zeros((cell.height, whole.shape[1], 3), np.float32)
        if carried is not None:
            band[: len(carried)] = carried
        for j, left in enumerate(columns):
            part = whole[top : top + cell.height, left : left + cell.width]
            restored = backend.run(np.ascontiguousarray(part)[None])[0]
            band[:, left : left + cell.width] += restored * (
                down[i][:, None, None] * across[j][None, :, None]
            )
        end = rows[i + 1] if i + 1 < len(rows) else whole.shape[0]
        result[done:end] = (band[: end - top] + 0.5).astype(np.uint8)
        carried, done = band[end - top :].copy(), end
    return np.ascontiguousarray(result[:height, :width])


def _starts(length: int, tile: int, overlap: int) -> Iterator[int]:
    """Offsets of the fewest tiles that cover `length` with at least `overlap`, evenly spread."""
    if length <= tile:
        yield 0
        return
    count = 1 - (length - tile) // -(tile - overlap)
    for i in range(count):
        yield round(i * (length - tile) / (count - 1))


def _weights(starts: list[int], tile: int) -> list[np.ndarray]:
    """Per tile, weights along one axis: linear ramps where tiles overlap, summing to 1 everywhere."""
    total = starts[-1] + tile
    ramps = []
    for i, start in enumerate(starts):
        weight = np.ones(tile)
        if i > 0:
            shared = starts[i - 1] + tile - start
            weight[:shared] = (np.arange(shared) + 0.5) / shared
        if i + 1 < len(starts):
            shared = start + tile - starts[i + 1]
            weight[tile - shared :] = np.minimum(
                weight[tile - shared :], 1 - (np.arange(shared) + 0.5) / shared
            )
        ramps.append(weight)
    # Where three tiles meet the ramps do not sum to 1 by themselves.
    summed = np.zeros(total)
    for start, weight in zip(starts, ramps, strict=True):
        summed[start : start + tile] += weight
    return [(w / summed[s : s + tile]).astype(np.float32) for s, w in zip(starts, ramps, strict=True)]
