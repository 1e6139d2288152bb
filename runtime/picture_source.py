"""Pictures, one or a list, through OpenCV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sdps.core.errors import SourceError
from sdps.core.frame import Frame, Image
from sdps.runtime.opencv import opencv
from sdps.runtime.stream import StreamInfo


class PictureSource:
    """Reads pictures in order. Unreadable ones are named in `info.notes`, skipped and counted.

    Raises:
        SourceError: not one of them can be read.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files, self.skipped = list(files), 0
        self.notes: list[str] = []
        self.said_deep = False
        first = next((image for path in self.files if (image := self._read(path)) is not None), None)
        if first is None:
            raise SourceError(f"{files[0]} is not a readable picture.", "Is the file complete?")
        self.skipped = 0  # counted again when they are read in turn
        self.notes.clear()
        self.said_deep = False
        height, width = first.shape[:2]
        self.info = StreamInfo(
            "pictures", width, height, frames=len(files), inputs=tuple(files), notes=self.notes
        )

    def _read(self, path: Path) -> Image | None:
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        decoded = _decode(data)
        image = _to_8_bits(decoded)
        if image is not None and decoded is not None and decoded.dtype != np.uint8 and not self.said_deep:
            self.notes.append(f"{path.name} has 16 bits per channel, the network sees and gives 8")
            self.said_deep = True
        if image is None:
            self.skipped += 1
            self.notes.append(f"skipped {path}: not a readable picture")
        return image

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self.files):
            image = self._read(path)
            if image is not None:
                yield Frame(image, index, float(index), path.name)

    def close(self) -> None:
        self.files = []


def decode_picture(data: bytes) -> Image | None:
    """An encoded picture as (H, W, 3) uint8 RGB, turned as its EXIF says; None if it is none.

    Grey becomes RGB; 16 bits are rounded to 8; transparency is dropped. Pictures of floats are
    refused, because nothing says what their white is.
    """
    return _to_8_bits(_decode(data))


def _decode(data: bytes) -> np.ndarray | None:
    """(H, W, 3) BGR of the file's own depth."""
    cv2 = opencv()
    if not data:
        return None
    try:
        bgr: np.ndarray | None = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        )
    except cv2.error:
        return None
    return bgr


def _to_8_bits(bgr: np.ndarray | None) -> Image | None:
    if bgr is None or bgr.dtype not in (np.uint8, np.uint16):
        return None
    if bgr.dtype == np.uint16:
        bgr = ((bgr.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.ascontiguousarray(bgr[:, :, ::-1])
