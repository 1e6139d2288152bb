"""Runs that are asked to end, once or more often, and by the clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from sdps.core.errors import SourceError
from sdps.core.frame import Frame, Image
from sdps.runtime import output_watch
from sdps.runtime.cut import Cut
from sdps.runtime.live_source import LiveSource, Patience
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.run_view import judge
from sdps.runtime.sinks import NullSink, open_sink
from sdps.runtime.sources import open_source
from sdps.runtime.stream import Source
from sdps.runtime.summary import Summary
from sdps.runtime.video_sink import VideoSink

from .conftest import MakeVideo, probe
from .live import Fake, Run, ticking


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """A shell starts what it runs in the background with SIGINT ignored, the tests too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def stopping_at(count: int, number: int) -> Callable[[Summary], None]:
    return lambda summary: send(number) if summary.written == count else None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_film_that_a_signal_stopped_plays_and_is_no_success(
    number: signal.Signals, make_video: MakeVideo, tmp_path: Path
) -> None:
    source, out = open_source(str(make_video(times=40))), tmp_path / "out" / "out.mp4"
    sink = open_sink(str(out), source.info)
    summary = Pipeline(source, lambda image: image, sink, stopping_at(3, number)).run()
    assert (summary.complete, summary.signal) == (False, number)
    assert [p.name for p in out.parent.iterdir()] == ["out.mp4"]
    assert 3 <= len(probe(out).frames) < 40
    with pytest.raises(typer.Exit) as end:
        judge(summary, source, None)
    assert end.value.exit_code == 128 + number


def test_a_live_source_that_a_signal_stopped_is_a_success() -> None:
    source = LiveSource(lambda: Fake(ticking(10**9, 50)), "fake")
    summary = Pipeline(source, lambda image: image, NullSink(), stopping_at(3, signal.SIGINT)).run()
    assert summary.signal == signal.SIGINT
    judge(summary, source, None)


def test_nohup_is_heeded(make_video: MakeVideo) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        source = open_source(str(make_video(times=12)))
        summary = Pipeline(source, lambda image: image, NullSink(), stopping_at(3, signal.SIGHUP)).run()
        assert (summary.written, summary.complete, summary.signal) == (12, True, 0)
    finally:
        signal.signal(signal.SIGHUP, before)


class Impatient(VideoSink):
    """Is interrupted while it is finished."""

    times = 1

    def close(self, complete: bool = True) -> None:
        for _ in range(self.times):
            send()
        super().close(complete)


@pytest.mark.parametrize("before", [0, 1])
def test_finishing_a_film_is_not_broken_off(before: int, make_video: MakeVideo, tmp_path: Path) -> None:
    source, out = open_source(str(make_video(times=20))), tmp_path / "out" / "out.mp4"
    sink = Impatient(out, source.info)
    on_frame = stopping_at(3, signal.SIGINT) if before else None
    summary = Pipeline(source, lambda image: image, sink, on_frame).run()
    assert summary.complete == (not before), "a whole film stays one"
    assert [p.name for p in out.parent.iterdir()] == ["out.mp4"]
    assert len(probe(out).frames) >= 3


