"""Sound and subtitles that are carried over: whole, in time, and as they were described."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from .test_odd_films import film, sdps_run, seconds_of, steady

TONE = 440  # Hz, see `film`


def samples(path: Path) -> Any:
    """A file's sound as (N,) float at 48 kHz."""
    resampler = av.AudioResampler("flt", "mono", 48_000)
    with av.open(str(path)) as container:
        parts = [part.to_ndarray()[0] for f in container.decode(audio=0) for part in resampler.resample(f)]
        return np.concatenate([*parts, *(part.to_ndarray()[0] for part in resampler.resample(None))])


def breaks(sound: Any) -> int:
    """In how many hundredths of a second a tone is no tone; a gap or a click is in one or two."""
    piece = np.arange(480) * TONE * 2 * np.pi / 48_000
    waves = np.stack([np.sin(piece), np.cos(piece)], 1)
    pieces = sound[2400 : len(sound) // 480 * 480 - 2400].reshape(-1, 480).T
    left = pieces - waves @ np.linalg.lstsq(waves, pieces, rcond=None)[0]
    return int((np.abs(left).max(0) > 0.03).sum())


def silenced(path: Path, at: float) -> Path:
    """The same MPEG-TS, with the first bytes of one packet of sound in it destroyed."""
    data = bytearray(path.read_bytes())
    begin = data.index(b"\x00\x00\x01\xc0", int(len(data) * at))
    sync = data.index(b"\xff\xf1", begin)
    data[sync : sync + 2] = b"\0\0"
    path.write_bytes(data)
    return path


def late(path: Path, stream: int, seconds: float, at: float = 0.5) -> Path:
    """The same MPEG-TS, with one stamp of a stream (0xE0 is the picture, 0xC0 the sound) later."""
    data = bytearray(path.read_bytes())
    begin = data.index(bytes((0, 0, 1, stream)), int(len(data) * at))
    for i in range(data[begin + 7] >> 6 & 1, -1, -1):  # PTS, and DTS if there is one
        field = data[begin + 9 + 5 * i :][:5]
        stamp = (
            (field[0] >> 1 & 7) << 30 | field[1] << 22 | field[2] >> 1 << 15 | field[3] << 7 | field[4] >> 1
        )
        stamp += round(seconds * 90_000)
        data[begin + 9 + 5 * i : begin + 14 + 5 * i] = bytes(
            (
                field[0] & 0xF1 | stamp >> 29 & 0xE,
                stamp >> 22 & 0xFF,
                stamp >> 14 & 0xFE | 1,
                stamp >> 7 & 0xFF,
                stamp << 1 & 0xFE | 1,
            )
        )
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("source", "codec", "rate", "target", "becomes"),
    [
        ("in.mkv", "vorbis", 44_100, "out.mp4", "aac"),
        ("in.asf", "wmav2", 44_100, "out.mp4", "aac"),
        ("in.asf", "wmav2", 44_100, "out.mkv", "aac"),
        ("in.mkv", "flac", 48_000, "out.webm", "opus"),
        ("in.mkv", "flac", 44_100, "out.mov", "aac"),
        ("in.mkv", "pcm_s16le", 48_000, "out.webm", "opus"),
        ("in.mkv", "libopus", 48_000, "out.mov", "aac"),
        ("in.avi", "adpcm_ms", 48_000, "out.webm", "opus"),
        ("in.mov", "pcm_s16le", 48_000, "out.mov", "pcm_s16le"),
    ],
)
def test_sound_is_whole_whatever_becomes_of_it(
    source: str, codec: str, rate: int, target: str, becomes: str, tmp_path: Path
) -> None:
    path, out = film(tmp_path / source, steady(75), 3.0, codec, rate, "stereo"), tmp_path / target
    done = sdps_run(path, out)
    assert done.returncode == 0, done.stderr
    with av.open(str(out)) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == becomes
    before, after = samples(path), samples(out)
    assert len(after) == pytest.approx(len(before), abs=0.06 * 48_000)
    assert breaks(before) == breaks(after) == 0
    assert max(np.diff(seconds_of(out, "audio"))) < 0.05


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_damaged_piece_of_sound_costs_that_piece(suffix: str, tmp_path: Path) -> None:
    path, out = film(tmp_path / "in.ts", steady(100), 4.0), tmp_path / f"out{suffix}"
    done = sdps_run(silenced(path, 0.5), out)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("sound of stream 1 is damaged") == 1
    assert len(seconds_of(out, "video")) == 100
    assert len(seconds_of(out, "audio")) in (186, 187, 188)


