"""Cameras through OpenCV."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from sdps.core.errors import SourceError
from sdps.core.frame import Frame
from sdps.runtime.color import ColorSpec
from sdps.runtime.opencv import opencv
from sdps.runtime.stream import StreamInfo


class CameraSource:
    """Reads a camera as fast as it delivers; the pipeline keeps only the newest frame.

    Args:
        index: The camera's number.
        capture: An opened `cv2.VideoCapture` to read instead, a GStreamer pipeline for example.

    Raises:
        SourceError: there is no such camera, it is in use, or delivers nothing.
    """

    def __init__(self, index: int, capture: Any = None) -> None:
        cv2 = opencv()
        self.skipped = 0
        self.capture = capture or cv2.VideoCapture(index)
        ok, bgr = self.capture.read() if self.capture.isOpened() else (False, None)
        if not ok or bgr is None:
            self.capture.release()
            device = f"/dev/video{index}"
            if os.name == "posix" and os.path.exists(device) and not os.access(device, os.R_OK):  # noqa: PTH110
                raise SourceError(
                    f"Camera {index} is not this user's to open.",
                    "Join the group: sudo usermod -aG video $USER",
                )
            raise SourceError(
                f"Camera {index} cannot be opened.", "Is it connected, and not in use by another program?"
            )
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        fps = Fraction(rate).limit_denominator(1001) if 1 <= rate <= 1000 else Fraction(30)
        height, width = bgr.shape[:2]
        self.info = StreamInfo("camera", width, height, fps=fps, live=True, color=ColorSpec())
        self.running = True

    def __iter__(self) -> Iterator[Frame]:
        begin, index = time.monotonic(), 0
        while self.running:
            ok, bgr = self.capture.read()
            if not ok:
                if self.running:
                    raise SourceError("The camera stopped delivering.", "Is it still connected?")
                return
            yield Frame(np.ascontiguousarray(bgr[:, :, ::-1]), index, time.monotonic() - begin)
            index += 1

    def close(self) -> None:
        self.running = False
        self.capture.release()
