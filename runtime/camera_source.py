"""Cameras: through OpenCV where it is installed, else through PyAV."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from sdps.core.errors import MissingDependency, SourceError, UsageError
from sdps.core.frame import Frame
from sdps.runtime.av_camera import AvCamera
from sdps.runtime.color import ColorSpec
from sdps.runtime.opencv import opencv
from sdps.runtime.stream import SourceRefused, StreamInfo

FPS = 5
"""`cv2.CAP_PROP_FPS`, for where there is no OpenCV."""


@dataclass(frozen=True)
class CameraMode:
    """What to ask of a camera; None leaves it as it is. It gives the nearest that it can.

    Attributes:
        width, height: Pixels.
        fps: Frames per second.
        fourcc: Four letters of a pixel format, e.g. 'MJPG', with which USB cameras reach full rate.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    fourcc: str | None = None

    def __post_init__(self) -> None:
        if self.fourcc is not None and (len(self.fourcc) != 4 or not self.fourcc.isascii()):
            raise UsageError(f"{self.fourcc!r} is no FOURCC.", "It has four letters, e.g. MJPG or YUYV.")


class CameraSource:
    """Reads a camera as fast as it delivers; the pipeline keeps only the newest frame.

    Args:
        device: The camera's number, or the path of its device.
        capture: An opened `cv2.VideoCapture` to read instead, a GStreamer pipeline for example, or
            what has its `isOpened`, `read`, `get` and `release`.
        mode: What to ask of the device.

    Raises:
        SourceError: there is no such camera, it is in use, or delivers nothing.
    """

    def __init__(
        self, device: int | str, capture: Any = None, mode: CameraMode | None = None, name: str = ""
    ) -> None:
        self.skipped = 0
        self.name = name or f"Camera {device}"
        self.capture = capture or _open(device, mode)
        ok, bgr = self.capture.read() if self.capture.isOpened() else (False, None)
        if not ok or bgr is None:
            self.capture.release()
            raise _why_not(device, self.name)
        rate = self.capture.get(FPS)
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
                    raise SourceError(f"{self.name} stopped delivering.", "Is it still connected?")
                return
            # Some drivers deliver empty frames while they find their feet.
            if bgr is None or bgr.size == 0 or bgr.ndim != 3:
                self.skipped += 1
                continue
            yield Frame(np.ascontiguousarray(bgr[:, :, 2::-1]), index, time.monotonic() - begin)
            index += 1

    def close(self) -> None:
        self.running = False
        self.capture.release()


def csi_capture(sensor: int, mode: CameraMode) -> Any:
    """Opens a Jetson's CSI camera: NVIDIA's nvarguscamerasrc through OpenCV built with GStreamer.

    Untested: no Jetson was at hand. The elements are those of NVIDIA's Accelerated GStreamer guide.
    `drop=true max-buffers=1` keeps only the newest frame.

    Raises:
        MissingDependency: there is no OpenCV at all.
    """
    try:
        cv2 = opencv()
    except MissingDependency as error:
        raise MissingDependency(
            f"csi:// goes through JetPack's OpenCV; {error.message}",
            "sudo apt install libopencv-python; environments need --system-site-packages",
        ) from None
    wanted = "video/x-raw(memory:NVMM)"
    if mode.width and mode.height:
        wanted += f",width={mode.width},height={mode.height}"
    if mode.fps:
        rate = Fraction(mode.fps).limit_denominator(1001)
        wanted += f",framerate={rate.numerator}/{rate.denominator}"
    pipeline = (
        f"nvarguscamerasrc sensor-id={sensor} ! {wanted} ! nvvidconv ! video/x-raw,format=BGRx"
        " ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )
    return cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)


def _open(device: int | str, mode: CameraMode | None) -> Any:
    """OpenCV first: it has long been what cameras are read with, and JetPack brings its own."""
    try:
        cv2 = opencv()
    except MissingDependency:
        return AvCamera(device, mode)
    capture = cv2.VideoCapture(device)
    if capture.isOpened() and mode is not None:
        _ask(cv2, capture, mode)
    return capture


def _ask(cv2: Any, capture: Any, mode: CameraMode) -> None:
    if mode.fourcc:  # first, because the sizes on offer depend on it
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*mode.fourcc))
    for key, value in (
        (cv2.CAP_PROP_FRAME_WIDTH, mode.width),
        (cv2.CAP_PROP_FRAME_HEIGHT, mode.height),
        (cv2.CAP_PROP_FPS, mode.fps),
    ):
        if value:
            capture.set(key, value)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)


def _why_not(device: int | str, name: str) -> SourceError:
    path = f"/dev/video{device}" if isinstance(device, int) else device
    if os.name == "posix" and os.path.exists(path) and not os.access(path, os.R_OK):  # noqa: PTH110
        return SourceRefused(
            f"{name} is not this user's to open.", "Join the group: sudo usermod -aG video $USER"
        )
    return SourceError(f"{name} cannot be opened.", "Is it connected, and not in use by another program?")
