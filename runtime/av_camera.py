"""A camera through FFmpeg's device inputs, which PyAV brings, where there is no OpenCV."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sdps.runtime.color import BT601_NTSC, UNSPECIFIED, ColorSpec, to_rgb

if TYPE_CHECKING:
    import av

    from sdps.runtime.camera_source import CameraMode

INPUTS = {"linux": "video4linux2,v4l2", "darwin": "avfoundation", "win32": "dshow"}
"""FFmpeg's input for cameras on each system (its documentation, 'Input Devices')."""
FORMATS = {
    "MJPG": "mjpeg",
    "H264": "h264",
    "YUYV": "yuyv422",
    "UYVY": "uyvy422",
    "NV12": "nv12",
    "YU12": "yuv420p",
    "GREY": "gray",
    "RGB3": "rgb24",
    "BGR3": "bgr24",
}
"""FFmpeg's names of the kernel's four letters."""


class AvCamera:
    """Opens a camera and has the face of `cv2.VideoCapture`, as far as `CameraSource` looks at it.

    A mode that the camera does not have is left out, part by part; drivers take the nearest size and
    rate by themselves. Tried on FFmpeg's generated pictures; untested on a camera.

    Args:
        device: The camera's number, or the path or name of its device.
        mode: What to ask of it.
        kind: Another of FFmpeg's inputs than the system's for cameras.
    """

    def __init__(self, device: int | str, mode: CameraMode | None = None, kind: str = "") -> None:
        import av

        self.kind = kind or INPUTS.get(sys.platform, INPUTS["linux"])
        self.container: Any = None
        for options in _to_ask(mode, self.kind):
            try:
                self.container = av.open(_address(device, self.kind), format=self.kind, options=options)
                break
            except (av.FFmpegError, ValueError, LookupError):  # the caller looks for the reason
                continue
        if self.container is not None:
            self.stream = self.container.streams.video[0]
            self.stream.thread_type = "SLICE"  # by frames would hold some back
            self.packets: Iterator[Any] = self.container.demux(self.stream)

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.container is not None

    def read(self) -> tuple[bool, np.ndarray | None]:
        """Waits for the next frame: whether the camera is there, and (H, W, 3) uint8 BGR.

        None for a frame that arrived damaged.
        """
        import av

        while self.container is not None:
            try:
                packet = next(self.packets)
            except BlockingIOError:  # macOS's input, which does not wait
                time.sleep(0.002)
                self.packets = self.container.demux(self.stream)
                continue
            except (StopIteration, av.FFmpegError):
                return False, None
            if not packet.size and packet.pts is None:  # PyAV's mark behind the last one
                return False, None
            if not packet.size:  # so the kernel's driver hands on what it knows is damaged
                return True, None
            try:
                frames = packet.decode()
            except av.FFmpegError:
                return True, None
            if frames:  # cameras that send H.264 begin in mid-stream
                return True, to_rgb(frames[-1], color(frames[-1]))[:, :, ::-1]
        return False, None

    def get(self, key: int) -> float:
        """Frames per second, whatever is asked for: nothing else is."""
        return float(self.stream.average_rate or self.stream.guessed_rate or 0)

    def release(self) -> None:
        container, self.container = self.container, None
        if container is not None:
            container.close()


def color(frame: av.VideoFrame) -> ColorSpec:
    """What a frame is tagged with; BT.601 if with nothing, whatever its size: USB's rule for cameras
    (UVC 1.5, 3.9.2.6, Color Matching), and what OpenCV takes."""
    spec = ColorSpec.of(frame)
    return ColorSpec(BT601_NTSC, spec.range) if int(frame.colorspace) == UNSPECIFIED else spec


def _to_ask(mode: CameraMode | None, kind: str) -> Iterator[dict[str, str]]:
    """Options to open a camera with: all that is wished, then less and less."""
    # macOS's input would ask for 29.97 frames/s, which cameras of 30 refuse.
    wished = {"framerate": "30"} if kind == INPUTS["darwin"] else {}
    if mode and mode.width and mode.height:
        wished["video_size"] = f"{mode.width}x{mode.height}"
    if mode and mode.fps:
        wished["framerate"] = f"{mode.fps:g}"
    if mode and mode.fourcc and mode.fourcc.upper() in FORMATS and kind == INPUTS["linux"]:
        wished["input_format"] = FORMATS[mode.fourcc.upper()]
    yield dict(wished)
    while wished:
        wished.popitem()
        yield dict(wished)


def _address(device: int | str, kind: str) -> str:
    """What FFmpeg calls a camera.

    Raises:
        LookupError: on Windows, where cameras have names only: there is none of that number.
    """
    if kind == INPUTS["linux"] and isinstance(device, int):
        return f"/dev/video{device}"
    if kind != INPUTS["win32"]:
        return str(device)
    if isinstance(device, str):
        return f"video={device}"
    import av

    # Older PyAVs cannot list them.
    found = av.enumerate_input_devices(kind) if hasattr(av, "enumerate_input_devices") else []
    return f"video={[camera for camera in found if 'video' in camera.media_types][device].name}"