@pytest.mark.parametrize("target", ["out.mp4", "out.webm"])
@pytest.mark.parametrize(("stream", "seconds"), [(0xE0, 40), (0xE0, 5), (0xC0, 40)])
def test_one_false_stamp_moves_nothing_else(stream: int, seconds: float, target: str, tmp_path: Path) -> None:
    path, out = late(film(tmp_path / "in.ts", steady(100), 4.0), stream, seconds), tmp_path / target
    done = sdps_run(path, out)
    assert done.returncode == 0, done.stderr
    pictures, sound = seconds_of(out, "video"), seconds_of(out, "audio")
    assert len(pictures) == 100 and max(np.diff(pictures)) < 0.05 and pictures[-1] < 4.1
    assert max(np.diff(sound)) < 0.05 and 3.8 < sound[-1] < 4.1


def test_a_real_pause_stays(tmp_path: Path) -> None:
    times = [*steady(10), *(40 + i / 25 for i in range(10)), 80.0]
    path, out = film(tmp_path / "in.mkv", times, max_b_frames=0), tmp_path / "out.mkv"
    assert sdps_run(path, out).returncode == 0
    assert seconds_of(out, "video") == pytest.approx(times, abs=0.002)


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        (("--duration", "3"), 3.0),
        (("--duration", "100"), 4.0),
        (("--duration", "inf"), 4.0),
        (("--limit", "20"), 0.8),
        (("--start", "0.4", "--duration", "2"), 2.0),
    ],
)
def test_the_sound_of_a_part_is_as_long_as_the_part(
    options: tuple[str, ...], seconds: float, tmp_path: Path
) -> None:
    """The pictures end after 0.8 s, or earlier."""
    path, out = film(tmp_path / "in.mp4", steady(20), 4.0), tmp_path / "out.mp4"
    done = sdps_run(path, out, *options)
    assert done.returncode == 0, done.stderr
    assert len(samples(out)) / 48_000 == pytest.approx(seconds, abs=0.03)


def test_the_last_picture_of_a_part_has_its_sound(tmp_path: Path) -> None:
    path, out = film(tmp_path / "in.mp4", [2.0 * i for i in range(5)], 10.0), tmp_path / "out.mp4"
    assert sdps_run(path, out, "--duration", "4").returncode == 0
    assert len(samples(out)) / 48_000 == pytest.approx(4.0, abs=0.03)


def combined(path: Path, sources: list[Path], edit: Callable[[Any, list[Any]], None] | None = None) -> Path:
    """One file with all streams of several; `edit(target, streams)` says what they are."""
    inputs = [av.open(str(source)) for source in sources]
    with av.open(str(path), "w") as target:
        streams = {s: target.add_stream_from_template(s) for c in inputs for s in c.streams}
        if edit:
            edit(target, list(streams.values()))
        packets = [p for container in inputs for p in container.demux() if p.dts is not None]
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            packet.stream = streams[packet.stream]
            target.mux(packet)
    for container in inputs:
        container.close()
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_same_sound_plays_and_streams_keep_their_names(suffix: str, tmp_path: Path) -> None:
    def edit(target: Any, streams: list[Any]) -> None:
        for stream, name, use in zip(
            streams[1:], ("Comments", "Deutsch"), (Disposition.comment, Disposition.default), strict=True
        ):
            stream.metadata.update(title=name, language="deu")
            stream.disposition = use

    one, two = (film(tmp_path / f"{i}.mp4", steady(20), 0.8) for i in (1, 2))
    with av.open(str(two)) as source, av.open(str(tmp_path / "sound.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path = combined(tmp_path / f"in{suffix}", [one, tmp_path / "sound.mp4"], edit=edit)
    out = tmp_path / f"out{suffix}"
    assert sdps_run(path, out).returncode == 0
    with av.open(str(out)) as container:
        streams = container.streams.audio
        assert [Disposition(s.disposition) for s in streams] == [Disposition.comment, Disposition.default]
        names = [s.metadata.get("title") or s.metadata.get("name") for s in streams]
        assert names == ["Comments", "Deutsch"]
        assert "title" not in container.streams.video[0].metadata
