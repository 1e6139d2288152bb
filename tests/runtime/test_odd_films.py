"""Films as broadcasts, phones and editors make them: odd clocks, odd sound, mirrored, HDR."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type

from sdps.core.frame import Image
from sdps.runtime.orientation import display_matrix, upright
from sdps.runtime.sources import open_source

from .http_server import serving

COMMAND = [sys.executable, "-c", "from sdps.runtime.cli import main; main()", "--provider", "identity"]
CLOCK = Fraction(1, 90_000)


def sdps_run(source: Path | str, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "--input", str(source), "--output", str(target), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def film(
    path: Path,
    times: list[float],
    sound: float = 0.0,
    codec: str = "aac",
    rate: int = 48_000,
    layout: str = "mono",
    begin: float = 0.0,
    **tags: Any,
) -> Path:
    """A film of 64x48 with pictures at `times` and so many seconds of a tone, all later by `begin`."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "10", "g": "50"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = CLOCK
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        tone: Any = None
        if sound:
            options = {"strict": "experimental", "b": "128000"}  # those of Vorbis and WMA want it
            tone = container.add_stream(codec, rate=rate, layout=layout, options=options)
        packets = []
        for i, time in enumerate(times):
            image = np.full((48, 64, 3), 40 + i % 160, np.uint8)
            image[:12, :16] = 255  # upper left
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round((time + begin) / CLOCK), CLOCK
            packets += stream.encode(frame)
        packets += stream.encode(None)
        step = (tone.codec_context.frame_size or 1024) if tone else 1
        for at in range(0, int(sound * rate) - step + 1, step):
            wave = np.sin(np.arange(at, at + step) * 440 * 2 * np.pi / rate) * 8000
            channels = 2 if layout == "stereo" else 1
            data = wave.astype(np.int16).repeat(channels)[None]
            piece = av.AudioFrame.from_ndarray(data, format="s16", layout=layout)
            piece.sample_rate, piece.pts = rate, at + round(begin * rate)
            piece.time_base = Fraction(1, rate)
            packets += tone.encode(piece)
        packets += tone.encode(None) if tone else []
        for packet in sorted((p for p in packets if p.dts is not None), key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    return path


def seconds_of(path: Path, kind: str) -> list[float]:
    """The moments of a file's frames, or of its pieces of sound."""
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(**{kind: 0})]


def steady(count: int) -> list[float]:
    return [i / 25 for i in range(count)]


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_a_sound_longer_than_the_picture_is_no_damage(suffix: str, tmp_path: Path) -> None:
    path = film(tmp_path / f"in{suffix}", steady(25), sound=6.0)
    done = sdps_run(path, tmp_path / "out.mp4")
    assert done.returncode == 0, done.stderr
    assert len(seconds_of(tmp_path / "out.mp4", "video")) == 25
    assert seconds_of(tmp_path / "out.mp4", "audio")[-1] > 5.5


@pytest.mark.parametrize("options", [(), ("--start", "2", "--duration", "3")])
def test_a_film_whose_rate_falls_is_no_damage(options: tuple[str, ...], tmp_path: Path) -> None:
    times = [i / 50 for i in range(100)] + [2 + i / 5 for i in range(20)]
    done = sdps_run(film(tmp_path / "in.mkv", times), tmp_path / "out.mkv", *options)
    assert done.returncode == 0, done.stderr
    assert len(seconds_of(tmp_path / "out.mkv", "video")) == (15 if options else 120)


