"""How an engine's means travel: in rows below the picture, so that frames in flight know nothing of them.

The buffers of `InFlight` hold one uint8 batch each. For a graph with tile means the batch has more rows
than the picture: first enough bytes that the means begin where TensorRT wants a tensor, then the means.
"""

from __future__ import annotations

import numpy as np

from sdps.core.frame import Image
from sdps.core.means import Means, means_input

ALIGNMENT = 256
"""Bytes to a multiple of which CUDA aligns its buffers, and TensorRT wants its tensors' addresses."""


class MeansRows:
    """Packs `count` means below pictures; nothing where `count` is 0."""

    def __init__(self, count: int) -> None:
        self.count = count

    def offset(self, picture: tuple[int, ...]) -> int:
        """Where, in bytes from the batch's address, the means of a picture [1,H,W,3] begin."""
        return -(-int(np.prod(picture)) // ALIGNMENT) * ALIGNMENT

    def picture(self, batch: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the picture in a packed batch of a shape."""
        count, height, *rest = batch
        return (count, height - self._rows(rest[0]), *rest)

    def pack(self, picture: Image, means: Means | None) -> Image:
        """A picture [1,H,W,3] and the means that it is given, as one batch [1,H+rows,W,3].

        Args:
            picture: uint8; returned as it is where there are no means.
            means: (count,) float32; None to let the graph take the picture's own.
        """
        if not self.count:
            return picture
        one, height, width, channels = picture.shape
        batch = np.empty((one, height + self._rows(width), width, channels), np.uint8)
        batch[:, :height] = picture
        fed = means_input(self.count, means).view(np.uint8).reshape(-1)
        begin = self.offset(picture.shape)
        batch.reshape(-1)[begin : begin + len(fed)] = fed
        return batch

    def unpack(self, batch: Image) -> tuple[Image, Means]:
        """The picture in what an engine wrote, and the means that it told, (count,) float32; copies."""
        if not self.count:
            return batch, np.empty(0, np.float32)
        shape = self.picture(batch.shape)
        begin = self.offset(shape)
        told = batch.reshape(-1)[begin : begin + 4 * self.count]
        return batch[:, : shape[1]].copy(), told.copy().view(np.float32)

    def _rows(self, width: int) -> int:
        return -(-(ALIGNMENT + 4 * (self.count + 1)) // (3 * width)) if self.count else 0
