"""Threads, interruptions and live sources; the window; the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sdps import Derainer
from sdps.core.errors import SdpsError, SinkError, SourceError
from sdps.core.frame import Frame, Image
from sdps.core.samples import PICTURE, sample
from sdps.runtime.backends.identity import IdentityBackend
from sdps.runtime.camera_source import CameraSource
from sdps.runtime.compare import compose, sweep
from sdps.runtime.pipeline import WAITING, Pipeline, waiting_frames
from sdps.runtime.sinks import NullSink, open_sink
from sdps.runtime.sources import open_source
from sdps.runtime.stream import StreamInfo
from sdps.runtime.window_sink import WindowSink

from .conftest import MakeVideo, probe

MakePicture = Callable[[int, int], Image]


class Ticker:
    """A live source of numbered frames, `rate` a second, for `count` frames."""

    def __init__(self, count: int, rate: float) -> None:
        self.info = StreamInfo("camera", 16, 16, live=True)
        self.skipped, self.count, self.rate, self.closed = 0, count, rate, False

    def __iter__(self) -> Iterator[Frame]:
        for i in range(self.count):
            time.sleep(1 / self.rate)
            yield Frame(np.full((16, 16, 3), i % 256, np.uint8), i, i / self.rate)

    def close(self) -> None:
        self.closed = True


class Recorder(NullSink):
    """Remembers which frames came."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.ended: list[str] = []

    def write(self, rainy: Frame, clean: Frame) -> bool:
        self.seen.append(clean.index)
        return True

    def close(self, complete: bool = True) -> None:
        self.ended.append("complete" if complete else "stopped")

    def discard(self) -> None:
        self.ended.append("discarded")


def test_a_live_source_drops_the_oldest_and_keeps_the_order() -> None:
    source, sink = Ticker(60, 300), Recorder()

    def slow(image: Image) -> Image:
        time.sleep(0.02)
        return image

    summary = Pipeline(source, slow, sink).run()
    assert sink.seen == sorted(set(sink.seen))
    assert summary.dropped > 0
    assert summary.dropped + summary.written == summary.read == 60
    assert sink.seen[-1] == 59, "the newest frame is never the one dropped"
    assert source.closed


def test_a_file_loses_no_frame_however_slow_the_model(make_video: MakeVideo) -> None:
    def slow(image: Image) -> Image:
        time.sleep(0.01)
        return image

    sink = Recorder()
    summary = Pipeline(open_source(str(make_video(times=40))), slow, sink).run()
    assert sink.seen == list(range(40))
    assert (summary.read, summary.dropped, summary.complete) == (40, 0, True)
    assert sink.ended == ["complete"]


@pytest.mark.parametrize("where", ["source", "model", "sink"])
def test_a_failure_in_any_thread_reaches_the_caller_and_leaves_no_file(
    where: str, make_video: MakeVideo, tmp_path: Path
) -> None:
    source: Any = open_source(str(make_video(times=20)))
    sink: Any = open_sink(str(tmp_path / "out.mp4"), source.info)

    def fail(*_: object) -> Any:
        raise SdpsError(f"the {where} broke")

    if where == "source":

        class Broken(Ticker):
            def __iter__(self) -> Iterator[Frame]:
                yield from super().__iter__()
                fail()

        source.close()
        source = Broken(3, 1000)
        source.info = StreamInfo("video", 16, 16)
    if where == "sink":
        sink.write = fail
    threads = threading.active_count()
    with pytest.raises(SdpsError, match=f"the {where} broke"):
        Pipeline(source, fail if where == "model" else lambda image: image, sink).run()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]
    assert threading.active_count() == threads


def test_stopping_from_a_callback_leaves_a_playable_file(make_video: MakeVideo, tmp_path: Path) -> None:
    source = open_source(str(make_video(times=60, audio="aac")))
    sink = open_sink(str(tmp_path / "out.mp4"), source.info)
    pipeline = Pipeline(
        source, lambda image: image, sink, on_frame=lambda s: pipeline.stop() if s.written == 9 else None
    )
    summary = pipeline.run()
    result = probe(tmp_path / "out.mp4")
    assert not summary.complete
    assert len(result.frames) == summary.written == 9
    assert result.sound < 0.7


def test_disk_full_is_said_and_leaves_nothing(make_video: MakeVideo) -> None:
    source = open_source(str(make_video(times=4)))
    with pytest.raises(SinkError, match="cannot be written"):
        Pipeline(source, lambda image: image, open_sink("/proc/out.mp4", source.info)).run()


