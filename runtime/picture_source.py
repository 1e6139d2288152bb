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
        first = next((image for path in self.files if (image := self._read(path)) is not None), None)
        if first is None:
            raise SourceError(f"{files[0]} is not a readable picture.", "Is the file complete?")
        self.skipped = 0  # counted again when they are read in turn
        self.notes.clear()
        height, width = first.shape[:2]
        self.info = StreamInfo(
            "pictures", width, height, frames=len(files), inputs=tuple(files), notes=self.notes
        )

    def _read(self, path: Path) -> Image | None:
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        image = decode_picture(data)
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

    Grey becomes RGB; of 16 bits the upper 8 are kept; transparency is dropped.
    """
    cv2 = opencv()
    if not data:
        return None
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if bgr is None else np.ascontiguousarray(bgr[:, :, ::-1])
