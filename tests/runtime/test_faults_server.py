"""Streams that are lost, hung, slow or refused: faults 1 to 9, with a real server on loopback."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from sdps.core.errors import SourceError, UsageError
from sdps.runtime.live_source import LiveSource, Patience
from sdps.runtime.redact import redacted
from sdps.runtime.sources import open_source
from sdps.runtime.stream import SourceRefused
from sdps.runtime.video_source import VideoSource

from .conftest import MakeVideo
from .http_server import serving
from .live import Proxy, RtspServer, Run, free_port, have_rtsp_server

needs_server = pytest.mark.skipif(
    not have_rtsp_server(),
    reason="needs Debian's python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good -ugly -bad",
)


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    with RtspServer() as running:
        yield running


@needs_server
def test_fault_1_and_2_a_server_that_dies_or_hangs_comes_back(server: RtspServer) -> None:
    """Killed, restarted; stopped, continued: stale is marked, nothing comes twice or out of order."""
    with Run(open_source(server.uri)) as run:
        run.frames(10)
        server.kill()
        lost = run.event("lost")
        ready = server.start()
        back = run.event("recovered")
        assert lost.at < ready < back.at
        run.frames(10)
        before = run.pipeline.summary.stale
        server.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        stale = run.event("stale", after=before)
        assert stale.at - stopped < 3, "a hung server is noticed within 3 s"
        run.until(lambda: len(run.sink.marked) >= 1)
        assert run.pipeline.figures()["state"] == "stale"
        assert not run.pipeline.figures()["healthy"]
        server.signal(signal.SIGCONT)
        run.event("recovered", after=1)
        run.frames(10)
        numbers, summary = run.sink.numbers, run.pipeline.summary
        assert run.pipeline.figures()["state"] == "live"
    wrong = [(a, b) for a, b in itertools.pairwise(numbers) if a >= b]
    assert not wrong, "duplicated or reordered"
    assert summary.reconnects >= 1 and summary.stale >= 1 and len(summary.recoveries) == 2
    assert (run.sink.marked[0][0, 0] == (170, 20, 20)).all(), "the mark is drawn into the picture"


@needs_server
def test_fault_5_a_line_that_is_too_slow_does_not_let_latency_grow(server: RtspServer) -> None:
    """The backlog is dropped by connecting anew; what is shown is never much older than the limit."""
    with Proxy(server.port) as line:
        patience = Patience(lag=0.5, stale=5, silent=9, opening=20)
        source = LiveSource(lambda: VideoSource(line.uri, live=True), "slow", patience=patience)
        with Run(source) as run:
            run.frames(10)
            line.rate = 2_000  # half of what the camera sends
            event = run.event("lagging")
            line.rate = None
            run.event("recovered")
        assert 0.5 < event.values["seconds"] < 3
        assert line.connections >= 2


@needs_server
def test_fault_6_resets_within_a_packet_are_retried_with_growing_jittered_pauses(server: RtspServer) -> None:
    with Proxy(server.port, cut_after=10_000) as line, Run(open_source(line.uri)) as run:
        run.event("recovered", timeout=30)
        run.frames(5)
        numbers = list(run.sink.numbers)
    assert line.connections >= 2
    assert all(a < b for a, b in itertools.pairwise(numbers))


def test_fault_6_the_pauses_themselves() -> None:
    patience = Patience()
    pauses = [[patience.pause(attempt) for _ in range(200)] for attempt in range(8)]
    middles = [sum(p) / len(p) for p in pauses]
    assert all(b > 1.5 * a for a, b in itertools.pairwise(middles[:3])), "doubled"
    assert max(map(max, pauses)) <= 1.25, "so that a server that is back is found within 3 s"
    assert all(len(set(p)) > 100 for p in pauses), "no two clients in step"


def test_fault_7_a_server_that_accepts_and_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        uri = f"rtsp://user:geheim@127.0.0.1:{mute.getsockname()[1]}/cam"
        begin = time.monotonic()
        with pytest.raises(SourceError, match="does not answer") as caught:
            LiveSource(lambda: VideoSource(uri, live=True), redacted(uri), patience=Patience(opening=1.0))
        assert time.monotonic() - begin < 7, "not FFmpeg's own patience"
        assert "geheim" not in str(caught.value)


@needs_server
def test_fault_8_a_wrong_password_is_refused_at_once_and_repeated_nowhere() -> None:
    """Not even with --wait is it tried again: cameras lock users out. FFmpeg's own words are checked too."""
    with RtspServer("--password", "richtig") as server:
        uri = f"rtsp://user:fal5ch@127.0.0.1:{server.port}/cam"
        with pytest.raises(SourceRefused, match=r"user:\*\*\*@.*refuses this user"):
            open_source(uri, wait=True)
        command = [sys.executable, "-c", "from sdps.runtime.cli import main; main()"]
        done = subprocess.run(
            [*command, "--input", uri, "--output", "none"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "Check the user and the password" in done.stderr
        assert "fal5ch" not in done.stderr + done.stdout
        good = open_source(f"rtsp://user:richtig@127.0.0.1:{server.port}/cam")
        assert "richtig" not in good.name  # type: ignore[attr-defined]
        good.close()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("rtsp://me:hunter2@cam/1", "hunter2"),
        ("rtsp://:hunter2@cam:554/1", "hunter2"),
        ("rtsp://hunter2@cam/1", "hunter2"),
        ("rtsp://me:hun/ter2@cam/1", "ter2"),
        ("rtsp://me:p@hunter2@cam/1", "hunter2"),
        ("http://cam/video?user=me&password=hunter2&x=1", "hunter2"),
        ("https://cam/s.ts?access_token=hunter2", "hunter2"),
        ("failed: [Errno 5] x: 'RTSP://me:hunter2@cam/1' and http://cam/?pwd=hunter2", "hunter2"),
    ],
)
def test_fault_8_no_spelling_of_a_password_is_repeated(text: str, secret: str) -> None:
    assert secret not in redacted(text)
    assert "cam" in redacted(text)


