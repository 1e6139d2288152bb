"""Several outputs, pipes, pushing to a server, the window; parts of a source."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from sdps.core.errors import SinkError, UsageError
from sdps.core.frame import Frame
from sdps.runtime.overlay import mark_stale, write_lines
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.rtsp_sink import RtspSink
from sdps.runtime.sinks import NullSink, open_sink
from sdps.runtime.sources import open_source
from sdps.runtime.stream import StreamInfo
from sdps.runtime.window_sink import WindowSink

from .conftest import MakeVideo, probe
from .live import Collector, RtspServer, Run, free_port, have_rtsp_server

COMMAND = [sys.executable, "-c", "from sdps.runtime.cli import main; main()", "--provider", "identity"]


def same(image: np.ndarray) -> np.ndarray:
    return image


def test_several_outputs_get_the_same_frames(make_video: MakeVideo, tmp_path: Path) -> None:
    source = open_source(str(make_video(times=10)))
    outputs = [str(tmp_path / "a.mp4"), str(tmp_path / "b.mkv"), str(tmp_path / "pictures")]
    with Pipeline(source, same, open_sink(outputs)) as pipeline:
        assert pipeline.run().written == 10
    assert len(probe(tmp_path / "a.mp4").frames) == len(probe(tmp_path / "b.mkv").frames) == 10
    assert len(list((tmp_path / "pictures").iterdir())) == 10


def test_one_output_that_cannot_be_opened_leaves_none(make_video: MakeVideo, tmp_path: Path) -> None:
    source = open_source(str(make_video()))
    with pytest.raises(UsageError, match=r"\.xyz"):
        open_sink([str(tmp_path / "a.mp4"), str(tmp_path / "b.xyz")], source.info)
    with pytest.raises(UsageError, match="once"):
        open_sink(["none", "none"], source.info)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_of_a_file_an_output_that_fails_fails_the_run(make_video: MakeVideo) -> None:
    class Broken(NullSink):
        def write(self, rainy: Frame, clean: Frame) -> bool:
            raise SinkError("full")

    from sdps.runtime.several_sinks import SeveralSinks

    source = open_source(str(make_video()))
    with pytest.raises(SinkError, match="full"):
        Pipeline(source, same, SeveralSinks([NullSink(), Broken()], live=False)).run()


@pytest.mark.parametrize("size", [(48, 64), (45, 61)])
def test_y4m_goes_through_a_pipe_and_back(
    size: tuple[int, int], make_video: MakeVideo, tmp_path: Path
) -> None:
    """sdps-run to standard output, and from standard input; nothing but frames on standard output."""
    path = make_video(size=size, times=8)
    first = subprocess.run(
        [*COMMAND, "--input", str(path), "--output", "-"], capture_output=True, check=False
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"YUV4MPEG2 W{size[1]} H{size[0]} F25:1 ".encode())
    second = subprocess.run(
        [*COMMAND, "--input", "-", "--output", str(tmp_path / "out.mkv")],
        input=first.stdout,
        capture_output=True,
        check=False,
    )
    assert second.returncode == 0, second.stderr
    before, after = probe(path), probe(tmp_path / "out.mkv")
    assert after.times == pytest.approx(before.times, abs=0.002)
    for a, b in zip(before.frames, after.frames, strict=True):
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 4


def test_a_reader_of_the_pipe_that_goes_away_ends_the_run() -> None:
    class Gone(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 10_000:
                raise BrokenPipeError
            return super().write(data)

    source = open_source("demo")
    sink = open_sink("-", source.info, stdout=Gone())
    summary = Pipeline(source, same, sink).run()
    assert not summary.complete and summary.written < 5


def test_a_part_of_a_video_with_its_part_of_the_sound(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(times=75, audio="aac")
    source = open_source(str(path), start=1.0, duration=1.0)
    Pipeline(source, same, open_sink(str(tmp_path / "part.mp4"), source.info)).run()
    whole, part = probe(path), probe(tmp_path / "part.mp4")
    assert len(part.frames) == 25 == source.info.frames
    assert part.times == pytest.approx([i / 25 for i in range(25)], abs=0.001)
    assert abs(part.frames[0].mean() - whole.frames[25].mean()) < 3, "the 26th frame comes first"
    assert part.sound == pytest.approx(1.0, abs=0.1)


def test_every_third_frame(make_video: MakeVideo, tmp_path: Path) -> None:
    source = open_source(str(make_video(times=30)), every=3)
    Pipeline(source, same, open_sink(str(tmp_path / "out.mp4"), source.info)).run()
    result = probe(tmp_path / "out.mp4")
    assert len(result.frames) == 10
    assert result.times == pytest.approx([i * 0.12 for i in range(10)], abs=0.002)


def test_parts_that_make_no_sense(make_video: MakeVideo, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UsageError, match="no times"):
        open_source(str(tmp_path / "a.png"), start=1.0)
    with pytest.raises(UsageError, match="--every"):
        open_source(str(make_video()), every=0)


@pytest.fixture
def subtitled(tmp_path: Path, make_video: MakeVideo) -> Path:
    """A film with a subtitle from 0.2 to 0.8 s, in Matroska."""
    film, words, path = make_video(times=40), tmp_path / "words.srt", tmp_path / "film.mkv"
    words.write_text("1\n00:00:00,200 --> 00:00:00,800\nIt rains.\n")
    with av.open(str(film)) as video, av.open(str(words)) as text, av.open(str(path), "w") as out:
        pairs = [(source, source.streams[0]) for source in (video, text)]
        outputs = [out.add_stream_from_template(stream) for _, stream in pairs]
        outputs[1].metadata["language"] = "eng"
        for (source, stream), output in zip(pairs, outputs, strict=True):
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = output
                    out.mux(packet)
    return path


def test_subtitles_are_kept_or_their_loss_is_said(subtitled: Path, tmp_path: Path) -> None:
    source = open_source(str(subtitled))
    Pipeline(source, same, open_sink(str(tmp_path / "out.mkv"), source.info)).run()
    with av.open(str(tmp_path / "out.mkv")) as out:
        stream = out.streams.subtitles[0]
        packet = next(p for p in out.demux(stream) if p.size)
        assert b"It rains." in bytes(packet)
        assert float(packet.pts * packet.time_base) == pytest.approx(0.2, abs=0.01)
        assert stream.metadata["language"] == "eng"
    said: list[str] = []
    source = open_source(str(subtitled))
    sink = open_sink(str(tmp_path / "out.mp4"), source.info)
    Pipeline(source, same, sink, on_event=lambda event: said.append(event.text)).run()
    assert said == ["subtitles of kind subrip are left out, because mp4 cannot hold them"]
    assert len(probe(tmp_path / "out.mp4").frames) == 40


def moving(rate: float = 25) -> Iterator[Frame]:
    begin = time.monotonic()
    for i in range(10**9):
        threading.Event().wait(1 / rate)
        yield Frame(np.full((96, 240, 3), 40 + i % 150, np.uint8), i, time.monotonic() - begin)


@pytest.mark.skipif(not have_rtsp_server(), reason="needs Debian's gir1.2-gst-rtsp-server-1.0 and plugins")
def test_pushing_to_a_server_that_dies_and_returns_never_stalls_the_pipeline(tmp_path: Path) -> None:
    got = tmp_path / "got.ts"
    port = free_port()
    with RtspServer("--record", str(got), port=port) as server:
        source = FakeLive()
        sink = RtspSink(server.uri, source.info)
        with Run(source, sink) as run:
            run.until(lambda: sink.sent >= 30)
            server.kill()
            run.event("sink")
            run.frames(25)
            first = tmp_path / "first.ts"
            got.rename(first)
            server.start()
            run.until(lambda: sink.connects >= 2)
            sent = sink.sent
            run.until(lambda: sink.sent >= sent + 20)
            slowest = max(run.pipeline.summary.latency)
    assert slowest < 2.0, "no write waited for the server"
    with av.open(str(first)) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == (96, 240)
        assert sum(1 for _ in container.decode(stream)) > 10


class FakeLive:
    """A live source of 240x96 pixels."""

    def __init__(self) -> None:
        self.info, self.skipped = StreamInfo("camera", 240, 96, live=True), 0

    def __iter__(self) -> Iterator[Frame]:
        return moving()

    def close(self) -> None:
        """Nothing is open."""


def test_a_server_that_takes_nothing_is_said_at_the_start() -> None:
    with pytest.raises(SinkError, match=r"me:\*\*\*@.*does not take the stream") as caught:
        open_sink(f"rtsp://me:geheim@127.0.0.1:{free_port()}/x", FakeLive().info)
    assert "geheim" not in str(caught.value)
    with pytest.raises(UsageError, match="not an output"):
        open_sink("http://127.0.0.1/x", FakeLive().info)


def test_a_paused_window_lets_a_camera_and_its_recording_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    import pygame

    info = StreamInfo("camera", 240, 96, live=True)
    window, other = WindowSink(info), Collector()
    frames = [Frame(np.full((96, 240, 3), value, np.uint8), i) for i, value in enumerate((50, 100, 150))]
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_SPACE))
    for frame in frames:
        assert window.write(frame, frame) and other.write(frame, frame)
    assert window.screen.get_at((120, 20))[0] == 50, "it stands still"
    assert len(other.images) == 3
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_SPACE))
    window.idle()
    assert window.write(frames[2], frames[2])
    assert window.screen.get_at((120, 20))[0] == 150
    window.close()


def test_marks_and_words_are_drawn_on_copies() -> None:
    for size in ((96, 240), (720, 1280), (24, 24)):
        image = np.full((*size, 3), 200, np.uint8)
        marked, lined = mark_stale(image, 12.4), write_lines(image, ["sdps-nano on cpu", "24.9 frames/s"])
        assert (image == 200).all()
        assert marked.shape == lined.shape == image.shape
        assert (marked[0, 0] == (170, 20, 20)).all()
        assert (lined[0] == 200).all() and (lined < 100).any()


def test_the_overlay_is_drawn_into_every_output(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(size=(240, 320), times=5)
    arguments = ["--input", str(path), "--output", str(tmp_path / "out.mp4"), "--overlay"]
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = probe(path).frames[2], probe(tmp_path / "out.mp4").frames[2]
    changed = np.abs(before.astype(int) - after).max(2) > 30
    assert changed[180:].any() and not changed[:150].any()


BARS_75 = {  # Y, Cb, Cr in 8 bits, limited range: ITU-R BT.709 (SMPTE RP 219) and BT.601
    1: "180 128 128, 168 44 136, 145 147 44, 134 63 52, 63 193 204, 51 109 212, 28 212 120",
    6: "180 128 128, 162 44 142, 131 156 44, 112 72 58, 84 184 198, 65 100 212, 35 212 114",
}
RGB_75 = [(191,) * 3, (191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), (0, 0, 191)]


@pytest.mark.parametrize("matrix", [1, 6])
@pytest.mark.parametrize("spread", [1, 2])
def test_colour_bars_make_a_round_trip_within_one_level(matrix: int, spread: int) -> None:
    """As coded, to RGB, and coded again; and the RGB in between is the standard's, where that is exact."""
    from sdps.runtime.color import ColorSpec, to_rgb, to_yuv

    bars = np.array([bar.split() for bar in BARS_75[matrix].split(",")], float)
    if spread == 2:
        bars[:, 0] = (bars[:, 0] - 16) * 255 / 219
        bars[:, 1:] = (bars[:, 1:] - 128) * 255 / 224 + 128
    planes = np.round(bars).astype(np.uint8).repeat(16, 0)[None].repeat(32, 0)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes.transpose(2, 0, 1)), "yuv444p")
    color = ColorSpec(matrix, spread)
    rgb = to_rgb(frame, color)
    middles = slice(8, None, 16)
    assert np.abs(rgb[16, middles].astype(int) - np.array(RGB_75)).max() <= 2
    again = to_yuv(rgb, "yuv444p", color).to_ndarray().reshape(3, 32, 112).transpose(1, 2, 0)
    assert np.abs(again[16, middles].astype(int) - planes[16, middles]).max() <= 1
    halved = to_yuv(rgb, "yuv420p", color)
    luma = np.frombuffer(halved.planes[0], np.uint8).reshape(-1, halved.planes[0].line_size)[16, :112]
    assert np.abs(luma[middles].astype(int) - planes[16, middles, 0]).max() <= 1


def test_ten_bits_become_eight_knowingly_and_rightly(tmp_path: Path) -> None:
    path = tmp_path / "deep.mkv"
    levels = np.repeat(np.arange(64, 940, 4, dtype=np.uint16), 2)[:436]
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 436, 32, "yuv444p10le"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        planes = np.full((3, 32, 436), 512, np.uint16)
        planes[0] = levels
        frame = av.VideoFrame(436, 32, "yuv444p10le")
        for plane, values in zip(frame.planes, planes, strict=True):
            rows = np.zeros((32, plane.line_size // 2), np.uint16)
            rows[:, :436] = values
            plane.update(rows.tobytes())
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    source = open_source(str(path))
    assert source.info.notes == ["the input has 10 bits per channel, the network sees and gives 8"]
    image = next(iter(source)).image
    expected = (levels.astype(float) - 64) / 876 * 255
    assert np.abs(image[16, :, 1] - expected).max() <= 1
    source.close()
