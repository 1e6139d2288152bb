"""Sound and subtitles that are carried over: whole, in time, and as they were described."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
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
            stream.disposition = use.value

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
        assert "title" not in container.streams.video[0].metadata
    assert names(out) == names(path)
    if suffix == ".mkv" or names(path)[0]:  # PyAV 15 reads none of MP4
        assert names(out) == ["Comments", "Deutsch"]


def names(path: Path) -> list[str | None]:
    with av.open(str(path)) as container:
        return [s.metadata.get("title") or s.metadata.get("name") for s in container.streams.audio]


def told(path: Path) -> list[tuple[float, float]]:
    """Begin and end of each subtitle."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(subtitles=0) if p.pts is not None]
        return [
            (float(p.pts * p.time_base), float((p.pts + (p.duration or 0)) * p.time_base)) for p in packets
        ]


def test_of_a_subtitle_a_part_has_its_part(tmp_path: Path) -> None:
    spans = [("00,100", "00,500"), ("00,600", "01,900"), ("01,500", "02,500"), ("03,000", "03,500")]
    words = [f"{i}\n00:00:{a} --> 00:00:{b}\nline {i}\n" for i, (a, b) in enumerate(spans, 1)]
    (tmp_path / "words.srt").write_text("\n".join(words))
    whole = film(tmp_path / "whole.mp4", steady(100), max_b_frames=0)
    path, out = combined(tmp_path / "in.mkv", [whole, tmp_path / "words.srt"]), tmp_path / "out.mkv"
    assert sdps_run(path, out, "--start", "1", "--duration", "0.6").returncode == 0
    assert told(out) == [pytest.approx((0.0, 0.6), abs=0.002), pytest.approx((0.5, 0.6), abs=0.002)]
    assert sdps_run(path, tmp_path / "whole.mkv").returncode == 0
    assert told(tmp_path / "whole.mkv") == told(path)


