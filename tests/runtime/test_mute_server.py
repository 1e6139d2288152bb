"""Pushing to RTSP servers that say nothing: no other thread of the process may wait for them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sdps.core.errors import SinkError
from sdps.core.frame import Frame
from sdps.runtime import rtsp_sink
from sdps.runtime.rtsp_sink import RtspSink
from sdps.runtime.stream import StreamInfo

from .live import Run

INFO = StreamInfo("camera", 640, 480, live=True)


class Server:
    """mute_server.py in a process of its own: while PyAV connects, no thread here would answer."""

    def __init__(self, mute_from: str = "") -> None:
        script = str(Path(__file__).with_name("mute_server.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, mute_from], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.orders, self.says = self.process.stdin, self.process.stdout
        self.uri = f"rtsp://127.0.0.1:{int(self.says.readline())}/x"

    def order(self, word: str) -> None:
        self.orders.write(word + "\n")
        self.orders.flush()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class Pulse:
    """Measures how long Python stood still."""

    def __init__(self) -> None:
        self.longest, self._end = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._end.wait(0.02):
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


class Noise:
    """A live source whose frames fill every buffer soon."""

    def __init__(self) -> None:
        self.info, self.skipped, self.end = INFO, 0, threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        begin = time.monotonic()
        for i in range(10**9):
            if self.end.wait(1 / 25):
                return
            yield Frame(np.roll(picture, 7 * i, 1), i, time.monotonic() - begin)

    def close(self) -> None:
        self.end.set()


def test_a_server_that_answers_nothing_is_an_error_within_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtsp_sink, "TIMEOUT", 2.0)
    with Server("OPTIONS") as server, Pulse() as pulse:
        begin = time.monotonic()
        with pytest.raises(SinkError, match="does not take the stream: no answer within 2 s"):
            RtspSink(server.uri, INFO)
        assert time.monotonic() - begin < 6
    assert pulse.longest < 1.5, "other threads went on"


def test_a_server_that_falls_mute_while_it_is_asked_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtsp_sink, "TIMEOUT", 0.5)
    with Server("ANNOUNCE") as server, pytest.raises(SinkError, match="does not take the stream"):
        RtspSink(server.uri, INFO)


def test_ctrl_c_ends_the_wait_for_a_mute_server() -> None:
    # A shell starts what it runs in the background with SIGINT ignored, the tests too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGINT, before)
        server = stack.enter_context(Server("OPTIONS"))
        arguments = ["--input", "demo", "--provider", "identity", "--output", server.uri]
        command = [sys.executable, "-c", "from sdps.runtime.cli import main; main()", *arguments]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert server.says.readline() == "OPTIONS\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=2)
    assert (process.returncode, errors.splitlines()[-1]) == (130, "interrupted")


def test_a_server_that_falls_mute_while_frames_are_sent_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rtsp_sink, "HUNG", 0.7)
    with Server() as server:
        sink = RtspSink(server.uri, INFO)
        first = sink._sender
        with Run(Noise(), sink) as run:
            run.until(lambda: sink.sent >= 3)
            with Pulse() as pulse:
                server.order("mute")
                assert "does not take frames" in run.event("sink").text
                first.join(1)
                assert not first.is_alive(), "what it hung on was cut"
                run.frames(10)
                server.order("hear")
                run.until(lambda: sink.connects == 2)
    # FFmpeg would have held all threads for rtsp_sink.TIMEOUT, 3 s; a busy machine does so for a moment.
    assert pulse.longest < 1.5, "neither sending nor the farewell stopped the others"


def test_a_run_that_ends_says_farewell() -> None:
    with Server() as server:
        sink = RtspSink(server.uri, INFO)
        with Run(Noise(), sink) as run:
            run.until(lambda: sink.sent >= 3)
        said = [server.says.readline().strip() for _ in range(6)]
    assert said == ["OPTIONS", "OPTIONS", "ANNOUNCE", "SETUP", "RECORD", "TEARDOWN"]
