"""Tiles of one picture: where they begin, what is cut out, and how they fade into each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sdps.core.frame import Image
from sdps.core.spec import Size


class Grid:
    """Overlapping tiles that cover a picture.

    Args:
        image: (H, W, 3) uint8 RGB, larger than `cell` on at least one side.
        cell: The tiles' size.
        overlap: Pixels that neighbours share at least, at most half a tile. Half a tile is the paper's
            protocol: a regular grid and a uniform average.
    """

    def __init__(self, image: Image, cell: Size, overlap: int) -> None:
        self.size, self.cell = Size(*image.shape[:2]), cell
        uniform = 2 * overlap in (cell.height, cell.width)
        self.rows = list(_starts(self.size.height, cell.height, overlap, uniform))
        self.columns = list(_starts(self.size.width, cell.width, overlap, uniform))
        self.whole = pad(image, Size(self.rows[-1] + cell.height, self.columns[-1] + cell.width))
        self.across = _weights(self.columns, cell.width, uniform)
        self.down = _weights(self.rows, cell.height, uniform)

    def parts(self) -> Iterator[Image]:
        """The tiles, row by row: (h, w, 3) uint8, C-contiguous."""
        for top in self.rows:
            for left in self.columns:
                part = self.whole[top : top + self.cell.height, left : left + self.cell.width]
                yield np.ascontiguousarray(part)

    def shares(self) -> Iterator[float]:
        """The part of the picture's area that each tile stands for, in the order of `parts`; sums to 1."""
        area = self.whole.shape[0] * self.whole.shape[1]
        for down in self.down:
            for across in self.across:
                yield float(down.sum() * across.sum()) / area

    def join(self, tiles: Iterator[Image]) -> Image:
        """The picture of restored tiles, in the order of `parts`; (H, W, 3) uint8."""
        result = np.empty_like(self.whole)
        # One band of float at a time: an 8K picture in float would be 400 MB.
        carried: Image | None = None
        done = 0
        for i, top in enumerate(self.rows):
            band = np.zeros((self.cell.height, self.whole.shape[1], 3), np.float32)
            if carried is not None:
                band[: len(carried)] = carried
            for j, left in enumerate(self.columns):
                weights = self.down[i][:, None, None] * self.across[j][None, :, None]
                band[:, left : left + self.cell.width] += next(tiles) * weights
            end = self.rows[i + 1] if i + 1 < len(self.rows) else self.whole.shape[0]
            result[done:end] = (band[: end - top] + 0.5).astype(np.uint8)
            carried, done = band[end - top :].copy(), end
        return np.ascontiguousarray(result[: self.size.height, : self.size.width])


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


def _starts(length: int, tile: int, overlap: int, regular: bool) -> Iterator[int]:
    """Offsets of the fewest tiles that cover `length` with at least `overlap`.

    Evenly spread within it, or on a regular grid from 0, whose last tile reaches beyond.
    """
    if length <= tile:
        yield 0
        return
    count = 1 - (length - tile) // -(tile - overlap)
    for i in range(count):
        yield i * (tile - overlap) if regular else round(i * (length - tile) / (count - 1))


def _weights(starts: list[int], tile: int, uniform: bool) -> list[np.ndarray]:
    """Per tile, weights along one axis that sum to 1 everywhere: linear ramps where tiles overlap, or
    equal ones."""
    total = starts[-1] + tile
    ramps = []
    for i, start in enumerate(starts):
        weight = np.ones(tile)
        if i > 0 and not uniform:
            shared = starts[i - 1] + tile - start
            weight[:shared] = (np.arange(shared) + 0.5) / shared
        if i + 1 < len(starts) and not uniform:
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
