"""Damaged inputs, ended recordings, full and read-only disks, disguised inputs: faults 17 to 23, 37, 38."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from sdps.core.errors import SdpsError, SinkError, SourceError, UsageError
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.run_view import judge
from sdps.runtime.sinks import open_sink
from sdps.runtime.sources import open_source
from sdps.runtime.stream import StreamInfo
from sdps.runtime.video_source import VideoSource

from .conftest import MakeVideo, probe
from .live import Collector

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from sdps.runtime.cli import main; main()", "--provider", "identity"]


def sdps_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def half(make_video: MakeVideo, tmp_path: Path) -> Path:
    """The first half of a film of four seconds. Its index stands first, so it opens as if it were whole."""
    plain = make_video("plain.mp4", times=100, noisy=True)
    source = open_source(str(plain))
    Pipeline(source, lambda image: image, open_sink(str(tmp_path / "whole.mp4"), source.info)).run()
    data = (tmp_path / "whole.mp4").read_bytes()
    (path := tmp_path / "half.mp4").write_bytes(data[: len(data) // 2])
    return path


def test_fault_17_half_an_mp4_ends_with_an_error(half: Path, tmp_path: Path) -> None:
    """OpenCV would say nothing."""
    done = sdps_run("--input", str(half), "--output", str(tmp_path / "out.mp4"))
    assert done.returncode == 1
    frames = len(probe(tmp_path / "out.mp4").frames)
    assert 20 < frames < 80
    assert f"s too early, after {frames} frames" in done.stderr


@pytest.mark.parametrize(
    ("start", "duration", "limit", "lost"),
    [
        (0, 1.0, None, 0),  # is all there
        (0, None, 25, 0),
        (0.5, 1.0, 90, 0),
        (0.5, 3.0, None, 1.5),
        (1.0, None, None, 2),
        (0, 100.0, None, 2),  # of which the film never had 96
        (0, 2.04, None, 0),  # a frame or two too few
        (0, None, 90, 2),
    ],
)
def test_a_part_of_a_cut_off_film_is_whole_or_not(
    half: Path, start: float, duration: float | None, limit: int | None, lost: float
) -> None:
    source = open_source(str(half), start=start, duration=duration)
    summary = Pipeline(source, lambda image: image, Collector(), limit=limit).run()
    with pytest.raises(SdpsError, match=r"too early") if lost else contextlib.nullcontext() as caught:
        judge(summary, source, limit)
    if caught:
        seconds = float(re.findall(r"[\d.]+", str(caught.value))[0])
        assert seconds == pytest.approx(lost, abs=0.4)


def test_fault_18_corrupt_bytes_are_skipped_and_counted(make_video: MakeVideo, tmp_path: Path) -> None:
    data = bytearray(make_video("in.ts", times=60, noisy=True).read_bytes())
    for at in np.random.default_rng(3).integers(len(data) // 5, len(data) - 200, 60):
        data[at : at + 40] = bytes(40)
    (tmp_path / "hurt.ts").write_bytes(data)
    sink = Collector()
    source = open_source(str(tmp_path / "hurt.ts"))
    summary = Pipeline(source, lambda image: image, sink).run()
    assert summary.written > 30
    assert summary.skipped + summary.written >= 50


@pytest.mark.parametrize("content", [b"", b"not a film\n"])
def test_fault_19_an_empty_or_text_file_named_mp4(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=r"film\.mp4"):
        open_source(str(tmp_path / "film.mp4"))


RECORDER = """
import sys, time
from tests.runtime.live import Fake, ticking
from sdps.runtime.live_source import LiveSource
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.sinks import open_sink
import numpy as np
rng = np.random.default_rng(0)
def noise(i):
    return rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
source = LiveSource(lambda: Fake(ticking(10**9, 25, noise)), "c")
sink = open_sink(sys.argv[1:], source.info)
def tell(summary):
    print(summary.written, flush=True)
def hear(event):
    print("event", event.text, flush=True)
summary = Pipeline(source, lambda image: image, sink, tell, on_event=hear).run()
print("done", summary.failed_sinks, flush=True)
"""


@contextlib.contextmanager
def recording(*outputs: Path | str, prelude: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that records a live source of 25 frames/s, and prints the number of each frame written."""
    command = [sys.executable, "-c", prelude + RECORDER, *map(str, outputs)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], frames: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().isdecimal() and int(line) >= frames:
            return
    raise AssertionError(process.communicate())


