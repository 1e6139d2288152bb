"""What recording makes of a picture that it rained on: noise, softness or sharpening, compression.

Rendered rain is exact to the last bit; that of a camera is not. JPEG and H.264 smear a streak over
blocks of 8 pixels and ring beside it, and a network that never saw that takes it for texture: with
JPEG of quality 85, one trained on exact rain gains 1 dB less in heavy rain and half as much in light.
A frame of a video is predicted from the one before, whose rain has fallen on since: what is left of it
shines through where the encoder saved bits. The clean picture is recorded the same way, with the same
noise: what is to come out is what the camera would have recorded without rain, and a dry picture stays
as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from sdps.core.console import need
from sdps.core.frame import Image

COMPRESSED, FILTERED, NOISY = 0.50, 0.15, 0.10
"""Share of the patches that are compressed, softened or sharpened, and noisy."""
VIDEO = 0.5
"""Share of the compressed patches that are H.264's, where PyAV has an encoder; the others are JPEG's."""
QUALITY = (40, 97)
"""Of JPEG: from a web camera on a thin line to a photograph."""
CRF = (16, 34)
"""Constant rate factor of H.264, the other way round: from an archive to a surveillance camera."""
FRAMES = 3
"""Up to so many frames are encoded, of which the last one is taken: the first, or one predicted."""
NOISE = (0.5, 6.0)
"""Standard deviation in levels of 255, drawn log-uniformly."""


Scene = Callable[[int], Image]
"""What a camera sees, (H, W, 3) uint8 RGB, in the frame that counts (0) or so many before it (-1, -2)."""


def recorded(rng: np.random.Generator, *scenes: Scene) -> list[Image]:
    """What one camera would have recorded of scenes that differ in their rain: of each, frame 0.

    Args:
        rng: Decides what happens to them; often nothing does.
        scenes: All of one size. All of them get the same.
    """
    noisy, filtered, compressed = rng.random(3) < (NOISY, FILTERED, COMPRESSED)
    video = compressed and rng.random() < VIDEO and "libx264" in av.codecs_available
    frames = int(rng.integers(FRAMES)) + 1 if video else 1
    films = [[scene(frame) for frame in range(1 - frames, 1)] for scene in scenes]
    if noisy:
        deviation = float(np.exp(rng.uniform(*np.log(NOISE))))
        grain = [rng.normal(0, deviation, image.shape).astype(np.float32) for image in films[0]]
        films = [[_noisy(*frame) for frame in zip(film, grain, strict=True)] for film in films]
    if filtered:
        amount = float(rng.choice([-1.0, rng.uniform(0.2, 0.8)]))  # -1 leaves nothing but the soft picture
        deviation = float(rng.uniform(0.4, 1.2))
        films = [[_sharpened(image, deviation, amount) for image in film] for film in films]
    start = tuple(int(place) for place in rng.integers(8, size=2))
    if video:
        crf = int(rng.integers(CRF[0], CRF[1] + 1))
        return [h264(film, crf, start) for film in films]
    if compressed:
        quality, halved = int(rng.integers(QUALITY[0], QUALITY[1] + 1)), bool(rng.random() < 0.7)
        return [jpeg(image, quality, halved, start) for (image,) in films]
    return [image for (image,) in films]


def jpeg(image: Image, quality: int, halved: bool = True, start: tuple[int, ...] = (0, 0)) -> Image:
    """A picture, (H, W, 3) uint8 RGB, after JPEG compression.

    Args:
        quality: 1 to 100, in the scale of the Independent JPEG Group.
        halved: Whether colour has half the resolution (4:2:0), as nearly always in video.
        start: (down, right) pixels by which the compressed picture begins before this one, which may be
            a part of it: blocks of 8 pixels then lie elsewhere.
    """
    cv2 = need("cv2")
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if halved else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    top, left = start
    whole = np.pad(image, ((top, 0), (left, 0), (0, 0)), mode="edge")
    data = cv2.imencode(".jpg", whole[:, :, ::-1], options)[1]
    decoded: Image = cv2.imdecode(data, cv2.IMREAD_COLOR)[top:, left:, ::-1]
    return np.ascontiguousarray(decoded)


def h264(film: Sequence[Image], crf: int, start: tuple[int, ...] = (0, 0)) -> Image:
    """The last frame of a video, (H, W, 3) uint8 RGB, after H.264 compression.

    Args:
        film: All frames from the first one on, which is coded by itself; each later one is predicted
            from those before it, as cameras stream them (no frame waits for a later one).
        crf: Constant rate factor, 0 to 51.
        start: See `jpeg`.
    """
    top, left = start
    height, width = film[0].shape[0] + top, film[0].shape[1] + left
    # Colour of half the resolution asks for even sides.
    margin = ((top, height % 2), (left, width % 2), (0, 0))
    coding = {"crf": str(crf), "preset": "veryfast", "tune": "zerolatency"}
    encoder: Any = av.CodecContext.create("libx264", "w")
    decoder: Any = av.CodecContext.create("h264", "r")
    encoder.height, encoder.width = height + height % 2, width + width % 2
    encoder.pix_fmt, encoder.options, encoder.time_base = "yuv420p", coding, Fraction(1, 25)
    encoder.thread_count, decoder.thread_count = 1, 1
    packets = []
    for moment, image in enumerate(film):
        whole = av.VideoFrame.from_ndarray(np.pad(image, margin, mode="edge"), format="rgb24")
        frame = whole.reformat(format="yuv420p")
        frame.pts = moment
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    frames = [decoded for packet in [*packets, None] for decoded in decoder.decode(packet)]
    decoded: Image = frames[-1].to_ndarray(format="rgb24")[top:height, left:width]
    return np.ascontiguousarray(decoded)


def _noisy(image: Image, noise: np.ndarray) -> Image:
    noisy: Image = np.clip(image + noise, 0, 255).round().astype(np.uint8)
    return noisy


def _sharpened(image: Image, deviation: float, amount: float) -> Image:
    """The picture and `amount` times what a Gaussian blur takes from it; -1 is the blur alone."""
    cv2 = need("cv2")
    soft = cv2.GaussianBlur(image, (0, 0), deviation)
    sharpened: Image = cv2.addWeighted(image, 1 + amount, soft, -amount, 0)
    return sharpened