def test_a_camera_is_read_until_it_stops_and_its_recording_is_kept(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    capture = cv2.VideoCapture(str(make_video(times=9, picture=red)))
    source = CameraSource(0, capture)
    assert (source.info.width, source.info.height, source.info.fps, source.info.live) == (64, 48, 25, True)
    sink = open_sink(str(tmp_path / "out.mp4"), source.info)
    with pytest.raises(SourceError, match="stopped delivering"):
        Pipeline(source, lambda image: image, sink).run()
    frames = probe(tmp_path / "out.mp4").frames
    assert 1 <= len(frames) <= 8
    assert np.abs(frames[0].astype(int) - red).max() <= 6, "OpenCV's BGR came through as RGB"


def sdps_run(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from sdps.runtime.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_the_command_leaves_a_playable_file(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    command = [
        sys.executable,
        "-c",
        "from sdps.runtime.cli import main; main()",
        "--input",
        "demo",
        "--output",
        str(out),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*.tmp.mp4")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2.5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors  # else a script would take the film for whole
    assert "stopped early" in errors
    assert 1 <= len(probe(out).frames) < 96
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_the_command_on_a_picture(picture: MakePicture, tmp_path: Path) -> None:
    path = tmp_path / "rainy.png"
    cv2.imwrite(str(path), picture(70, 101))
    done = sdps_run("--input", str(path), "--output", str(tmp_path / "clean.png"))
    assert done.returncode == 0, done.stderr
    assert "sdps-nano on openvino:CPU" in done.stderr
    assert "1 frame to" in done.stderr
    assert cv2.imread(str(tmp_path / "clean.png")).shape == (70, 101, 3)


def test_a_cut_off_input_is_said_and_its_part_is_kept(make_video: MakeVideo, tmp_path: Path) -> None:
    whole = make_video("in.mkv", times=60, noisy=True)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    done = sdps_run("--input", str(cut), "--output", str(tmp_path / "out.mp4"), "--provider", "identity")
    frames = len(probe(tmp_path / "out.mp4").frames)
    assert done.returncode == 1
    assert f"s too early, after {frames} frames" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "Give either --input or --camera"),
        (["--input", "demo", "--camera", "0"], 2, "Give either --input or --camera"),
        (["--input", "nowhere.mp4", "--output", "none"], 2, "no file or folder 'nowhere.mp4'"),
        (["--input", "demo"], 2, "no display"),
        (["--input", "demo", "--output", "none", "--model", "giant"], 2, "no model 'giant'"),
        (["--input", "demo", "--output", "none", "--provider", "warp"], 2, "no provider 'warp'"),
        (["--input", "demo", "--output", "none", "--compare", "half"], 2, "no comparison 'half'"),
        (["--input", "demo", "--output", "out.txt"], 2, "not written as '.txt'"),
        (["--input", "demo", "--output", "none", "--duration", "nan"], 2, "--duration nan is no number"),
        (["--input", "demo", "--output", "none", "--start", "inf"], 2, "--start is at least 0"),
        (["--camera", "99", "--output", "none"], 1, "Camera 99 cannot be opened"),
    ],
)
def test_wrong_usage_gets_one_line_and_its_code(
    arguments: list[str], code: int, says: str, tmp_path: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = sdps_run(*arguments, cwd=tmp_path, env=environment)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_comparisons_show_both_halves() -> None:
    rainy, clean = np.full((200, 300, 3), 50, np.uint8), np.full((200, 300, 3), 200, np.uint8)
    side = compose("side", rainy, clean)
    assert side.shape == (200, 600, 3)
    assert (side[150, 100] == 50).all() and (side[150, 500] == 200).all()
    wipe = compose("wipe", rainy, clean, 0.25)
    assert wipe.shape == clean.shape
    assert (wipe[150, 60] == 50).all() and (wipe[150, 90] == 200).all()
    assert (compose("wipe", rainy, clean, -3)[150, 150] == 200).all(), "a divider outside the picture"
    assert compose("off", rainy, clean) is clean
    assert (rainy == 50).all() and (clean == 200).all(), "the frames themselves are not drawn upon"
    assert all(0 <= sweep(t / 10) <= 1 for t in range(100))


def test_the_window_shows_frames_and_obeys_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.chdir(tmp_path)
    import pygame

    info = StreamInfo("camera", 160, 120, live=True)
    window = WindowSink(info, "off")
    rainy = Frame(np.full((120, 160, 3), (200, 30, 30), np.uint8))
    clean = rainy.with_image(np.full((120, 160, 3), (30, 30, 200), np.uint8))

    def press(key: int) -> None:
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))

    assert window.write(rainy, clean)
    assert window.screen.get_at((80, 60))[:3] == (30, 30, 200)
    press(pygame.K_c)  # side
    press(pygame.K_c)  # wipe
    press(pygame.K_s)
    assert window.write(rainy, clean)
    assert window.write(rainy, clean)
    assert window.screen.get_at((30, 60))[:3] == (200, 30, 30)
    assert window.screen.get_at((130, 60))[:3] == (30, 30, 200)
    assert len(list(tmp_path.glob("sdps-*.png"))) == 1
    press(pygame.K_q)
    assert not window.write(rainy, clean)
    window.close()


