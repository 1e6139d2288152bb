"""How a film's pictures are turned and mirrored before they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sdps.core.frame import Image

if TYPE_CHECKING:
    import av

Matrix = tuple[int, int, int, int]
UPRIGHT: Matrix = (1, 0, 0, 1)


def display_matrix(frame: av.VideoFrame) -> Matrix:
    """The signs of a, b, c, d of a decoded frame's display matrix, the smaller pair as zeros.

    A point (x, y) of the coded picture is shown at (a x + c y, b x + d y) (ISO 14496-12, 8.3.2.3;
    libavutil/display.h). Phones and cameras turn by quarters and mirror; what lies between is taken
    for the nearest quarter.
    """
    from av.sidedata.sidedata import Type

    data: Any = frame.side_data.get(cast(Any, Type.DISPLAYMATRIX))  # the stubs know of names only
    if data is None:
        return UPRIGHT
    values = np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2].astype(np.int64)
    (a, b), (c, d) = np.sign(values).tolist()
    straight = abs(values[0, 0]) + abs(values[1, 1]) >= abs(values[0, 1]) + abs(values[1, 0])
    return (a or 1, 0, 0, d or 1) if straight else (0, b or 1, c or 1, 0)


def lies(matrix: Matrix) -> bool:
    """Whether width and height are exchanged."""
    return matrix[0] == 0


def upright(image: Image, matrix: Matrix) -> Image:
    """The picture as it is to be shown: (H, W, 3) or (W, H, 3) uint8, C-contiguous."""
    if matrix == UPRIGHT:
        return image
    across, down = matrix[0] or matrix[2], matrix[3] or matrix[1]
    turned = image.swapaxes(0, 1) if lies(matrix) else image
    return np.ascontiguousarray(turned[::down, ::across])
