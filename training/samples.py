"""Makes the bundled samples: `python -m sdps.training.samples DIR`.

Two held-out photographs (public domain and CC0), a camera that pans and zooms over them, and
rain that falls from frame to frame; so the clip has a clean original to measure against, which no
filmed rain has. The sound is synthesised.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from sdps.core.artifact import atomic_path
from sdps.core.console import need
from sdps.core.frame import Image
from sdps.core.samples import CLIP, PICTURE
from sdps.training.photos import fetch_photos, load_photo
from sdps.training.rain import Rain, RainField, render

FOLDER = "explore_world_animals/resource/animals"
HEIGHT, WIDTH, FPS = 360, 640, 24
SOUND_RATE = 44_100
SHOWER = Rain(
    rate=40, coverage=0.55, opacity=0.9, length=95, width=2.6, depth=4, angles=(0.16,), spread=0.02, light=1.1
)
DOWNPOUR = Rain(
    rate=60,
    coverage=1.0,
    opacity=0.85,
    length=80,
    width=2.8,
    depth=4,
    angles=(-0.22,),
    spread=0.04,
    light=1.05,
)
# photograph, frames, (top, left, height) of the window at the first and the last frame, rain
SHOTS = (
    ("moose.webp", 54, (0.09, 0.02, 0.82), (0.12, 0.18, 0.62), SHOWER),
    ("lemur.webp", 42, (0.12, 0.20, 0.78), (0.20, 0.10, 0.66), DOWNPOUR),
)


def shot(
    photo: Image, frames: int, begin: tuple[float, ...], end: tuple[float, ...], rain: Rain, seed: int
) -> Iterator[tuple[Image, Image]]:
    """Pairs of rainy and clean frames, (HEIGHT, WIDTH, 3) uint8, of a pan over a photograph."""
    cv2 = need("cv2")
    field = RainField(rain, HEIGHT, WIDTH, seed)
    tall, wide = photo.shape[:2]
    for i in range(frames):
        eased = 0.5 - 0.5 * np.cos(np.pi * i / (frames - 1))
        top, left, height = (a + (b - a) * eased for a, b in zip(begin, end, strict=True))
        scale = HEIGHT / (height * tall)
        matrix = np.array([[scale, 0, -left * wide * scale], [0, scale, -top * tall * scale]])
        clean = cv2.warpAffine(
            photo, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT
        )
        # The camera's own movement carries the drops along, half as fast as the far scene.
        pan = (-0.5 * (top - begin[0]) * tall * scale, -0.5 * (left - begin[1]) * wide * scale)
        rainy = render(torch.from_numpy(clean).permute(2, 0, 1).float() / 255, field, frame=i, shift=pan)
        yield (rainy * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(), clean


def clip_frames() -> Iterator[tuple[Image, Image]]:
    """All frames of the clip, rainy and clean."""
    folder = fetch_photos() / FOLDER
    for seed, (name, frames, begin, end, rain) in enumerate(SHOTS):
        yield from shot(load_photo(folder / name, 1024), frames, begin, end, rain, seed)


def rain_sound(seconds: float) -> np.ndarray:
    """Noise shaped to sound like rain: float32 [1,N] in -1..1, at SOUND_RATE."""
    rng = np.random.default_rng(0)
    count = int(seconds * SOUND_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / SOUND_RATE)
    spectrum *= 1 / (1 + (hertz / 2500) ** 2) * (hertz / (hertz + 250))
    sound = np.fft.irfft(spectrum, count)
    fade = np.clip(np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.3 * SOUND_RATE), 0, 1)
    return (0.12 * fade * sound / sound.std()).clip(-1, 1).astype(np.float32)[None]


def write_clip(path: Path, frames: list[Image]) -> None:
    """Writes frames and the sound as H.264 (BT.709, limited range) and AAC."""
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container,
    ):
        video = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "veryslow"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        audio.bit_rate = 48_000
        video.codec_context.colorspace = video.codec_context.color_primaries = (
            video.codec_context.color_trc
        ) = 1
        video.codec_context.color_range = 1
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(rain_sound(len(frames) / FPS), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = SOUND_RATE, 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode())


def main(folder: Path) -> None:
    """Writes the clip and the picture into `folder`."""
    cv2 = need("cv2")
    write_clip(folder / CLIP, [rainy for rainy, _ in clip_frames()])
    photo = load_photo(fetch_photos() / FOLDER / "lemur.webp", 768)
    field = RainField(DOWNPOUR, photo.shape[0], photo.shape[1], seed=5)
    rainy = render(torch.from_numpy(photo).permute(2, 0, 1).float() / 255, field)
    picture = (rainy * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    with atomic_path(folder / PICTURE) as temporary:
        cv2.imwrite(str(temporary), picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
