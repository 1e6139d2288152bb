"""A live stream whose pictures carry the time they were drawn at (glass), read at the sink (to glass)."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from sdps.benchmarks.throughput import Derain, still
from sdps.core.errors import SdpsError
from sdps.core.frame import Frame, Image
from sdps.core.spec import Size
from sdps.runtime.color import ColorSpec, to_yuv

BITS, BLOCK = 24, 8
"""The time code: milliseconds in binary, most significant first, as black and white squares."""


@dataclass(frozen=True)
class GlassToGlass:
    """Milliseconds from drawing to the sink, and what became of the frames.

    Attributes:
        fps: Of the source.
        p50_ms, p95_ms, p99_ms: Of the frames that arrived.
        drawn, arrived: Frames.
        dropped: Overtaken by a newer one, because the engine was busy.
        unread: Arrived with a time code that could not be read.
        samples_ms: Each arrived frame's.
    """

    fps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    drawn: int
    arrived: int
    dropped: int
    unread: int
    samples_ms: tuple[float, ...]


def draw_time(image: Image, ms: int) -> Image:
    """A copy with `ms` (below 2**24) in the top left corner; at least 200 x 16 pixels."""
    stamped = image.copy()
    stamped[: 2 * BLOCK, : (BITS + 1) * BLOCK] = 16  # the 25th square stays black, as a check
    for bit in range(BITS):
        if ms >> (BITS - 1 - bit) & 1:
            stamped[: 2 * BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 235
    return stamped


def read_time(image: Image) -> int | None:
    """What `draw_time` drew, from the middle of each square; None if a square is neither black nor white."""
    strip = image[BLOCK - 2 : BLOCK + 2, : (BITS + 1) * BLOCK].mean((0, 2)).reshape(BITS + 1, BLOCK)
    squares = strip[:, 2:-2].mean(1)
    if np.any((squares > 80) & (squares < 175)) or squares[-1] > 80:
        return None
    return int("".join("1" if square > 127 else "0" for square in squares[:BITS]), 2)


@contextlib.contextmanager
def _camera(size: Size, fps: float, drawn: list[int]) -> Iterator[str]:
    """An MPEG transport stream over HTTP, drawn and encoded in real time; `drawn` gets each time code."""
    import av

    picture = still(size)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            with (
                contextlib.suppress(OSError, av.FFmpegError),
                av.open(_Unseekable(self.wfile), "w", format="mpegts") as out,
            ):
                fast = {"preset": "ultrafast", "tune": "zerolatency", "crf": "18", "g": str(round(fps))}
                stream: Any = out.add_stream("libx264", rate=round(fps), options=fast)
                stream.width, stream.height, stream.pix_fmt = size.width, size.height, "yuv420p"
                begin, i = time.monotonic(), 0
                while not stop.is_set():
                    time.sleep(max(0.0, begin + i / fps - time.monotonic()))
                    drawn.append(int(1000 * (time.monotonic() - epoch)))
                    frame = to_yuv(draw_time(picture, drawn[-1]), "yuv420p", ColorSpec())
                    frame.pts, frame.time_base = i, Fraction(1, round(fps))
                    out.mux(stream.encode(frame))
                    self.wfile.flush()
                    i += 1

        def log_message(self, *_: object) -> None:
            """Quiet."""

    stop = threading.Event()
    epoch = _EPOCH
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/live.ts"
    finally:
        stop.set()
        server.shutdown()
        server.server_close()


_EPOCH = time.monotonic()


class _Unseekable:
    """What FFmpeg may do with a socket."""

    def __init__(self, out: Any) -> None:
        self.out = out

    def write(self, data: bytes) -> int:
        self.out.write(data)
        return len(data)


class _ClockSink:
    """Reads the time code of each picture that arrives, as an eye at the window would."""

    place = "the clock"

    def __init__(self) -> None:
        self.samples_ms: list[float] = []
        self.codes: list[int] = []
        self.unread = 0

    def write(self, rainy: Frame, clean: Frame) -> bool:
        now = 1000 * (time.monotonic() - _EPOCH)
        code = read_time(clean.image)
        if code is None:
            self.unread += 1
        else:
            self.codes.append(code)
            self.samples_ms.append(now - code)
        return True

    def idle(self) -> bool:
        return True

    def close(self, complete: bool = True) -> None: ...

    def discard(self) -> None: ...


def measure_latency(derain: Derain, size: Size, fps: float, seconds: float) -> GlassToGlass:
    """Runs a live stream for so long; the first second, in which the stream is opened, is left out.

    Raises:
        SdpsError: no picture arrived, or they arrived out of order.
    """
    from sdps.runtime.pipeline import Pipeline
    from sdps.runtime.sources import open_source

    derain(still(size))  # engines compile at the first picture of a size
    drawn: list[int] = []
    sink = _ClockSink()
    with _camera(size, fps, drawn) as uri:
        pipeline = Pipeline(open_source(uri, wait=True), derain, sink)
        timer = threading.Timer(seconds + 1, pipeline.stop)
        timer.start()
        try:
            summary = pipeline.run()
        finally:
            timer.cancel()
    if not sink.codes or sink.codes != sorted(set(sink.codes)):
        raise SdpsError(f"{len(sink.codes)} frames arrived, or out of order.")
    first = sink.codes[0] + 1000
    kept = [ms for ms, code in zip(sink.samples_ms, sink.codes, strict=True) if code >= first]
    if not kept:
        raise SdpsError("No frame arrived after the first second.", "Give it more --seconds.")
    p50, p95, p99 = (float(value) for value in np.percentile(kept, (50, 95, 99)))
    return GlassToGlass(
        fps, p50, p95, p99, len(drawn), summary.written, summary.dropped, sink.unread, tuple(kept)
    )
