"""A video file through decoder, engine and encoder, against the engine alone on the same frames, in turns."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from sdps.benchmarks.timing import Ratio, interleave, versus
from sdps.core.errors import SdpsError
from sdps.core.frame import Image
from sdps.core.pictures import read_picture
from sdps.core.samples import PICTURE, sample
from sdps.core.spec import Size
from sdps.runtime.color import ColorSpec, to_yuv
from sdps.runtime.derainer import Derainer

Derain = Callable[[Image], Image]


@dataclass(frozen=True)
class Throughput:
    """Frames per second of a file through everything, against the engine alone.

    Attributes:
        share: Pipeline over engine, the median of the rounds, with a 95 % interval.
        engine_ns, pipeline_ns, copy_ns: Nanoseconds for all frames, per round; `copy_ns` is the
            pipeline without a model: what decoding and encoding take by themselves.
        engine_cpu_s, pipeline_cpu_s, copy_cpu_s: CPU seconds of one such pass, all threads together.
    """

    frames: int
    share: Ratio
    engine_ns: tuple[int, ...]
    pipeline_ns: tuple[int, ...]
    copy_ns: tuple[int, ...]
    engine_cpu_s: float
    pipeline_cpu_s: float
    copy_cpu_s: float

    @property
    def shared_core(self) -> float:
        """The share that is left where the engine occupies every core, and so has to give some up to
        decoding and encoding, however well they overlap."""
        both = self.engine_cpu_s + self.copy_cpu_s
        return self.engine_cpu_s / both if both else 1.0


def restore_ahead(
    begin: Callable[[Image], Callable[[], Image]], depth: int, pictures: Iterable[Image]
) -> list[Image]:
    """Restores pictures as the frames of a file are: `depth` of them begun before the first is waited for."""
    restored, waiting = [], deque[Callable[[], Image]]()
    for picture in pictures:
        if len(waiting) == depth:
            restored.append(waiting.popleft()())
        waiting.append(begin(picture))
    return [*restored, *(finish() for finish in waiting)]


class Waiting:
    """Stands for an engine on a device of its own: a picture takes so many milliseconds, and no core."""

    def __init__(self, ms: float) -> None:
        self.ms = ms

    def __call__(self, image: Image) -> Image:
        time.sleep(self.ms / 1000)
        return image


def write_clip(path: Path, size: Size, frames: int) -> None:
    """A file whose pictures move, as H.264 at 25 frames/s."""
    import av

    picture = still(size)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = size.width, size.height, "yuv420p"
        for i in range(frames):
            frame = to_yuv(np.ascontiguousarray(np.roll(picture, 2 * i, axis=1)), "yuv420p", ColorSpec())
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def measure_throughput(
    derain: Derain, size: Size, frames: int, rounds: int, step: Callable[[str], None] = lambda text: None
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
            if isinstance(derain, Derainer) and derain.depth > 1:
                restore_ahead(derain.begin, derain.depth, pictures)
            else:
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
        for name, way in ways.items():
            before = time.process_time()
            way()
            cpu[name] = time.process_time() - before
    return Throughput(
        frames,
        versus(samples["engine"], samples["pipeline"]),
        samples["engine"],
        samples["pipeline"],
        samples["copy"],
        cpu["engine"],
        cpu["pipeline"],
        cpu["copy"],
    )


def still(size: Size) -> Image:
    """The bundled rainy photograph, at that size."""
    picture = Pillow.fromarray(read_picture(sample(PICTURE)))
    return np.array(picture.resize((size.width, size.height), Pillow.Resampling.BICUBIC))