@pytest.mark.skipif(
    int(av.__version__.split(".")[0]) < 16, reason="PyAV does not tell how long a frame is shown"
)
def test_the_last_picture_stands_as_long_as_it_stood(tmp_path: Path) -> None:
    whole, held = film(tmp_path / "whole.mp4", steady(10), max_b_frames=0), tmp_path / "held.mp4"
    with av.open(str(whole)) as source, av.open(str(held), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        packets[-1].duration = round(5 / packets[-1].time_base)
        for packet in packets:
            packet.stream = stream
            target.mux(packet)
    assert sdps_run(held, tmp_path / "out.mp4").returncode == 0
    with av.open(str(held)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        assert before.duration > 5_000_000
        assert after.duration == pytest.approx(before.duration, abs=50_000)


def test_a_film_trimmed_without_encoding_is_no_damage(tmp_path: Path) -> None:
    """As editors do it: all pictures from the key frame on are there, an edit list hides the first."""
    whole, trimmed = film(tmp_path / "whole.mp4", steady(100)), tmp_path / "trimmed.mp4"
    with (
        av.open(str(whole)) as source,
        av.open(str(trimmed), "w", options={"avoid_negative_ts": "disabled"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts is not None and packet.time_base:
                shift = round(1.2 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    done = sdps_run(trimmed, tmp_path / "out.mp4")
    assert done.returncode == 0, done.stderr
    assert len(seconds_of(tmp_path / "out.mp4", "video")) == 70


def test_a_broadcast_begins_when_it_begins(tmp_path: Path) -> None:
    """Its clock has run for hours."""
    path = film(tmp_path / "in.ts", steady(50), sound=2.0, begin=26_000.0)
    source = open_source(str(path), start=0.5, duration=1.0)
    times = [frame.time for frame in source]
    source.close()
    assert len(times) in (25, 26) and times[0] < 0.05 and times[-1] < 1.0
    done = sdps_run(path, tmp_path / "out.mp4")
    assert done.returncode == 0, done.stderr
    pictures, sound = (seconds_of(tmp_path / "out.mp4", kind) for kind in ("video", "audio"))
    assert len(pictures) == 50 and pictures[0] < 0.1 and abs(pictures[0] - sound[0]) < 0.03


@pytest.mark.parametrize(("suffix", "begin"), [(".mkv", 2.0), (".ts", 95_440.0), (".ts", 1.4)])
def test_a_late_beginning_and_a_clock_that_wraps_are_no_damage(
    suffix: str, begin: float, tmp_path: Path
) -> None:
    """The clock of MPEG-TS has 33 bits, which are full after 95,443.7 s."""
    path, out = film(tmp_path / f"in{suffix}", steady(250), sound=10.0, begin=begin), tmp_path / "out.mp4"
    done = sdps_run(path, out)
    assert done.returncode == 0, done.stderr
    pictures = seconds_of(out, "video")
    assert len(pictures) == 250 and pictures[0] < 0.1 and max(np.diff(pictures)) < 0.06
    assert abs(len(seconds_of(out, "audio")) - len(seconds_of(path, "audio"))) <= (suffix == ".mkv")


def test_subtitles_that_share_a_moment_keep_it(tmp_path: Path) -> None:
    """Signs and karaoke have hundreds."""
    stamps = ["00:00:00,500"] * 20 + ["00:00:00,700"]
    words = [f"{i}\n{stamp} --> 00:00:01,000\nline {i}\n" for i, stamp in enumerate(stamps, 1)]
    (tmp_path / "words.srt").write_text("\n".join(words))
    whole, path, out = film(tmp_path / "whole.mp4", steady(50)), tmp_path / "in.mkv", tmp_path / "out.mkv"
    with (
        av.open(str(whole)) as pictures,
        av.open(str(tmp_path / "words.srt")) as subtitles,
        av.open(str(path), "w") as target,
    ):
        packets: list[Any] = []
        for source in (pictures, subtitles):
            stream = target.add_stream_from_template(source.streams[0])
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = stream
                    packets.append(packet)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            target.mux(packet)
    assert sdps_run(path, out).returncode == 0
    with av.open(str(out)) as container:
        told = [packet for packet in container.demux(subtitles=0) if packet.pts is not None]
        assert [round(float(packet.pts * packet.time_base), 3) for packet in told] == [0.5] * 20 + [0.7]


@pytest.mark.parametrize("start", [1.0, 7.0, 13.0])
def test_a_start_within_a_transport_stream_is_found(start: float, tmp_path: Path) -> None:
    """FFmpeg finds its key frames by their place in the file, and often lands behind."""
    path = film(tmp_path / "in.ts", steady(400), sound=16.0)
    source = open_source(str(path), start=start, duration=1.0)
    times = [frame.time for frame in source]
    source.close()
    assert len(times) in (25, 26) and times[0] < 0.05


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_two_recordings_in_one_file_follow_one_another(suffix: str, tmp_path: Path) -> None:
    one = film(tmp_path / "one.ts", steady(50), sound=2.0).read_bytes()
    (tmp_path / "both.ts").write_bytes(one + one)
    out = tmp_path / f"out{suffix}"
    done = sdps_run(tmp_path / "both.ts", out)
    assert done.returncode == 0, done.stderr
    assert "falls back after 2.0 s" in done.stderr
    pictures, sound = seconds_of(out, "video"), seconds_of(out, "audio")
    assert len(pictures) == 100 and max(np.diff(pictures)) < 0.05 and min(np.diff(pictures)) > 0.03
    assert 3.8 < sound[-1] < 4.1


def test_sound_that_changes_its_channels_is_encoded_on(tmp_path: Path) -> None:
    parts = [
        film(tmp_path / f"{layout}.ts", steady(50), 2.0, "mp2", layout=layout, begin=begin).read_bytes()
        for layout, begin in (("mono", 0.0), ("stereo", 2.0))
    ]
    (tmp_path / "in.ts").write_bytes(b"".join(parts))
    done = sdps_run(tmp_path / "in.ts", tmp_path / "out.mp4")
    assert done.returncode == 0, done.stderr
    assert seconds_of(tmp_path / "out.mp4", "audio")[-1] > 3.5


@pytest.mark.parametrize("rate", [4_000, 192_000])
def test_sound_at_a_rate_that_aac_lacks_is_resampled(rate: int, tmp_path: Path) -> None:
    path = film(tmp_path / "in.mkv", steady(25), 1.0, "pcm_s16le", rate)
    done = sdps_run(path, tmp_path / "out.mp4")
    assert done.returncode == 0, done.stderr
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].codec_context.sample_rate == 48_000


def test_hdr_stays_tagged(tmp_path: Path) -> None:
    path = film(tmp_path / "in.mkv", steady(5), colorspace=9, color_primaries=9, color_trc=16)
    assert sdps_run(path, tmp_path / "out.mp4").returncode == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        next(container.decode(video=0))
        assert (context.colorspace, context.color_primaries, context.color_trc) == (9, 9, 16)


def shown_at(image: Image) -> tuple[int, int]:
    """In which corner the white stands: (row, column), 0 or 1."""
    white = np.argwhere(image.min(2) > 200).mean(0)
    return int(white[0] > image.shape[0] / 2), int(white[1] > image.shape[1] / 2)


@pytest.mark.parametrize(
    ("turn", "mirror", "corner"),
    [(0, "", (0, 0)), (0, "across", (0, 1)), (0, "down", (1, 0)), (90, "", (1, 0)), (90, "across", (1, 1))],
)
def test_a_mirrored_film_is_shown_as_players_show_it(
    turn: int, mirror: str, corner: tuple[int, int], tmp_path: Path
) -> None:
    """The matrix stands in the track's header, where cameras put it; 90 is counter-clockwise."""
    data = bytearray(film(tmp_path / "in.mp4", steady(3)).read_bytes())
    one = 1 << 16
    matrix = {0: [one, 0, 0, one], 90: [0, -one, one, 0]}[turn]
    # Mirroring comes after turning: it changes the sign of what is shown across (a, c) or down (b, d).
    for i in {"": (), "across": (0, 2), "down": (1, 3)}[mirror]:
        matrix[i] = -matrix[i]
    a, b, c, d = matrix
    at = data.index(b"tkhd") + 4 + 40
    values = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    data[at : at + 36] = np.array(values, ">i4").tobytes()
    (tmp_path / "turned.mp4").write_bytes(data)
    source = open_source(str(tmp_path / "turned.mp4"))
    image = next(iter(source)).image
    source.close()
    assert image.shape[:2] == ((64, 48) if turn else (48, 64)) == (source.info.height, source.info.width)
    assert shown_at(image) == corner


def test_turning_agrees_with_ffmpegs_own_angle(tmp_path: Path) -> None:
    for angle in (0, 90, 180, 270):
        path = tmp_path / f"{angle}.mp4"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.set_display_rotation(angle)
            image = np.zeros((48, 64, 3), np.uint8)
            image[:12, :16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            turned = np.rot90(image, round(int(frame.rotation) / 90) % 4)
            assert np.array_equal(upright(image, display_matrix(frame)), turned)
            assert angle == 0 or frame.side_data.get(Type.DISPLAYMATRIX) is not None  # type: ignore[call-overload]


@pytest.mark.parametrize("options", [(), ("--wait",)])
def test_a_film_over_http_is_read_once_and_its_sound_is_missed(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    body = film(tmp_path / "in.mkv", steady(50), sound=2.0).read_bytes()
    with serving(body, "video/x-matroska") as address:
        done = sdps_run(f"{address}/in.mkv", tmp_path / "out.mp4", *options)
    assert done.returncode == 0, done.stderr
    assert "sound of a film over HTTP is not carried over" in done.stderr
    assert len(seconds_of(tmp_path / "out.mp4", "video")) == 50


def test_that_a_film_is_interlaced_is_said(tmp_path: Path) -> None:
    path = tmp_path / "in.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"x264-params": "tff=1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for i in range(5):
            image = np.full((64, 64, 3), 40 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    assert "is interlaced" in sdps_run(path, tmp_path / "out.mp4").stderr


@pytest.mark.parametrize(
    "options",
    [("--start", "1e13"), ("--start", "1e300"), ("--every", "1" + 30 * "0"), ("--every", "10000000")],
)
def test_a_part_beyond_all_films_is_wrong_usage(options: tuple[str, ...], tmp_path: Path) -> None:
    done = sdps_run(film(tmp_path / "in.mp4", steady(5)), tmp_path / "out.mp4", *options)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "is at most" in done.stderr


def test_one_frame_of_very_many_is_shown_for_the_film(tmp_path: Path) -> None:
    path, out = film(tmp_path / "in.mp4", steady(50), max_b_frames=0), tmp_path / "out.mp4"
    assert sdps_run(path, out, "--every", "1000000").returncode == 0
    with av.open(str(out)) as container:
        assert len(list(container.decode(video=0))) == 1
        assert int(av.__version__.split(".")[0]) < 16 or container.duration == pytest.approx(2e6, abs=50_000)
