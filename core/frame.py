"""A frame: the one thing that travels through the runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sdps.core.errors import FrameError

Image = npt.NDArray[np.uint8]
"""(H, W, 3) uint8, RGB, C-contiguous."""


@dataclass(frozen=True)
class Frame:
    """One picture of a stream.

    Attributes:
        image: (H, W, 3) uint8 RGB. Owned by whoever holds the frame; nobody writes into it.
        index: Position in the source, from 0. Gaps mean dropped frames.
        time: Presentation time in seconds from the start of the source.
        duration: Seconds that it is shown, as far as the source knows; else 0.
        name: File name of a picture, empty for video.
        arrived: `time.monotonic()` when it was decoded; 0 where nobody measures. Latency begins here.
        stale: The source fell silent, and this is its last good picture once more, marked as such.
        profile: The ICC profile of a picture file's colours; empty where it has none.
        exif: What a picture file's EXIF says but for its orientation; empty where it has none.
    """

    image: Image
    index: int = 0
    time: float = 0.0
    name: str = ""
    arrived: float = 0.0
    stale: bool = False
    duration: float = 0.0
    profile: bytes = b""
    exif: bytes = b""

    def with_image(self, image: Image) -> Frame:
        """The same moment with another picture."""
        return replace(self, image=image)


def check_image(image: Any) -> Image:
    """Returns `image` as a C-contiguous RGB picture, or says what is wrong with it.

    Raises:
        FrameError: not a NumPy array of shape (H, W, 3), dtype uint8 and at least 1x1.
    """
    if not isinstance(image, np.ndarray):
        raise FrameError(
            f"Expected a NumPy array, got {type(image).__name__}.",
            "Pass (H, W, 3) uint8 RGB; from PIL: numpy.asarray(image.convert('RGB')).",
        )
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise FrameError(
            f"Expected shape (H, W, 3), got {image.shape}.",
            "Pass one RGB picture, not a batch or a grey one.",
        )
    if image.dtype != np.uint8:
        raise FrameError(
            f"Expected dtype uint8, got {image.dtype}.",
            "Scale the picture to 0..255 and convert it with .astype(numpy.uint8).",
        )
    return np.ascontiguousarray(image)
