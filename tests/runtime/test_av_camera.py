"""Cameras without OpenCV. No camera is at hand: FFmpeg's generated pictures come in by the same way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sdps.core.errors import SourceError
from sdps.core.frame import Image
from sdps.core.samples import PICTURE, sample
from sdps.runtime.av_camera import AvCamera, _to_ask, color
from sdps.runtime.camera_source import CameraMode, CameraSource
from sdps.runtime.color import BT601_NTSC, FULL, LIMITED, ColorSpec

MakePicture = Callable[[int, int], Image]

WITHOUT_OPENCV = "import sys; sys.modules['cv2'] = None; from sdps.runtime.cli import main; main()"


def generated(what: str) -> AvCamera:
    return AvCamera(what, kind="lavfi")


def test_a_cameras_frames_come_in_their_colours_until_it_stops() -> None:
    source = CameraSource(0, generated("color=c=red:size=64x48:rate=25:duration=0.4"))
    assert (source.info.width, source.info.height, source.info.fps, source.info.live) == (64, 48, 25, True)
    frames = iter(source)
    got = [next(frames) for _ in range(9)]
    assert [frame.index for frame in got] == list(range(9))
    assert got[8].image.flags.c_contiguous
    assert np.abs(got[8].image.astype(int) - (255, 0, 0)).max() <= 3
    with pytest.raises(SourceError, match="stopped delivering"):
        next(frames)
    source.close()


def test_closing_a_camera_frees_it_and_ends_the_reading() -> None:
    camera = generated("testsrc=size=64x48:rate=25")
    source = CameraSource(0, camera)
    frames = iter(source)
    next(frames)
    source.close()
    assert not camera.isOpened() and camera.read() == (False, None)
    assert next(frames, None) is None


def test_a_damaged_frame_of_a_webcam_is_skipped_and_counted(picture: MakePicture, tmp_path: Path) -> None:
    """Motion JPEG, as USB cameras send it; one of the pictures is cut."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    image = picture(48, 64)
    packets = []
    for _ in range(5):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj420p")
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    packets[2] = packets[2][:2] + packets[2][-2:]  # begin and end, and nothing between
    path = tmp_path / "camera.mjpeg"
    path.write_bytes(b"".join(packets))
    source = CameraSource(0, AvCamera(str(path), kind="mjpeg"))
    frames = []
    with pytest.raises(SourceError, match="stopped delivering"):
        for got in source:
            frames.append(got.image)
    assert (len(frames), source.skipped) == (3, 1)  # the first went to look at the size
    assert np.abs(frames[-1].astype(int) - image).mean() < 20


def test_a_large_untagged_picture_of_a_camera_is_bt_601_as_usb_has_it() -> None:
    assert color(av.VideoFrame(1280, 720, "yuyv422")) == ColorSpec(BT601_NTSC, LIMITED)
    assert color(av.VideoFrame(1280, 720, "yuvj422p")) == ColorSpec(BT601_NTSC, FULL)


def test_what_is_asked_of_a_camera_and_what_is_left_out_when_it_refuses() -> None:
    mode = CameraMode(1280, 720, 29.97, "MJPG")
    asked = list(_to_ask(mode, "video4linux2,v4l2"))
    assert asked[0] == {"video_size": "1280x720", "framerate": "29.97", "input_format": "mjpeg"}
    assert asked[1:] == [{"video_size": "1280x720", "framerate": "29.97"}, {"video_size": "1280x720"}, {}]
    assert list(_to_ask(None, "video4linux2,v4l2")) == [{}]


def test_pyav_brings_the_kernels_cameras() -> None:
    if sys.platform == "linux":
        assert "video4linux2,v4l2" in av.formats_available


@pytest.mark.parametrize(
    ("uri", "said"), [("/dev/video97", "Camera 97 cannot be opened"), ("csi://0", "JetPack's OpenCV")]
)
def test_a_camera_that_is_not_there_is_one_clear_line(uri: str, said: str) -> None:
    command = [sys.executable, "-c", WITHOUT_OPENCV, "--input", uri, "--output", "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr and done.stderr.count("\n") == 1


def test_nothing_but_cameras_misses_opencv(tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    command = [sys.executable, "-c", WITHOUT_OPENCV, "--input", str(sample(PICTURE)), "--output", str(out)]
    done = subprocess.run(
        [*command, "--provider", "identity", "--compare", "wipe"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 100_000
