"""Y4M on standard output: raw pictures for the next program in a pipe."""

from __future__ import annotations

import select
from typing import Any, BinaryIO

from sdps.core.errors import SinkError
from sdps.core.frame import Frame
from sdps.runtime.color import FULL, to_yuv
from sdps.runtime.compare import compose, sweep
from sdps.runtime.fit import fit
from sdps.runtime.stream import StreamInfo


class Y4mSink:
    """Writes YUV4MPEG2, one constant rate: 4:2:0, or 4:4:4 where a side's length is odd.

    A reader that goes away ends the run, as it does for every program in a pipe.
    """

    place = "standard output"

    def __init__(self, out: BinaryIO, info: StreamInfo, compare: str = "off") -> None:
        # Without Python's buffer, which would be emptied at the end of the process: where the reader hangs,
        # that never came.
        self.out: Any = getattr(out, "raw", out)
        self.info, self.compare = info, compare
        self.size: tuple[int, int] | None = None
        self.kind = "yuv420p"

    def write(self, rainy: Frame, clean: Frame) -> bool:
        if clean.stale:
            return True
        image = compose(self.compare, rainy.image, clean.image, sweep(clean.time))
        try:
            if self.size is None:
                self._start(image.shape[0], image.shape[1])
            assert self.size is not None
            frame = to_yuv(fit(image, *self.size), self.kind, self.info.color)
            self._put(b"FRAME\n" + frame.to_ndarray().tobytes())
        except BrokenPipeError:
            return False
        except OSError as error:
            raise SinkError(
                f"Standard output cannot be written: {error.strerror}.", "Is there room where it goes?"
            ) from None
        return True

    def _start(self, height: int, width: int) -> None:
        self.size = (height, width)
        self.kind = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        chroma = "444" if self.kind == "yuv444p" else "420mpeg2"
        rate, aspect = self.info.fps, self.info.aspect
        spread = "FULL" if self.info.color.range == FULL else "LIMITED"
        self._put(
            f"YUV4MPEG2 W{width} H{height} F{rate.numerator}:{rate.denominator} Ip"
            f" A{aspect.numerator}:{aspect.denominator} C{chroma} XCOLORRANGE={spread}\n".encode()
        )

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            taken = self.out.write(rest)
            if taken is None:  # a pipe that does not wait, and is full
                select.select([], [self.out], [])
            rest = rest[taken or 0 :]

    def idle(self) -> bool:
        return True

    def close(self, complete: bool = True) -> None:
        """Every frame left when it was written."""

    def discard(self) -> None:
        """What is in the pipe cannot be taken back."""
