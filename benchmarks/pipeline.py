"""What the pipeline costs around the engine: `python -m sdps.benchmarks.pipeline`.

Throughput: a video file through decoder, engine and encoder, against the engine alone on the same
frames, in turns. Latency: a stream over loopback whose pictures carry the time at which they were drawn
(glass), read back from the picture that reaches the sink (to glass).
"""

from __future__ import annotations

import contextlib
import http.server
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from sdps.benchmarks.environment import Environment
from sdps.benchmarks.timing import Ratio, interleave, versus
from sdps.core.artifact import write_json
from sdps.core.console import failing_clearly
from sdps.core.errors import SdpsError
from sdps.core.frame import Frame, Image
from sdps.core.samples import PICTURE, sample
from sdps.core.spec import Size
from sdps.runtime.color import ColorSpec, to_yuv
from sdps.runtime.derainer import Derainer

BITS, BLOCK = 24, 8
"""The time code: milliseconds in binary, most significant first, as black and white squares."""
GOAL = 0.95
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Throughput:
    """Frames per second of a file through everything, against the engine alone.

    Attributes:
        share: Pipeline over engine, the median of the rounds, with a 95 % interval.
        engine_ns, pipeline_ns, copy_ns: Nanoseconds for all frames, per round; `copy_ns` is the
            pipeline without a model: what decoding and encoding take by themselves.
        copy_cpu_s: CPU seconds of one such copy, all threads together.
        engine_cpu_s: The same of the engine alone.
    """

    frames: int
    share: Ratio
    engine_ns: tuple[int, ...]
    pipeline_ns: tuple[int, ...]
    copy_ns: tuple[int, ...]
    copy_cpu_s: float
    engine_cpu_s: float


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


def write_clip(path: Path, size: Size, frames: int) -> None:
    """A file whose pictures move, as H.264 at 25 frames/s."""
    import av

    still = _still(size)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = size.width, size.height, "yuv420p"
        for i in range(frames):
            frame = to_yuv(np.ascontiguousarray(np.roll(still, 2 * i, axis=1)), "yuv420p", ColorSpec())
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def measure_throughput(
    derain: Derainer, size: Size, frames: int, rounds: int, step: Callable[[str], None] = lambda text: None
) -> Throughput:
    """Times engine and pipeline in turns on a clip of `frames` pictures."""
    from sdps.runtime.pipeline import Pipeline
    from sdps.runtime.sinks import open_sink
    from sdps.runtime.sources import open_source

    with tempfile.TemporaryDirectory(prefix="sdps-pipeline-") as folder:
        clip, target = Path(folder) / "clip.mp4", Path(folder) / "out.mp4"
        write_clip(clip, size, frames)
        source = open_source(str(clip))
        pictures = [frame.image for frame in source]
        source.close()

        def alone() -> None:
            for picture in pictures:
                derain(picture)

        def through(model: Callable[[Image], Image]) -> None:
            source = open_source(str(clip))
            done = Pipeline(source, model, open_sink([str(target)], source.info)).run()
            if done.written != frames:
                raise SdpsError(f"{done.written} of {frames} frames arrived.")

        ways = {
            "engine": alone,
            "pipeline": lambda: through(derain),
            "copy": lambda: through(lambda image: image),
        }
        samples = interleave(
            ways, rounds=rounds, warmup=1, on_round=lambda done: step(f"throughput, round {done} of {rounds}")
        )
        cpu = {}
        for name in ("engine", "copy"):
            before = time.process_time()
            ways[name]()
            cpu[name] = time.process_time() - before
    return Throughput(
        frames,
        versus(samples["engine"], samples["pipeline"]),
        samples["engine"],
        samples["pipeline"],
        samples["copy"],
        cpu["copy"],
        cpu["engine"],
    )


