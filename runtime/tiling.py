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
"""Larger pictures are tiled unasked: a dynamic graph at 1080p takes a few GB as it is (tau = 3)."""
AUTO_TILE = 768
OVERLAP = 32
"""Of tiles from 128 pixels up; smaller ones share a quarter."""


def restore(backend: Backend, image: Image, tile: int | None = None, overlap: int | None = None) -> Image:
    """Restores a picture of any size with a graph of any size.

    Args:
        backend: Runs the graph.
        image: (H, W, 3) uint8 RGB.
        tile: Side of square tiles for a dynamic graph, a multiple of its stride; None tiles only what is
            larger than MAX_PIXELS. A fixed graph's tiles have its size.
        overlap: Pixels that neighbouring tiles share, over which one fades into the next; None for
            OVERLAP or a quarter of the tile, whichever is less.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UsageError: the tile is no multiple of the stride, or the overlap is not smaller than half a tile.
    """
    height, width = image.shape[:2]
    fixed, stride = backend.manifest.fixed_size, backend.manifest.stride
    whole = Size(height, width).padded_to(stride)
    if fixed is None:
        if tile is None and height * width > MAX_PIXELS:
            tile = AUTO_TILE
        if tile is None or (height <= tile and width <= tile):
            padded = pad(image, whole)
            return np.ascontiguousarray(backend.run(padded[None])[0, :height, :width])
        if tile % stride or tile < 2 * stride:
            raise UsageError(
                f"A tile of {tile} pixels does not fit.", f"Use a multiple of {stride}, from {2 * stride}."
            )
        cell = Size(min(tile, whole.height), min(tile, whole.width))
    else:
        cell = fixed
        if (height, width) == (cell.height, cell.width):
            return backend.run(image[None])[0]
    if overlap is None:
        overlap = min(OVERLAP, cell.height // 4, cell.width // 4)
    cut = [side for side, length in ((cell.height, height), (cell.width, width)) if length > side]
    if overlap < 0 or any(2 * overlap >= side for side in cut):
        raise UsageError(
            f"An overlap of {overlap} pixels does not fit tiles of {cell}.",
            "It must be less than half a tile.",
        )
    return _tiled(backend, image, cell, overlap)


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