def playable(path: Path) -> int:
    """Frames that a player gets out of a file."""
    count = 0
    with av.open(str(path)) as container, contextlib.suppress(av.FFmpegError):
        for _ in container.decode(video=0):
            count += 1
    return count


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_fault_20_a_killed_recording_loses_at_most_a_second(suffix: str, tmp_path: Path) -> None:
    with recording(tmp_path / f"out{suffix}") as process:
        wait_for(process, 70)
        process.kill()
        process.wait()
    left = list(tmp_path.iterdir())
    assert [p.name for p in left] == [f"out.part{suffix}"], "under a name that can be seen"
    assert playable(left[0]) >= 70 - 25
    with recording(tmp_path / f"out{suffix}") as process:  # the next run does not touch it
        wait_for(process, 3)
        process.kill()
        process.wait()
    assert playable(left[0]) >= 70 - 25


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_fault_38_a_live_recording_is_finished_within_three_seconds(
    number: signal.Signals, tmp_path: Path
) -> None:
    with recording(tmp_path / "out.mp4") as process:
        wait_for(process, 30)
        process.send_signal(number)
        begin = time.monotonic()
        process.communicate(timeout=20)
        assert time.monotonic() - begin < 3
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert playable(tmp_path / "out.mp4") >= 30


# A limit on file size stops writes with EFBIG as a full disk does with ENOSPC, without a disk to fill.
SMALL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"


def test_fault_22_a_write_error_is_said_once_and_the_other_outputs_go_on(tmp_path: Path) -> None:
    with recording(tmp_path / "out.mp4", "none", prelude=SMALL_DISK) as process:
        assert process.stdout is not None
        said, after = [], 0
        for line in process.stdout:
            if line.startswith("event"):
                said.append(line)
            elif said and (after := after + 1) > 20:
                break
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=20)
    assert len(said) == 1 and "cannot be written" in said[0] and "The other outputs go on" in said[0]
    assert "done ['" in rest and "Traceback" not in errors
    assert playable(tmp_path / "out.mp4") > 5, "what was recorded before it plays"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root, to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_fault_21_a_full_disk_is_said_and_the_live_view_goes_on(mounted: Path) -> None:
    with recording(mounted / "out.mp4", "none") as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("event"))
        assert "No space left" in line
        wait_for(process, 1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert playable(mounted / "out.mp4") > 5


def test_fault_21_under_a_file_fails_and_leaves_nothing(mounted: Path, make_video: MakeVideo) -> None:
    path = make_video(size=(240, 320), times=8, noisy=True)
    done = sdps_run("--input", str(path), "--output", str(mounted / "out.mp4"))
    assert done.returncode == 1
    assert "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert list(mounted.iterdir()) == []


def test_fault_23_a_read_only_folder_fails_before_the_work(mounted: Path, make_video: MakeVideo) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    info = open_source(str(make_video())).info
    for name in ("out.mp4", "pictures", "out.mkv"):
        with pytest.raises(SinkError, match="cannot be written"):
            open_sink(str(mounted / name), info)
    live = StreamInfo("camera", 64, 48, live=True)
    with pytest.raises(SinkError, match="cannot be written"):
        open_sink(str(mounted / "out.mp4"), live)


DISGUISES = {
    "list.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile {secret}\n",
    "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
}


@pytest.mark.parametrize("name", sorted(DISGUISES))
def test_fault_37_a_list_in_disguise_reaches_no_other_file(
    name: str, make_video: MakeVideo, tmp_path: Path
) -> None:
    """By their contents FFmpeg takes these for what they are, whatever they are called."""
    secret = make_video("secret.ts")
    (tmp_path / name).write_text(DISGUISES[name].format(secret=secret.name))
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize(
    "uri", ["list.m3u8", "x.sdp", "concat:a|b", "subfile,,start,0,end,9,,:a.mp4", "FILE:a.mp4"]
)
def test_fault_37_names_of_lists_and_other_protocols(uri: str) -> None:
    with pytest.raises(UsageError):
        open_source(uri)


def test_fault_37_a_server_cannot_lead_to_a_local_file(make_video: MakeVideo, tmp_path: Path) -> None:
    """A playlist over HTTP that names a file of ours."""
    from .http_server import serving

    secret = make_video("secret.ts")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode()
    with serving(playlist, "application/vnd.apple.mpegurl") as uri, pytest.raises(SourceError):
        VideoSource(f"{uri}/list.m3u8")


def test_the_log_and_the_health_file_tell_of_a_run(make_video: MakeVideo, tmp_path: Path) -> None:
    log, health = tmp_path / "run.log", tmp_path / "health.json"
    done = sdps_run(
        *("--input", str(make_video(times=30)), "--output", "none", "--overlay"),
        *("--log", str(log), "--health", str(health)),
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start", "end"]
    assert lines[1]["written"] == 30 and lines[1]["latency_ms"]["p99"] > 0
    state = json.loads(health.read_text())
    assert (state["state"], state["healthy"], state["written"]) == ("ended", True, 30)
    assert {"fps_now", "latency_ms", "dropped", "reconnects", "last_frame_age_s", "updated"} <= state.keys()
    assert "source to sink p50" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["health.json", "in.mp4", "run.log"]
