"""Pushing to an RTSP server (RECORD) through FFmpeg, without ever making the pipeline wait."""

from __future__ import annotations

import contextlib
import threading
import time
from fractions import Fraction
from typing import Any

import av

from sdps.core.errors import SinkError
from sdps.core.frame import Frame
from sdps.runtime.color import ColorSpec, to_yuv
from sdps.runtime.compare import compose, sweep
from sdps.runtime.events import Events
from sdps.runtime.fit import fit
from sdps.runtime.live_source import Patience
from sdps.runtime.redact import redacted
from sdps.runtime.server_line import Line, ask
from sdps.runtime.stream import StreamInfo

TIMEOUT, HUNG = 3.0, 2.5
"""Seconds in which the server must answer, and in which a frame must be sent: less, as FFmpeg's writer
drops a piece of a frame after its timeout, unseen, and goes on with a stream that nobody understands."""
COSTLY = 10
"""A pause after a failed attempt lasts so many times as long as PyAV held all of Python for it."""
OPTIONS = {"crf": "20", "preset": "veryfast", "tune": "zerolatency"}
CLOCK = Fraction(1, 90_000)


class RtspSink:
    """Sends the newest frame to rtsp://..., connecting again whenever the server is lost.

    A thread encodes and sends; while it is busy or without a server, frames are dropped and
    counted. The stale mark is sent too, because somebody may be watching.

    Raises:
        SinkError: the server cannot be reached at the start.
    """

    def __init__(self, uri: str, info: StreamInfo, compare: str = "off") -> None:
        self.uri, self.info, self.compare = uri, info, compare
        self.place = redacted(uri)
        self.events = Events()
        self.sent = self.dropped = self.connects = 0
        self.held = 0.0
        width = info.width * (2 if compare == "side" else 1)
        # 4:2:0 has no odd sides, and viewers of streams know nothing else.
        self.size = (max(2, info.height // 2 * 2), max(2, width // 2 * 2))
        self._changed = threading.Condition()
        self._slot: tuple[Frame, Frame] | None = None
        self._ending = False
        self._sender = _Sender(self, self._connect())
        self._sender.start()

    def write(self, rainy: Frame, clean: Frame) -> bool:
        with self._changed:
            self.dropped += self._slot is not None
            self._slot = (rainy, clean)
            self._changed.notify_all()
        return self.idle()

    def idle(self) -> bool:
        with self._changed:
            busy = self._sender.busy_since
            if busy is not None and time.monotonic() - busy > HUNG:
                self._sender.leave()
                self.events.emit("sink", f"{self.place} does not take frames; connecting anew")
                self._sender = _Sender(self, None)
                self._sender.start()
        return True

    def close(self, complete: bool = True) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._sender.join(timeout=1.0)
        self._sender.leave()

    def discard(self) -> None:
        self.close()

    def _next(self, sender: _Sender) -> tuple[Frame, Frame] | None:
        """Waits for a frame; None ends the sender."""
        with self._changed:
            while self._slot is None and not self._ending and not sender.left:
                self._changed.wait(0.2)
            if sender.left or (self._ending and self._slot is None):
                return None
            item, self._slot = self._slot, None
            return item

    def _pause(self, sender: _Sender, seconds: float) -> bool:
        """Waits between attempts; False ends the sender."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending or sender.left, seconds)
            return not self._ending and not sender.left

    def _connect(self) -> tuple[Any, Line]:
        """An open container with one H.264 stream, and its line to the server.

        Raises:
            SinkError: the server is not there, or does not want the stream.
        """
        container: Any = None
        self.held, begin = 0.0, 0.0
        options = {"rtsp_transport": "tcp", "timeout": str(round(1e6 * TIMEOUT))}
        try:
            # PyAV holds all of Python while FFmpeg connects: a mute server must be found out before.
            ask(self.uri, TIMEOUT)
            begin = time.monotonic()
            container = av.open(self.uri, "w", format="rtsp", options=options)
            stream = container.add_stream("libx264", rate=self.info.fps, options=dict(OPTIONS))
            stream.height, stream.width, stream.pix_fmt = *self.size, "yuv420p"
            stream.codec_context.time_base = CLOCK
            stream.codec_context.gop_size = max(1, round(self.info.fps))  # a viewer sees it in a second
            color = self.info.color
            stream.codec_context.colorspace, stream.codec_context.color_range = color.matrix, color.range
            line = Line.of(self.uri, container.start_encoding)
        except (av.FFmpegError, OSError, ValueError) as error:
            if container is not None:
                self.held = time.monotonic() - begin
                with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                    container.close()
            reason = redacted(str(getattr(error, "strerror", "") or error))
            raise SinkError(
                f"{self.place} does not take the stream: {reason}.", "Is the server up, and does it RECORD?"
            ) from None
        self.connects += 1
        return container, line


class _Sender(threading.Thread):
    """Encodes and sends, and connects again with growing pauses."""

    def __init__(self, sink: RtspSink, connection: tuple[Any, Line] | None) -> None:
        super().__init__(name="sdps-rtsp-push", daemon=True)
        self.sink = sink
        self.container: Any = None
        self.line = Line()
        if connection:
            self.container, self.line = connection
        self.busy_since: float | None = None
        self.left = False
        self.begin = time.monotonic()
        self.last_pts = -1

    def leave(self) -> None:
        """Has it end, at once even where it waits for the server."""
        self.left, self.busy_since = True, None
        self.line.cut()

    def run(self) -> None:
        attempt = 0
        while (item := self.sink._next(self)) is not None:
            try:
                if self.container is None:
                    self.container, self.line = self.sink._connect()
                    self.last_pts = -1
                    self.sink.events.emit("sink", f"{self.sink.place} takes frames again")
                self._send(*item)
                attempt = 0
            except (SinkError, av.FFmpegError, OSError, ValueError) as error:
                self._drop()
                if self.left:
                    break
                reason = error.message if isinstance(error, SinkError) else f"{self.sink.place} was lost"
                self.sink.events.emit("sink", reason, loud=attempt == 0)
                if not self.sink._pause(self, max(Patience().pause(attempt), COSTLY * self.sink.held)):
                    break
                attempt += 1
        self._drop()

    def _send(self, rainy: Frame, clean: Frame) -> None:
        image = compose(self.sink.compare, rainy.image, clean.image, sweep(clean.time))
        color = ColorSpec(self.sink.info.color.matrix, self.sink.info.color.range)
        stream = self.container.streams.video[0]
        frame = to_yuv(fit(image, *self.sink.size), "yuv420p", color)
        # Viewers' clocks run on when a source is silent, so the time of sending counts.
        self.last_pts = max(round((time.monotonic() - self.begin) / CLOCK), self.last_pts + 1)
        frame.pts, frame.time_base = self.last_pts, CLOCK
        self.busy_since = time.monotonic()
        try:
            self.container.mux(stream.encode(frame))
        finally:
            self.busy_since = None
        self.sink.sent += 1

    def _drop(self) -> None:
        if self.container is None:
            return
        if not self.line.takes_bytes():  # saying farewell would wait, and all of Python with it
            self.line.cut()
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self.container.close()
        self.container, self.line = None, Line()
