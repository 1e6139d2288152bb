"""Published weights come over a real server on loopback that misbehaves in every way it can."""

from __future__ import annotations

import hashlib
import importlib.util
import multiprocessing
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sdps.core.errors import SdpsError, UsageError
from sdps.model import download, zoo
from sdps.model.download import KnownFile, fetch

DATA = bytes(range(256)) * 1200
FILE = KnownFile("net.pth", len(DATA), hashlib.sha256(DATA).hexdigest())


class Server(ThreadingHTTPServer):
    """Serves DATA; its attributes say how badly.

    Attributes:
        body: What it serves.
        cuts: Bytes after which a connection is cut, one for each request until they are used up.
        ranges: Whether it can resume.
        lengths: Whether it says how long what comes is.
        answers: Status codes for the first requests, before it serves anything.
        asked: The Range header of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = DATA
        self.cuts: list[int] = []
        self.ranges = True
        self.lengths = True
        self.answers: list[int] = []
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.headers.get("Range", ""))
        if server.answers:
            self.send_error(server.answers.pop(0))
            return
        start = int(server.asked[-1][6:-1]) if server.asked[-1] and server.ranges else 0
        if start >= len(server.body) and start:
            self.send_error(416)
            return
        rest = server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        if server.lengths:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(rest)
        self.wfile.write(rest[:cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def test_a_file_comes_whole_and_only_once(server: Server, tmp_path: Path) -> None:
    seen: list[int] = []
    path = fetch(FILE, server.url, tmp_path / "weights", lambda done, total: seen.append(done))
    assert path.read_bytes() == DATA
    assert seen[0] == 0 and seen[-1] == len(DATA) and seen == sorted(seen)
    assert fetch(FILE, server.url, tmp_path / "weights") == path
    assert server.asked == [""]
    assert not list(path.parent.glob("*.part"))


def test_a_cut_connection_is_resumed_where_it_was_cut(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 0, 50_000]
    assert fetch(FILE, server.url, tmp_path).read_bytes() == DATA
    assert server.asked == ["", "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_a_later_call_goes_on_where_the_last_one_ended(server: Server, tmp_path: Path) -> None:
    server.cuts = [200_000] + [0] * download.TRIES
    with pytest.raises(SdpsError, match="200000 of 307200 bytes are kept") as caught:
        fetch(FILE, server.url, tmp_path)
    assert str(tmp_path / FILE.name) in caught.value.remedy
    assert fetch(FILE, server.url, tmp_path).read_bytes() == DATA
    assert server.asked[-1] == "bytes=200000-"


def test_a_server_that_cannot_resume_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [100_000]
    assert fetch(FILE, server.url, tmp_path).read_bytes() == DATA


def test_a_server_that_cannot_resume_and_gets_no_further_is_given_up(server: Server, tmp_path: Path) -> None:
    """What it brings again is no progress: it would be asked for ever."""
    server.ranges, server.cuts = False, [100_000, 200_000] * 50
    with pytest.raises(SdpsError, match="cannot be downloaded"):
        fetch(FILE, server.url, tmp_path)
    assert len(server.asked) == 2 + download.TRIES


def test_what_is_cut_is_resumed_where_nobody_says_how_long_it_is(server: Server, tmp_path: Path) -> None:
    server.lengths, server.cuts = False, [100_000]
    assert fetch(FILE, server.url, tmp_path).read_bytes() == DATA
    assert server.asked == ["", "bytes=100000-"]


def test_a_refusal_to_resume_what_was_never_begun(server: Server, tmp_path: Path) -> None:
    server.answers = [416] * download.TRIES
    with pytest.raises(SdpsError, match=r"refuses to resume\. By"):
        fetch(FILE, server.url, tmp_path)


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.answers = [503, 429]
    assert fetch(FILE, server.url, tmp_path).read_bytes() == DATA


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:dd02b16e\nsize 38876396\n"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (DATA[:-1] + b"\x00", "another SHA-256"),
        (DATA[:-1], "has 307199 bytes instead of 307200"),
        (DATA + DATA, "instead of 307200"),
        (POINTER, "is a Git LFS pointer"),
    ],
    ids=["wrong byte", "too short", "too long", "LFS pointer"],
)
def test_other_bytes_are_deleted_and_never_used(
    body: bytes, says: str, server: Server, tmp_path: Path
) -> None:
    server.body = body
    with pytest.raises(SdpsError, match=says) as caught:
        fetch(FILE, server.url, tmp_path)
    assert "deleted" in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [".net.pth.lock"]


def test_wrong_bytes_in_the_middle_of_a_resumed_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.pth.part").write_bytes(bytes(1000))
    with pytest.raises(SdpsError, match="another SHA-256"):
        fetch(FILE, server.url, tmp_path)
    assert fetch(FILE, server.url, tmp_path).read_bytes() == DATA


def test_a_cached_file_is_checked_each_time(server: Server, tmp_path: Path) -> None:
    path = fetch(FILE, server.url, tmp_path)
    path.write_bytes(DATA[::-1])
    with pytest.raises(SdpsError, match="another SHA-256"):
        fetch(FILE, server.url, tmp_path)
    assert fetch(FILE, server.url, tmp_path).read_bytes() == DATA


def test_what_is_not_there(server: Server, tmp_path: Path) -> None:
    server.answers = [404]
    with pytest.raises(SdpsError, match="answers 404") as caught:
        fetch(FILE, server.url, tmp_path)
    assert f"put it at {tmp_path / FILE.name}" in str(caught.value)


def test_offline_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as gone:
        url = gone.url
    monkeypatch.setattr(download, "TRIES", 2)
    with pytest.raises(SdpsError) as caught:
        fetch(FILE, url, tmp_path)
    assert f"{url}/net.pth" in str(caught.value) and str(tmp_path / FILE.name) in str(caught.value)
    assert FILE.sha256 in str(caught.value)


def test_a_file_put_there_by_hand_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / FILE.name).write_bytes(DATA)
    assert fetch(FILE, "https://invalid.invalid", tmp_path).read_bytes() == DATA


def test_an_address_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SdpsError, match="cannot be downloaded") as caught:
        fetch(FILE, "http://[::1", tmp_path)
    assert str(tmp_path / FILE.name) in caught.value.remedy


def test_a_base_url_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no web address"):
        fetch(FILE, "file:///etc", tmp_path)


def test_two_processes_at_once_download_it_once(server: Server, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
    both = [spawn.Process(target=fetch, args=(FILE, server.url, tmp_path)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert server.asked == [""]
    assert (tmp_path / FILE.name).read_bytes() == DATA


def test_a_published_name_is_found_in_the_cache_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDPS_HOME", str(tmp_path))
    monkeypatch.setenv("SDPS_WEIGHTS_URL", server.url)
    monkeypatch.setitem(zoo.PUBLISHED, "rain100h", FILE)
    assert zoo.find_weights("Rain100H") == tmp_path / "weights" / FILE.name
    assert server.asked == [""]


def test_the_published_files_are_those_of_the_paper() -> None:
    assert set(zoo.PUBLISHED) == {"rain100h", "rain100l", "realrain-h", "realrain-l"}
    assert {file.size for file in zoo.PUBLISHED.values()} == {38876396}
    assert all(len(file.sha256) == 64 for file in zoo.PUBLISHED.values())


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"sdps-nano.*rain100h, rain100l, realrain-h, realrain-l"):
        zoo.find_weights("rain200h")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "gopher://127.0.0.1:9", "http://[::1"])
def test_a_proxy_that_cannot_be_used_says_how_to_get_the_file_by_hand(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if proxy.startswith("socks") and importlib.util.find_spec("socksio"):
        pytest.skip("SOCKS works here")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(SdpsError, match="the proxy or the certificates") as caught:
        fetch(FILE, "http://nowhere.invalid", tmp_path)
    assert caught.value.remedy.endswith(f"put it at {tmp_path / FILE.name}")
    assert "\n" not in str(caught.value)