def test_asked_three_times_a_film_is_not_finished_and_leaves_nothing(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    source, out = open_source(str(make_video(times=20))), tmp_path / "out" / "out.mp4"
    sink = Impatient(out, source.info)
    sink.times = 2
    with pytest.raises(KeyboardInterrupt):
        Pipeline(source, lambda image: image, sink, stopping_at(3, signal.SIGINT)).run()
    assert not list(out.parent.iterdir())


def camera() -> LiveSource:
    return LiveSource(lambda: Fake(ticking(10**9, 50)), "fake")


def test_an_output_that_hangs_is_noticed_and_that_it_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(output_watch, "HUNG", 0.5)
    source, (reading, writing) = camera(), os.pipe()
    with (
        os.fdopen(writing, "wb") as pipe,
        os.fdopen(reading, "rb") as reader,
        Run(source, open_sink([str(tmp_path / "film.mp4"), "-"], source.info, stdout=pipe)) as run,
    ):
        assert run.event("sink").text.startswith("standard output takes no frames")
        figures = run.pipeline.figures()
        assert (figures["state"], figures["healthy"]) == ("output-hung", False)
        threading.Thread(target=lambda: any(iter(lambda: not reader.read1(65536), True)), daemon=True).start()
        assert run.event("sink", after=1).text.startswith("standard output takes frames again")
        run.frames(5)
        assert run.pipeline.figures()["state"] == "live"
        run.pipeline.stop()
        run.thread.join(10)
        pipe.close()
    assert len([e for e in run.seen if e.kind == "sink"]) == 2


def test_an_output_that_hangs_keeps_nobody_from_ending(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(output_watch, "HUNG", 0.3)
    source, film = camera(), tmp_path / "film.mp4"
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe, os.fdopen(reading, "rb"):
        sink = open_sink([str(film), "-"], source.info, stdout=pipe)
        asking = threading.Timer(2, send)
        asking.start()
        begin = time.monotonic()
        summary = Pipeline(source, lambda image: image, sink).run()
        assert time.monotonic() - begin < 5
    assert summary.signal == signal.SIGINT
    assert len(probe(film).frames) >= summary.written > 1


def test_so_many_seconds_of_a_live_source_end_where_it_is_lost() -> None:
    given = [Fake(ticking(10, 50))]

    def connect() -> Source:
        if not given:
            raise SourceError("It is gone.")
        return given.pop()

    source = Cut(LiveSource(connect, "fake", patience=Patience(stale=0.3)), duration=1.0)
    begin = time.monotonic()
    summary = Pipeline(source, lambda image: image, NullSink()).run()
    assert 1.0 < time.monotonic() - begin < 4
    assert summary.complete and summary.written
    judge(summary, source, None)


def test_a_live_source_that_goes_on_gives_all_of_its_seconds() -> None:
    slow = threading.Event()

    def derain(image: Image) -> Image:
        slow.wait(0.3)
        return image

    written: list[float] = []

    class Noting(NullSink):
        def write(self, rainy: Frame, clean: Frame) -> bool:
            written.append(clean.time)
            return True

    summary = Pipeline(Cut(camera(), duration=1.0), derain, Noting()).run()
    assert summary.complete
    assert written[-1] > 0.6


@pytest.mark.parametrize(
    ("sent", "number"),
    [(b"", signal.SIGINT), (b"", signal.SIGTERM), (b"YUV4MPEG2 W16 H16 F25:1\n", signal.SIGINT)],
)
def test_a_signal_ends_the_wait_for_standard_input(sent: bytes, number: signal.Signals) -> None:
    code = "from sdps.runtime import cli, sources; print('begin', flush=True); cli.main()"
    command = [sys.executable, "-c", code, "--input", "-", "--provider", "identity", "--output", "none"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write(sent)
        process.stdin.flush()
        assert process.stdout.readline() == b"begin\n"
        time.sleep(2)
        process.send_signal(number)
        try:
            assert process.wait(timeout=2) == 128 + number
            assert process.stderr.read().splitlines()[-1] == b"interrupted"
        finally:
            process.kill()


@pytest.mark.parametrize("hung_up", [True, False])
def test_a_terminal_that_is_closed_loses_no_film(hung_up: bool, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    code = "from sdps.runtime.cli import main; main()"
    command = [sys.executable, "-c", code, "--input", "-", "--provider", "identity", "--output", str(out)]
    ours, theirs = os.openpty()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        assert process.stdin is not None
        process.stdin.write(b"YUV4MPEG2 W64 H48 F25:1 C420mpeg2\n")
        for level in range(40):
            process.stdin.write(b"FRAME\n" + bytes([level]) * (64 * 48 * 3 // 2))
        process.stdin.flush()
        while b"deraining" not in os.read(ours, 4096):
            pass
        time.sleep(0.5)
        os.close(ours)
        if hung_up:
            process.send_signal(signal.SIGHUP)
        else:
            process.stdin.close()
        assert process.wait(timeout=20) == (129 if hung_up else 0)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert len(probe(out).frames) == 40 or hung_up


@pytest.mark.parametrize(("closed", "given", "code"), [(2, "in.mp4", 0), (0, "in.mp4", 0), (0, "-", 1)])
def test_standard_files_that_are_closed_are_no_ones_place(
    closed: int, given: str, code: int, make_video: MakeVideo, tmp_path: Path
) -> None:
    make_video()
    names = ["--input", given, "--provider", "identity", "--output", "out.mp4"]
    command = [sys.executable, "-c", "from sdps.runtime.cli import main; main()", *names]
    without = ["bash", "-c", f'exec "$@" {closed}<&-', "-", *command]
    done = subprocess.run(without, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "out.mp4").exists() == (code == 0)
    assert "Traceback" not in done.stderr
    assert code == 0 or "error: standard input cannot be opened" in done.stderr
