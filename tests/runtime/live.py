"""Real servers and bad lines for the tests of live sources, and a watcher that waits for events."""

from __future__ import annotations

import contextlib
import functools
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from sdps.core.frame import Frame, Image
from sdps.runtime.events import Event
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.sinks import NullSink
from sdps.runtime.stream import Sink, Source, StreamInfo

SYSTEM_PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("rtsp_server.py")
BITS, CELL = 24, 10
IMPORTS = (
    "import gi; gi.require_version('Gst','1.0'); gi.require_version('GstRtspServer','1.0');"
    "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
    "assert all(map(Gst.ElementFactory.find, ('x264enc', 'rtph264pay', 'mpegtsmux', 'appsrc')))"
)


@functools.cache
def have_rtsp_server() -> bool:
    """Whether Debian's GStreamer RTSP server is there, for the system's Python."""
    if not Path(SYSTEM_PYTHON).exists():
        return False
    done = subprocess.run([SYSTEM_PYTHON, "-c", IMPORTS], capture_output=True, check=False, timeout=60)
    return done.returncode == 0


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


class RtspServer:
    """tests/runtime/rtsp_server.py in a process of its own, which can be killed and stopped."""

    def __init__(self, *arguments: str, port: int | None = None, prefix: tuple[str, ...] = ()) -> None:
        self.port, self.arguments, self.prefix = port or free_port(), arguments, prefix
        self.uri = f"rtsp://127.0.0.1:{self.port}/cam"
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> float:
        """Starts it; returns the moment at which it was ready (monotonic)."""
        deadline = time.monotonic() + 20
        while True:
            command = [*self.prefix, SYSTEM_PYTHON, str(SCRIPT), str(self.port), *self.arguments]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert self.process.stdout is not None
            if self.process.stdout.readline() == "ready\n":
                return time.monotonic()
            self.kill()
            assert time.monotonic() < deadline, "the RTSP server does not start"

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def number_of(image: Image) -> int:
    """The number that the server drew into a frame."""
    row = image[image.shape[0] // 4, CELL // 2 : BITS * CELL : CELL, 1]
    return sum(int(value > 128) << bit for bit, value in enumerate(row))


class Collector(NullSink):
    """Remembers the numbers of frames, and how many marked copies came between."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.marked: list[Image] = []
        self.images: list[Image] = []

    def write(self, rainy: Frame, clean: Frame) -> bool:
        if clean.stale:
            self.marked.append(clean.image)
        else:
            self.numbers.append(
                number_of(rainy.image) if rainy.image.shape[:2] == (96, BITS * CELL) else clean.index
            )
            self.images = [*self.images[-2:], clean.image]
        return True


class Run:
    """A pipeline in a thread, whose events and frames can be waited for."""

    def __init__(
        self,
        source: Source,
        sink: Sink | None = None,
        derain: Callable[[Image], Image] | None = None,
        **more: Any,
    ) -> None:
        self.sink: Any = sink or Collector()
        self.seen: list[Event] = []
        self.changed = threading.Condition()
        self.error: BaseException | None = None
        self.pipeline = Pipeline(
            source, derain or (lambda image: image), self.sink, self._frame, on_event=self._event, **more
        )
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.pipeline.run()
        except BaseException as error:
            self.error = error
        with self.changed:
            self.changed.notify_all()

    def _event(self, event: Event) -> None:
        with self.changed:
            self.seen.append(event)
            self.changed.notify_all()

    def _frame(self, _: object) -> None:
        with self.changed:
            self.changed.notify_all()

    def until(self, condition: Callable[[], Any], timeout: float = 20) -> Any:
        """Waits for a condition, asked after each frame and event."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout), f"events: {[e.text for e in self.seen]}"
            return condition()

    def event(self, kind: str, after: int = 0, timeout: float = 20) -> Event:
        """Waits for an event of a kind, beyond the first `after` of it."""
        return self.until(lambda: ([e for e in self.seen if e.kind == kind][after:] or [None])[0], timeout)

    def frames(self, more: int, timeout: float = 20) -> None:
        """Waits for so many more frames."""
        target = self.pipeline.summary.written + more
        self.until(lambda: self.pipeline.summary.written >= target or self.error, timeout)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pipeline.stop()
        self.thread.join(timeout=10)
        assert not self.thread.is_alive(), "the pipeline did not end"


class Proxy:
    """A TCP line to a server that can be slow, cut, or end within a packet.

    Args:
        port: The server's.
        rate: Bytes per second from the server, or None for all that comes.
        cut_after: Resets each connection after so many bytes from the server.
    """

    def __init__(self, port: int, rate: float | None = None, cut_after: int | None = None) -> None:
        self.target, self.rate, self.cut_after = port, rate, cut_after
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.uri = f"rtsp://127.0.0.1:{self.port}/cam"
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                if self.rate:  # a slow line holds little
                    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
                self.connections += 1
                self.sockets += [near, far]
                threading.Thread(target=self._up, args=(near, far), daemon=True).start()
                threading.Thread(target=self._down, args=(far, near), daemon=True).start()

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(4096):
                far.sendall(data)

    def _down(self, far: socket.socket, near: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := far.recv(2048):
                passed += len(data)
                if self.cut_after is not None and passed > self.cut_after:
                    near.sendall(data[: len(data) // 2])
                    reset(near)
                    far.close()
                    return
                near.sendall(data)
                if self.rate:
                    time.sleep(len(data) / self.rate)
            near.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self.listener, *self.sockets):
            each.close()


def reset(connection: socket.socket) -> None:
    """Ends a connection with RST, as a crashed device does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads it; until then close() waits
    connection.close()


class Fake:
    """A connection made of given frames, for faults that no server here can be made to have."""

    def __init__(self, frames: Iterator[Frame], width: int = 64, height: int = 48) -> None:
        self.frames, self.skipped, self.closed = frames, 0, False
        self.info = StreamInfo("camera", width, height, live=True)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames

    def close(self) -> None:
        self.closed = True


def ticking(count: int, rate: float, make: Callable[[int], Any] | None = None) -> Iterator[Frame]:
    """`count` frames of a 64x48 camera that differ, `rate` a second."""
    never, begin = threading.Event(), time.monotonic()
    for i in range(count):
        never.wait(1 / rate)  # not sleep, which libfaketime breaks
        image = make(i) if make else np.full((48, 64, 3), i % 200, np.uint8)
        yield Frame(image, i, time.monotonic() - begin)
