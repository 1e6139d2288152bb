"""Videos and pictures that the runtime's tests read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sdps.core.frame import Image
from sdps.runtime.color import ColorSpec, to_yuv

MakeVideo = Callable[..., Path]


@dataclass(frozen=True)
class Probe:
    """What a written file really holds, decoded to the end."""

    frames: list[Image]
    times: list[float]
    size: tuple[int, int]
    rate: Fraction
    sound: float
    codec: str


def probe(path: Path) -> Probe:
    from sdps.runtime.sources import open_source

    source = open_source(str(path))
    got = list(source)
    source.close()
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        sound, codec = 0.0, ""
        if container.streams.audio:
            audio = container.streams.audio[0]
            codec = audio.codec_context.name
            sound = sum(frame.samples for frame in container.decode(audio)) / audio.codec_context.sample_rate
        rate = Fraction(video.average_rate or 0)
    return Probe([f.image for f in got], [f.time for f in got], got[0].image.shape[:2], rate, sound, codec)


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """make_video(name, size, times, ...): a real file, encoded here, each frame of its own brightness."""

    def make(
        name: str = "in.mp4",
        size: tuple[int, int] = (48, 64),
        times: list[int] | int = 12,
        audio: str = "",
        color: ColorSpec | None = None,
        rotation: int = 0,
        picture: Image | None = None,
        noisy: bool = False,
    ) -> Path:
        path, color = tmp_path / name, color or ColorSpec()
        stamps = list(range(times)) if isinstance(times, int) else times
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=25, options={"crf": "4", "bf": "0"})
            stream.height, stream.width = size
            stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
            stream.codec_context.colorspace, stream.codec_context.color_range = color.matrix, color.range
            stream.codec_context.time_base = Fraction(1, 100)
            if rotation:
                stream.set_display_rotation(rotation)
            sound: Any = container.add_stream(audio, rate=48_000, layout="mono") if audio else None
            for i, stamp in enumerate(stamps):
                image = picture if picture is not None else np.full((*size, 3), 40 + 10 * (i % 16), np.uint8)
                if noisy:  # every frame costs about as many bytes
                    image = np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8)
                frame = to_yuv(image, stream.pix_fmt, color)
                frame.pts, frame.time_base = 4 * stamp, Fraction(1, 100)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            if sound:
                seconds = (stamps[-1] + 1) / 25
                tone = (0.3 * np.sin(np.arange(int(48_000 * seconds)) / 20)).astype(np.float32)[None]
                kind = sound.codec_context.format.name
                data = tone if kind.startswith("flt") else (32767 * tone).astype(np.int16)
                piece = av.AudioFrame.from_ndarray(data, format=kind, layout="mono")
                piece.sample_rate, piece.pts = 48_000, 0
                size_in = sound.codec_context.frame_size
                for part in av.AudioResampler(kind, "mono", 48_000, size_in or 4800).resample(piece):
                    container.mux(sound.encode(part))
                container.mux(sound.encode())
        return path

    return make