def test_a_subtitle_that_began_before_a_key_frame_is_found(tmp_path: Path) -> None:
    (tmp_path / "words.srt").write_text("1\n00:00:03,000 --> 00:00:09,000\nlong\n")
    whole = film(tmp_path / "whole.mp4", steady(250), max_b_frames=0)
    path, out = combined(tmp_path / "in.mkv", [whole, tmp_path / "words.srt"]), tmp_path / "out.mkv"
    assert sdps_run(path, out, "--start", "8").returncode == 0
    assert told(out) == [pytest.approx((0.0, 1.0), abs=0.002)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_second_longer_picture_stream_is_no_damage(suffix: str, tmp_path: Path) -> None:
    short, long = film(tmp_path / "1.mp4", steady(50), 2.0), film(tmp_path / "2.mp4", steady(100))
    path = combined(tmp_path / f"in{suffix}", [short, long])
    done = sdps_run(path, tmp_path / "out.mp4")
    assert done.returncode == 0, done.stderr
    assert "of the 2 picture streams only the first is taken" in done.stderr
    assert seconds_of(tmp_path / "out.mp4", "video")[-1] == pytest.approx(1.96, abs=0.05)


@pytest.mark.parametrize(
    ("layout", "target", "channels"), [("2.1", "out.webm", 6), ("6.1", "out.mp4", 7), ("6.1", "out.webm", 7)]
)
def test_no_channel_is_lost(layout: str, target: str, channels: int, tmp_path: Path) -> None:
    path, out = tmp_path / "in.mov", tmp_path / target
    whole = film(tmp_path / "whole.mp4", steady(25))
    with av.open(str(whole)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        sound: Any = container.add_stream("pcm_s16le", rate=48_000, layout=layout)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
        silence = np.zeros((1, 48_000 * sound.codec_context.layout.nb_channels), np.int16)
        piece = av.AudioFrame.from_ndarray(silence, format="s16", layout=layout)
        piece.sample_rate, piece.pts = 48_000, 0
        container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    done = sdps_run(path, out)
    assert done.returncode == 0, done.stderr
    with av.open(str(out)) as container:
        assert container.streams.audio[0].codec_context.channels == channels


def described(path: Path, kind: str) -> Path:
    """A film of 2 s with tags, and where PyAV knows them with two chapters and a font."""

    def edit(target: Any, streams: list[Any]) -> None:
        target.metadata.update(title="Rain", artist="Anna", encoder="false", location="+48.1000+011.5000/")
        target.metadata.update(director="Bert", duration="99")
        if hasattr(target, "set_chapters"):
            unit = Fraction(1, 1000)
            spans = enumerate([(0, 1000), (1000, 2000)], 1)
            target.set_chapters(
                [
                    {"id": i, "start": a, "end": b, "time_base": unit, "metadata": {"title": f"Part {i}"}}
                    for i, (a, b) in spans
                ]
            )
            if kind == ".mkv":
                target.add_attachment("font.ttf", "font/ttf", b"1234")

    return combined(path / f"in{kind}", [film(path / "whole.mp4", steady(50), 2.0)], edit)


def tags(path: Path) -> dict[str, str]:
    with av.open(str(path)) as container:
        return {name.lower(): value for name, value in container.metadata.items()}


def chapters(path: Path) -> list[tuple[float, float, str]]:
    with av.open(str(path)) as container:
        found: list[Any] = container.chapters()
        return [
            (
                round(float(c["start"] * c["time_base"]), 2),
                round(float(c["end"] * c["time_base"]), 2),
                c["metadata"]["title"],
            )
            for c in found
        ]


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.mov", "out.webm"])
def test_a_film_keeps_its_title_and_place(target: str, tmp_path: Path) -> None:
    done = sdps_run(described(tmp_path, ".mkv"), tmp_path / target)
    assert done.returncode == 0, done.stderr
    kept = tags(tmp_path / target)
    assert (kept["title"], kept["artist"], kept["location"]) == ("Rain", "Anna", "+48.1000+011.5000/")
    assert kept.get("encoder") != "false" and kept.get("duration") != "99"
    whole = target in ("out.mkv", "out.webm")
    assert ("director" in kept) == whole and ("says of itself: DIRECTOR" in done.stderr) != whole


needs_chapters = pytest.mark.skipif(
    not hasattr(av.container.OutputContainer, "set_chapters"), reason="this PyAV writes no chapters"
)


@needs_chapters
@pytest.mark.parametrize("source", [".mp4", ".mkv"])
@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.webm"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), [(0.0, 1.0, "Part 1"), (1.0, 2.0, "Part 2")]),
        (("--start", "0.4", "--duration", "1"), [(0.0, 0.6, "Part 1"), (0.6, 1.0, "Part 2")]),
        (("--limit", "10"), [(0.0, 0.4, "Part 1")]),
    ],
)
def test_chapters_of_a_part_are_its_own(
    source: str, target: str, options: tuple[str, ...], expected: list[Any], tmp_path: Path
) -> None:
    done = sdps_run(described(tmp_path, source), tmp_path / target, *options)
    assert done.returncode == 0, done.stderr
    found = chapters(tmp_path / target)
    assert [c[2] for c in found] == [c[2] for c in expected]
    assert [c[:2] for c in found] == [pytest.approx(c[:2], abs=0.05) for c in expected]
    with av.open(str(tmp_path / target)) as container:
        assert container.duration / 1e6 < expected[-1][1] + 0.1


@needs_chapters
def test_a_font_stays_where_there_is_room_for_it(tmp_path: Path) -> None:
    path = described(tmp_path, ".mkv")
    assert sdps_run(path, tmp_path / "out.mkv").returncode == 0
    with av.open(str(tmp_path / "out.mkv")) as container:
        fonts: list[Any] = [s for s in container.streams if s.type == "attachment"]
        assert [(s.metadata["filename"], bytes(s.data)) for s in fonts] == [("font.ttf", b"1234")]
    assert "left out: font.ttf" in sdps_run(path, tmp_path / "out.mp4").stderr