@contextlib.contextmanager
def _camera(size: Size, fps: float, drawn: list[int]) -> Iterator[str]:
    """An MPEG transport stream over HTTP, drawn and encoded in real time; `drawn` gets each time code."""
    import av

    still = _still(size)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            with contextlib.suppress(OSError), av.open(_Unseekable(self.wfile), "w", format="mpegts") as out:
                fast = {"preset": "ultrafast", "tune": "zerolatency", "crf": "18", "g": str(round(fps))}
                stream: Any = out.add_stream("libx264", rate=round(fps), options=fast)
                stream.width, stream.height, stream.pix_fmt = size.width, size.height, "yuv420p"
                begin, i = time.monotonic(), 0
                while not stop.is_set():
                    time.sleep(max(0.0, begin + i / fps - time.monotonic()))
                    drawn.append(int(1000 * (time.monotonic() - epoch)))
                    frame = to_yuv(draw_time(still, drawn[-1]), "yuv420p", ColorSpec())
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


def measure_latency(derain: Derainer, size: Size, fps: float, seconds: float) -> GlassToGlass:
    """Runs a live stream for so long; the first second, in which the stream is opened, is left out.

    Raises:
        SdpsError: no picture arrived, or they arrived out of order.
    """
    from sdps.runtime.pipeline import Pipeline
    from sdps.runtime.sources import open_source

    derain(_still(size))  # engines compile at the first picture of a size
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


def _still(size: Size) -> Image:
    """The bundled rainy photograph, at that size."""
    import cv2

    bgr = cv2.imdecode(np.frombuffer(sample(PICTURE).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    scaled = cv2.resize(bgr, (size.width, size.height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(scaled[:, :, ::-1])


@app.command()
@failing_clearly
def main(
    model: Annotated[str, typer.Option(help="As for sdps-run.")] = "sdps-nano",
    provider: Annotated[str, typer.Option(help="As for sdps-run.")] = "auto",
    size: Annotated[str, typer.Option(metavar="HxW", help="Of the frames.")] = "360x640",
    frames: Annotated[int, typer.Option(min=2, help="In the file.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="Of throughput.")] = 6,
    fps: Annotated[float, typer.Option(min=1, help="Of the live source.")] = 25,
    seconds: Annotated[float, typer.Option(min=2, help="Of the live source.")] = 20,
    threads: Annotated[int, typer.Option(min=0, help="For the model; 0 leaves it to the engine.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write everything measured to this JSON file.")] = None,
) -> None:
    """Throughput of a file and latency of a live stream through the whole pipeline."""
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    at = Size.parse(size)
    environment = Environment.capture()
    with Derainer.load(model, provider, threads=threads) as derain:
        name = f"{derain.manifest.name} on {derain.backend.name}"
        throughput = measure_throughput(derain, at, frames, rounds, lambda text: console.print(text))
        console.print(f"latency, {seconds:.0f} seconds")
        latency = measure_latency(derain, at, fps, seconds)
    per_frame = 1e-6 * float(np.median(throughput.engine_ns)) / frames
    share = throughput.share
    codecs = 1000 * throughput.copy_cpu_s / frames
    print(
        f"{name}, {at}: engine alone {per_frame:.1f} ms a frame; the pipeline reaches"
        f" {100 * share.median:.0f} % of its rate ({100 * share.low:.0f} to {100 * share.high:.0f};"
        f" goal {100 * GOAL:.0f}). Decoding and encoding take {codecs:.1f} ms of CPU a frame,"
        f" the engine {1000 * throughput.engine_cpu_s / frames:.1f}, on {os.cpu_count()} cores."
    )
    print(
        f"Glass to glass at {latency.fps:g} frames/s: p50 {latency.p50_ms:.0f}, p95 {latency.p95_ms:.0f},"
        f" p99 {latency.p99_ms:.0f} ms; {latency.drawn} drawn, {latency.arrived} arrived,"
        f" {latency.dropped} dropped because the engine was busy, {latency.unread} not readable."
    )
    if out:
        result = {"what": name, "size": str(at), "environment": asdict(environment)}
        write_json(out, result | {"throughput": asdict(throughput), "latency": asdict(latency)})


if __name__ == "__main__":
    app()
