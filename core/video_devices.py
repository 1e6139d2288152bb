"""V4L2 cameras, asked through the kernel's own calls: what they are and which pictures they give.

Structures and numbers are those of <linux/videodev2.h>. Only questions are asked: a camera that
another program uses goes on undisturbed.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CAPABILITY, FORMAT = struct.Struct("16s32s32sIII12x"), struct.Struct("III32sII12x")
SIZE, INTERVAL = struct.Struct("III6I8x"), struct.Struct("IIIII6I8x")
READ, WRITE = 2, 1
VIDEO_CAPTURE, VIDEO_CAPTURE_MPLANE, DEVICE_CAPS = 0x1, 0x1000, 0x80000000
BUFFER_CAPTURE, BUFFER_CAPTURE_MPLANE = 1, 9
DISCRETE = 1
MOST = 64
"""Of formats, sizes and rates; a driver that never says 'no more' would be asked for ever."""

Ask = Callable[[int, bytes], bytes]
"""Puts one request with its argument to a device and returns the argument as the kernel left it;
raises OSError, of which EINVAL means 'no more'."""


@dataclass(frozen=True)
class CameraSize:
    """A picture size in pixels, the rates it comes at in frames per second, highest first.

    `up_to`: any size up to this one comes.
    """

    width: int
    height: int
    fps: list[float] = field(default_factory=list)
    up_to: bool = False


@dataclass(frozen=True)
class CameraFormat:
    """A pixel format: its FOURCC, what the driver calls it, and its sizes."""

    fourcc: str
    description: str
    sizes: list[CameraSize]


@dataclass(frozen=True)
class Camera:
    """A camera, or why the device is none that this user can read (`error`)."""

    device: str
    name: str = ""
    driver: str = ""
    formats: list[CameraFormat] = field(default_factory=list)
    error: str = ""
    refused: bool = False

    @property
    def csi(self) -> bool:
        """A sensor on a Jetson's CSI connector: raw Bayer pictures, which only its ISP makes visible."""
        return "tegra" in self.driver


def request_number(direction: int, number: int, size: int) -> int:
    """The _IOC macro of <asm-generic/ioctl.h> for the type 'V'."""
    return direction << 30 | size << 16 | ord("V") << 8 | number


QUERYCAP = request_number(READ, 0, CAPABILITY.size)
ENUM_FMT = request_number(READ | WRITE, 2, FORMAT.size)
ENUM_FRAMESIZES = request_number(READ | WRITE, 74, SIZE.size)
ENUM_FRAMEINTERVALS = request_number(READ | WRITE, 75, INTERVAL.size)


def cameras(root: Path = Path("/")) -> list[Camera]:
    """All /dev/video* that are cameras, and those that could be but are not this user's to open.

    Nodes for metadata, encoders and the like are left out.
    """
    found = []
    paths = (path for path in (root / "dev").glob("video*") if path.name[5:].isdigit())
    for path in sorted(paths, key=lambda path: int(path.name[5:])):
        if (camera := _open(path)) is not None:
            found.append(camera)
    return found


def _open(path: Path) -> Camera | None:
    if sys.platform != "linux":
        return None
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        refused = error.errno in (errno.EACCES, errno.EPERM)
        return Camera(str(path), error=str(error.strerror), refused=refused)

    def ask(request: int, argument: bytes) -> bytes:
        return fcntl.ioctl(descriptor, request, argument)

    try:
        return query(str(path), ask)
    except OSError as error:
        return Camera(str(path), error=f"it is no V4L2 device ({error.strerror})")
    finally:
        os.close(descriptor)


def query(device: str, ask: Ask) -> Camera | None:
    """What a device says of itself; None if it takes no pictures.

    Raises:
        OSError: it does not speak V4L2.
    """
    answer = ask(QUERYCAP, bytes(CAPABILITY.size))
    driver, card, _, _, capabilities, own = CAPABILITY.unpack(answer)
    # A device with several nodes says in the first what all can do, in the second what this one can.
    can = own if capabilities & DEVICE_CAPS else capabilities
    if not can & (VIDEO_CAPTURE | VIDEO_CAPTURE_MPLANE):
        return None
    kind = BUFFER_CAPTURE if can & VIDEO_CAPTURE else BUFFER_CAPTURE_MPLANE
    return Camera(device, _string(card), _string(driver), list(_formats(ask, kind)))


def _formats(ask: Ask, kind: int) -> Iterator[CameraFormat]:
    for answer in _all(ask, ENUM_FMT, lambda index: FORMAT.pack(index, kind, 0, b"", 0, 0)):
        _, _, _, description, pixels, _ = FORMAT.unpack(answer)
        fourcc = struct.pack("<I", pixels & 0x7FFFFFFF).decode("ascii", "replace").strip()
        yield CameraFormat(fourcc, _string(description), list(_sizes(ask, pixels)))


def _sizes(ask: Ask, pixels: int) -> Iterator[CameraSize]:
    for answer in _all(ask, ENUM_FRAMESIZES, lambda index: SIZE.pack(index, pixels, *[0] * 7)):
        _, _, kind, *numbers = SIZE.unpack(answer)
        if kind == DISCRETE:
            width, height = numbers[:2]
            yield CameraSize(width, height, sorted(_rates(ask, pixels, width, height), reverse=True))
        else:  # minimum, maximum and step of the width, then of the height
            width, height = numbers[1], numbers[4]
            rates = sorted(_rates(ask, pixels, width, height), reverse=True)
            yield CameraSize(width, height, rates, up_to=True)
            return


def _rates(ask: Ask, pixels: int, width: int, height: int) -> Iterator[float]:
    blank = [0] * 7
    pack = INTERVAL.pack
    for answer in _all(ask, ENUM_FRAMEINTERVALS, lambda index: pack(index, pixels, width, height, *blank)):
        _, _, _, _, kind, *numbers = INTERVAL.unpack(answer)
        seconds, parts = numbers[:2]  # for a range its shortest interval, which comes first
        if seconds:
            yield round(parts / seconds, 2)
        if kind != DISCRETE:
            return


def _all(ask: Ask, request: int, argument: Callable[[int], bytes]) -> Iterator[bytes]:
    for index in range(MOST):
        try:
            yield ask(request, argument(index))
        except OSError:  # EINVAL after the last; ENOTTY where a driver has no such list
            return


def _string(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()