def test_fault_8_what_is_no_password_is_left() -> None:
    for text in ("rtsp://cam:554/stream@2?x=1", "a@b.c", "http://[::1]:80/a", "no url at all"):
        assert redacted(text) == text


def test_fault_9_a_camera_that_is_absent_fails_or_is_waited_for() -> None:
    uri = f"rtsp://127.0.0.1:{free_port()}/cam"
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(uri)


@needs_server
def test_fault_9_a_camera_that_comes_late_is_found() -> None:
    port, said = free_port(), threading.Event()
    servers: list[RtspServer] = []

    def late() -> None:
        said.wait(20)
        servers.append(RtspServer(port=port))

    threading.Thread(target=late, daemon=True).start()
    source = open_source(f"rtsp://127.0.0.1:{port}/cam", wait=True, say=lambda text: said.set())
    assert next(iter(source)).image.shape == (96, 240, 3)
    source.close()
    servers[0].kill()


def may_make_networks() -> bool:
    if not (shutil.which("ip") and shutil.which("nft")):
        return False
    done = subprocess.run(["ip", "netns", "add", "sdps-try"], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", "sdps-try"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def network() -> Iterator[str]:
    """A network namespace at the other end of a virtual cable; its name. 10.77.9.2 is there."""
    if not may_make_networks():
        pytest.skip("needs root, iproute2 and nftables")
    name = f"sdps-{free_port()}"

    def ip(*words: str, inside: bool = False) -> None:
        prefix = ["ip", "netns", "exec", name] if inside else []
        subprocess.run([*prefix, "ip", *words], check=True, capture_output=True)

    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        ip("link", "add", "sdps-a", "type", "veth", "peer", "name", "sdps-b", "netns", name)
        ip("addr", "add", "10.77.9.1/24", "dev", "sdps-a")
        ip("link", "set", "sdps-a", "up")
        ip("addr", "add", "10.77.9.2/24", "dev", "sdps-b", inside=True)
        ip("link", "set", "sdps-b", "up", inside=True)
        yield name
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine makes no virtual cable: {error.stderr}")
    finally:
        subprocess.run(["ip", "link", "del", "sdps-a"], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@needs_server
def test_fault_3_and_4_packet_loss_and_a_pulled_cable(network: str) -> None:
    """5 % of the packets lost: it goes on. The cable out and in again: it recovers."""
    inside = ("ip", "netns", "exec", network)
    with RtspServer("--address", "0.0.0.0", prefix=inside) as server:
        uri = f"rtsp://10.77.9.2:{server.port}/cam"
        rules = (
            "table ip t { chain c { type filter hook input priority 0; numgen random mod 100 < 5 drop; }; }"
        )
        subprocess.run([*inside, "nft", rules], check=True)
        with Run(open_source(uri)) as run:
            run.frames(50, timeout=40)
            assert run.pipeline.summary.skipped <= 2
            subprocess.run([*inside, "nft", "flush", "ruleset"], check=True)
            subprocess.run(["ip", "link", "set", "sdps-a", "down"], check=True)
            run.event("stale")
            subprocess.run(["ip", "link", "set", "sdps-a", "up"], check=True)
            run.event("recovered", timeout=30)
            run.frames(5)
            numbers = run.sink.numbers
    assert all(a < b for a, b in itertools.pairwise(numbers))


def test_fault_37_schemes_and_lists_that_reach_other_files_are_refused() -> None:
    for uri in (
        "ftp://x/a.mp4",
        "tcp://127.0.0.1:9",
        "udp://0.0.0.0:9",
        "data:video/mp4;base64,AA",
        "async:x",
        "pipe:0",
    ):
        with pytest.raises(UsageError, match="not an input"):
            open_source(uri)


def test_a_stream_over_http_is_live_and_comes_back(make_video: MakeVideo) -> None:
    """A transport stream without an end to it, by a server of Python's own; it breaks off every second."""
    body = make_video("in.ts", size=(96, 128), times=50, noisy=True).read_bytes()
    with serving(body, rate=len(body)) as uri:
        source = open_source(f"{uri}/camera.ts?token=geheim")
        assert source.info.live and source.info.frames is None
        with Run(source) as run:
            lost, back = run.event("lost"), run.event("recovered")
            run.frames(5)
    assert "geheim" not in lost.text + back.text
    assert run.pipeline.summary.reconnects >= 1
