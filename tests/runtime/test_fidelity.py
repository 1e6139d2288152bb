"""What comes in goes out: sound as it was coded, exact frame rates, pictures as they are meant."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from sdps import Derainer
from sdps.core.frame import Image
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.sinks import open_sink
from sdps.runtime.sources import open_source

MakePicture = Callable[[int, int], Image]


def video(path: Path, rate: Fraction, codec: str = "libx264", audio: str = "", frames: int = 40) -> Path:
    """A file whose sound is interleaved with its pictures, as cameras and editors write it."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        sound: Any = container.add_stream(audio, rate=48_000, layout="mono") if audio else None
        per_frame = round(48_000 / rate)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, 1 / rate
            container.mux(stream.encode(frame))
            if sound:
                tone = 0.3 * np.sin(np.arange(i * per_frame, (i + 1) * per_frame) / 20)[None]
                piece = av.AudioFrame.from_ndarray(tone.astype(np.float32), format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 48_000, i * per_frame, Fraction(1, 48_000)
                container.mux(sound.encode(piece))
        container.mux(stream.encode())
        if sound:
            container.mux(sound.encode())
    return path


def copy(source: Path, target: Path) -> None:
    stream = open_source(str(source))
    Pipeline(stream, lambda image: image, open_sink(str(target), stream.info)).run()


def sound_of(path: Path) -> tuple[str, list[bytes], float]:
    """Codec, packets and decoded seconds of a file's sound."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        codec = stream.codec_context.codec.canonical_name
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
    with av.open(str(path)) as container:
        seconds = sum(f.samples for f in container.decode(audio=0)) / 48_000
    return codec, packets, seconds


def test_mp3_is_copied_byte_for_byte(tmp_path: Path) -> None:
    path = video(tmp_path / "in.mkv", Fraction(25), audio="libmp3lame")
    copy(path, tmp_path / "out.mp4")
    (codec, before, _), (after_codec, after, _) = sound_of(path), sound_of(tmp_path / "out.mp4")
    assert codec == after_codec == "mp3"
    assert after == before


@pytest.mark.parametrize(
    ("audio", "target", "codec"),
    [("libmp3lame", "out.mp4", "mp3"), ("libmp3lame", "out.webm", "opus")],
)
def test_sound_on_a_coarse_clock_is_carried_over(audio: str, target: str, codec: str, tmp_path: Path) -> None:
    """AVI counts MP3 in pieces of 24 ms, too coarse for the pieces of other encoders."""
    path = video(tmp_path / "in.avi", Fraction(25), "mpeg4", audio)
    copy(path, tmp_path / target)
    name, _, seconds = sound_of(tmp_path / target)
    assert name == codec
    assert seconds == pytest.approx(1.6, abs=0.08)


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60)])
@pytest.mark.parametrize(("name", "codec"), [("in.avi", "mpeg4"), ("in.mkv", "libx264")])
def test_frame_rates_stay_exact_whatever_the_clock(
    rate: Fraction, name: str, codec: str, tmp_path: Path
) -> None:
    copy(video(tmp_path / name, rate, codec), tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == rate
        stamps = sorted(p.pts for p in container.demux(stream) if p.pts is not None)
    assert len(stamps) == 40
    assert len(set(np.diff(stamps))) == 1


def test_an_output_with_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = video(tmp_path / "in.mp4", Fraction(25), frames=3)
    copy(path, Path("12:30.mp4"))
    assert (tmp_path / "12:30.mp4").stat().st_size > 0


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_become_8_and_it_is_said_once(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    values = np.tile(np.arange(0, 65536, 1024, dtype=np.uint16), (16, 1))
    for i in range(3):
        assert cv2.imwrite(str(folder / f"{i}{suffix}"), values[..., None].repeat(3, 2))
    source = open_source(str(folder))
    for frame in source:
        assert np.abs(frame.image[..., 0] - values / 257).max() <= 0.5
    assert [note for note in source.info.notes if "16 bits" in note] == source.info.notes
    assert len(source.info.notes) == 1


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_photograph_is_turned_as_its_camera_was_held(orientation: int, turns: int, tmp_path: Path) -> None:
    stored = np.zeros((20, 40, 3), np.uint8)
    stored[:, :20] = 200
    data = cv2.imencode(".jpg", stored)[1].tobytes()
    entry = struct.pack("<HHHIHH", 1, 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry + struct.pack("<I", 0)
    path = tmp_path / "held.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    image = next(iter(open_source(str(path)))).image
    expected = np.rot90(stored, turns)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() < 30


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (45, 61), (48, 64)])
def test_every_result_is_contiguous_and_its_own(size: tuple[int, int], picture: MakePicture) -> None:
    image = picture(*size)
    for tile in (None, 16):
        with Derainer.load(provider="identity", tile=tile) as derainer:
            result = derainer(image)
        assert np.array_equal(result, image)
        assert result.flags.c_contiguous and not np.shares_memory(result, image)