@pytest.mark.parametrize(("width", "height", "frames"), [(640, 360, 4), (3840, 2160, 4), (7680, 4320, 1)])
def test_waiting_frames_take_no_more_memory_than_they_may(width: int, height: int, frames: int) -> None:
    assert waiting_frames(width, height) == frames
    assert frames * 3 * (3 * width * height) <= max(WAITING, 9 * width * height), "one waits in any case"


def test_frames_beyond_4k_make_a_film(tmp_path: Path) -> None:
    height, width = 2308, 4100
    sink = open_sink([str(tmp_path / "huge.mp4")], StreamInfo("video", width, height))
    for i, level in enumerate((40, 120, 200)):
        frame = Frame(np.full((height, width, 3), level, np.uint8), i, i / 25)
        assert sink.write(frame, frame)
    sink.close()
    source = open_source(str(tmp_path / "huge.mp4"))
    frames = list(source)
    source.close()
    assert [round(frame.image.mean()) for frame in frames] == [40, 120, 200]
    assert np.allclose([frame.time for frame in frames], [0, 0.04, 0.08])


class Inverting(IdentityBackend):
    """Has two pictures in flight, and takes its time over each."""

    depth = 2

    def submit(self, batch: Image) -> Image:
        return 255 - batch

    def result(self, ticket: Image) -> Image:
        time.sleep(0.05)
        return ticket


def test_of_a_file_two_frames_are_in_the_model(make_video: MakeVideo) -> None:
    sink = Recorder()
    summary = Pipeline(open_source(str(make_video(times=12))), Derainer(Inverting()), sink).run()
    assert sink.seen == list(range(12)) and summary.complete
    assert summary.in_flight == 2
    alone = Pipeline(open_source(str(sample(PICTURE))), Derainer(Inverting()), Recorder()).run()
    assert (alone.written, alone.in_flight) == (1, 1)


def test_a_restored_frame_does_not_wait_for_a_slow_reader() -> None:
    class Waiting(Ticker):
        """A file whose next frame is there only after the one before it was written."""

        def __init__(self, written: threading.Semaphore) -> None:
            super().__init__(5, 1)
            self.info, self.written = StreamInfo("video", 16, 16), written

        def __iter__(self) -> Iterator[Frame]:
            for i in range(self.count):
                assert self.written.acquire(timeout=30), "frame is held back"
                yield Frame(np.full((16, 16, 3), i, np.uint8), i, i / 25)

    written = threading.Semaphore(1)

    class Telling(Recorder):
        def write(self, rainy: Frame, clean: Frame) -> bool:
            written.release()
            return super().write(rainy, clean)

    sink = Telling()
    assert Pipeline(Waiting(written), Derainer(Inverting()), sink).run().complete
    assert sink.seen == [0, 1, 2, 3, 4]


def test_openvino_restores_a_film_as_it_restores_its_frames(
    graph_path: Callable[..., Path], make_video: MakeVideo
) -> None:
    video, images = make_video(times=9), list[Image]()

    class Keeping(NullSink):
        def write(self, rainy: Frame, clean: Frame) -> bool:
            images.append(clean.image)
            return True

    with Derainer.load(graph_path(), "openvino", threads=2) as derainer:
        source = open_source(str(video))
        alone = [derainer(frame.image) for frame in source]
        source.close()
        assert Pipeline(open_source(str(video)), derainer, Keeping()).run().complete
    assert len(images) == len(alone) == 9
    for one, other in zip(images, alone, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
