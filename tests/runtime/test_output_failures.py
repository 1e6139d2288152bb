"""Outputs that fail or wait, and what a comparison must not hide."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from sdps import Derainer
from sdps.core.errors import EngineError, SinkError, UsageError
from sdps.core.frame import Frame
from sdps.runtime.compare import compose
from sdps.runtime.live_source import LiveSource, Patience
from sdps.runtime.overlay import RED
from sdps.runtime.picture_sink import encode_picture
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.sinks import NullSink, open_sink
from sdps.runtime.sources import open_source
from sdps.runtime.stream import StreamInfo
from sdps.runtime.window_sink import WindowSink

from .conftest import MakeVideo, probe
from .live import Fake, Run, ticking

COMMAND = [sys.executable, "-c", "from sdps.runtime.cli import main; main()", "--provider", "identity"]
FULL = Path("/dev/full")


def camera(count: int = 10**9, rate: float = 50, **patience: float) -> LiveSource:
    return LiveSource(lambda: Fake(ticking(count, rate)), "fake", patience=Patience(**patience))


@pytest.mark.parametrize("later", [False, True])
def test_a_folder_that_fails_leaves_the_recording_alone(later: bool, tmp_path: Path) -> None:
    source = camera()
    pictures, film = tmp_path / "pictures", tmp_path / "film.mp4"
    with Run(source, open_sink([str(pictures), str(film)], None if later else source.info)) as run:
        run.frames(5)
        shutil.rmtree(pictures)
        pictures.write_text("in its place")
        assert str(pictures) in run.event("sink").text
        run.frames(5)
    assert run.error is None
    assert [str(pictures) in why for why in run.pipeline.summary.failed_sinks] == [True]
    assert len(probe(film).frames) > 5


def test_a_full_standard_output_leaves_the_recording_alone(tmp_path: Path) -> None:
    source, film = camera(), tmp_path / "film.mp4"
    with (
        FULL.open("wb", buffering=0) as full,
        Run(source, open_sink(["-", str(film)], source.info, stdout=full)) as run,
    ):
        assert "Standard output cannot be written: No space" in run.event("sink").text
        run.frames(5)
    assert run.error is None
    assert len(probe(film).frames) > 4


def test_a_full_standard_output_of_a_file_is_one_clear_line(make_video: MakeVideo) -> None:
    with FULL.open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "--input", str(make_video()), "--output", "-"], stdout=full, stderr=-1, text=True
        )
    assert done.returncode == 1
    assert "error: Standard output cannot be written: No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_window_that_waits_hears_of_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = WindowSink(StreamInfo("video", 64, 48))
    picture = np.zeros((48, 64, 3), np.uint8)
    assert window.write(Frame(picture), Frame(picture))
    threading.Timer(0.2, window.stop).start()
    late = Frame(picture, 1, 3600.0)
    assert not window.write(late, late)
    window.close()


def test_a_snapshot_that_cannot_be_kept_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    import pygame

    window = WindowSink(StreamInfo("camera", 64, 48, live=True))
    frame = Frame(np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def press_s() -> bool:
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_s))
        return window.write(frame, frame)

    assert press_s() and press_s()
    assert len(list(Path().glob("sdps-*.png"))) == 2, "two in one second have two names"
    (tmp_path / "here").rename(tmp_path / "there")
    shutil.rmtree(tmp_path / "there")
    assert press_s()
    assert "no snapshot: " in capsys.readouterr().err
    window.close()


class Wipes(NullSink):
    """Composes as an output does, with the divider at the far right: all of it is the rainy picture."""

    def __init__(self) -> None:
        self.plain: list[np.ndarray] = []
        self.stale: list[np.ndarray] = []

    def write(self, rainy: Frame, clean: Frame) -> bool:
        (self.stale if clean.stale else self.plain).append(compose("wipe", rainy.image, clean.image, 1.0))
        return True


def test_a_wipe_hides_neither_the_mark_nor_the_overlay() -> None:
    sink = Wipes()
    gone = camera(20, stale=0.2, retry=30.0, retry_most=30.0)  # it does not come back before it was marked
    with Run(gone, sink, overlay=lambda: ["words"]) as run:
        run.event("stale")
        run.pipeline.stopping.wait(1.5)
    assert sink.stale and (sink.stale[-1] == RED).all(-1).sum() > 300
    corner = sink.plain[3][-12:, 2:30]
    assert (corner == 0).any() and (corner > 200).any(), "black ground and white letters"


@pytest.mark.parametrize(("tile", "overlap"), [(50, None), (32, 20)])
def test_tiles_that_do_not_fit_are_wrong_usage_of_a_camera_too(tile: int, overlap: int | None) -> None:
    with (
        Derainer.load(provider="cpu", tile=tile, overlap=overlap) as derainer,
        pytest.raises(UsageError, match="does not fit"),
    ):
        Pipeline(camera(), derainer, NullSink()).run()


def test_a_failed_run_is_not_called_healthy(make_video: MakeVideo, tmp_path: Path) -> None:
    class Broken(NullSink):
        def write(self, rainy: Frame, clean: Frame) -> bool:
            raise SinkError("It is full.")

    pipeline = Pipeline(open_source(str(make_video())), lambda image: image, Broken())
    with pytest.raises(SinkError):
        pipeline.run()
    figures = pipeline.figures()
    assert (figures["state"], figures["healthy"], figures["complete"]) == ("failed", False, False)
    log = tmp_path / "run.jsonl"
    with FULL.open("wb") as full:
        command = [*COMMAND, "--input", str(make_video()), "--output", "-", "--log", str(log)]
        subprocess.run(command, stdout=full, stderr=-1, check=False)
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["kind"] == "end" and "Standard output cannot be written" in last["text"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux for the open files")
def test_the_source_of_the_sound_is_let_go_where_a_run_fails(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(audio="aac")
    source = open_source(str(path))
    sink = open_sink(str(tmp_path / "out.mp4"), source.info)
    held: list[bool] = []

    def fail(image: np.ndarray) -> np.ndarray:
        held.append(is_open(path))
        if len(held) == 8:
            raise EngineError("The engine is gone.")
        return image

    with pytest.raises(EngineError):
        Pipeline(source, fail, sink).run()
    assert held[0] and not is_open(path)


def is_open(path: Path) -> bool:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return path in [link.readlink() for link in links if link.exists()]


@pytest.mark.parametrize(
    ("size", "target", "remedy"),
    [((2, 17_000), "wide.mp4", "or .webm"), ((17_000, 2), "high.mkv", "or .webm")],
)
def test_a_size_that_the_encoder_lacks_is_told(
    size: tuple[int, int], target: str, remedy: str, tmp_path: Path
) -> None:
    path = tmp_path / "wide.png"
    path.write_bytes(encode_picture(np.zeros((*size, 3), np.uint8), ".png"))
    source = open_source(str(path))
    with pytest.raises(SinkError, match=f"takes no pictures of {size[1]}x{size[0]}") as caught:
        Pipeline(source, lambda image: image, open_sink(str(tmp_path / target), source.info)).run()
    assert remedy in caught.value.remedy
    assert [file.name for file in tmp_path.iterdir()] == ["wide.png"]


def test_a_folder_is_one_by_its_slash_whatever_its_name(make_video: MakeVideo, tmp_path: Path) -> None:
    for name in ("shots.2024", "shots.png"):
        source = open_source(str(make_video(times=3)))
        Pipeline(source, lambda image: image, open_sink(f"{tmp_path / name}/", source.info)).run()
        assert len(list((tmp_path / name).iterdir())) == 3


def test_nothing_is_no_name_and_two_names_of_one_file_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--output is empty"):
        open_sink("", StreamInfo("video", 64, 48))
    with pytest.raises(UsageError, match="--input is empty"):
        open_source("")
    with pytest.raises(UsageError, match="wanted once"):
        open_sink(["a.mp4", f"{tmp_path}/b/../a.mp4"], StreamInfo("video", 64, 48))
    with pytest.raises(UsageError, match="wanted once"):
        open_sink(["none", "none"], StreamInfo("video", 64, 48))
