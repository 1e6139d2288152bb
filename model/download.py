"""Downloads of a known file: resumed where they were cut, and checked before anything reads them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdps.core.artifact import sha256_of
from sdps.core.console import need
from sdps.core.errors import SdpsError, UsageError

if TYPE_CHECKING:
    import httpx

Progress = Callable[[int, int], None]
"""Told the bytes that are there and the bytes that there will be."""

TRIES = 5
"""Connections in a row that bring not one byte before it gives up."""
TIMEOUT_SECONDS = 30.0
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class KnownFile:
    """A file whose content is known beforehand.

    Attributes:
        name: File name, there and here.
        size: Bytes.
        sha256: Hexadecimal.
    """

    name: str
    size: int
    sha256: str


class _CutError(Exception):
    """The connection ended early, or the server is busy: what came is kept, and asked for again."""


def fetch(
    file: KnownFile, base_url: str, folder: Path, progress: Progress = lambda done, total: None
) -> Path:
    """The file in `folder`, downloaded from `base_url`/name if it is not there yet.

    Its size and SHA-256 are checked each time. A partial download is kept beside it as
    `name.part` and resumed, also by a later call. Two processes at once: the second waits.

    Raises:
        UsageError: `base_url` is neither http nor https.
        SdpsError: it cannot be reached or written, is not there, or is not that file.
    """
    if not re.match(r"https?://", base_url):
        raise UsageError(f"{base_url!r} is no web address.", "It begins with https:// or http://.")
    target, url = folder / file.name, f"{base_url.rstrip('/')}/{file.name}"
    filelock = need("filelock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f".{file.name}.lock"):
            if target.is_file():
                _check(file, target, url, target)
            else:
                part = folder / f"{file.name}.part"
                _download(file, url, part, target, progress)
                _check(file, part, url, target)
                part.replace(target)
    except OSError as error:
        raise SdpsError(
            f"{target} cannot be written: {error.strerror or error}.",
            "Is there room? SDPS_HOME names another folder.",
        ) from error
    return target


def _check(file: KnownFile, path: Path, url: str, target: Path) -> None:
    """Deletes what is not the file, and says so."""
    if path.stat().st_size == file.size and sha256_of(path) == file.sha256:
        return
    with path.open("rb") as stream:
        pointer = stream.read(len(LFS_POINTER)) == LFS_POINTER
    what = (
        "is a Git LFS pointer, not the weights"
        if pointer
        else f"has {path.stat().st_size} bytes instead of {file.size}"
        if path.stat().st_size != file.size
        else "has another SHA-256 than the published file"
    )
    path.unlink()
    source = f"What {url} gave" if path != target else f"{path}"
    raise SdpsError(f"{source} {what}; it was deleted.", _by_hand(file, url, target))


def _download(file: KnownFile, url: str, part: Path, target: Path, progress: Progress) -> None:
    """Until all has come, or the server ended of its own accord, or nothing comes any more."""
    httpx = need("httpx")
    idle, most = 0, _size(part)
    with _client(file, url, target) as client:
        while True:
            if _size(part) >= file.size:
                return
            try:
                _receive(client, file, url, part, progress)
                return
            except (_CutError, httpx.TransportError) as error:
                now = _size(part)
                # A server that cannot resume begins anew each time: what had come before is no progress.
                idle, most = (0, now) if now > most else (idle + 1, most)
                if idle == TRIES:
                    kept = f" {now} of {file.size} bytes are kept, and the next try goes on." if now else ""
                    reason = str(error).rstrip(".") or type(error).__name__
                    raise SdpsError(
                        f"{url} cannot be downloaded: {reason}.{kept}", _by_hand(file, url, target)
                    ) from None
                time.sleep(min(4.0, 0.1 * 2**idle) if idle else 0)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = str(error).rstrip(".")
                raise SdpsError(
                    f"{url} cannot be downloaded: {reason}.", _by_hand(file, url, target)
                ) from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _client(file: KnownFile, url: str, target: Path) -> httpx.Client:
    """What connects; made from the environment too, whose proxies may be of a kind that it cannot use."""
    httpx = need("httpx")
    try:
        return httpx.Client(timeout=httpx.Timeout(TIMEOUT_SECONDS), follow_redirects=True)
    # SOCKS needs a package that is not there; other schemes, ports and certificate files are wrong.
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise SdpsError(
            f"{url} cannot be downloaded with the proxy or the certificates of this environment: {reason}.",
            _by_hand(file, url, target),
        ) from None


def _receive(client: httpx.Client, file: KnownFile, url: str, part: Path, progress: Progress) -> None:
    """One request: appends to `part` what the server sends."""
    have = _size(part)
    # Compressed in transit, positions would not be the file's.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code in (429, 500, 502, 503, 504):
            raise _CutError(f"the server answers {response.status_code}")
        if response.status_code == 416:  # it has fewer bytes than are here: another file
            part.unlink(missing_ok=True)
            raise _CutError("the server refuses to resume")
        if response.status_code not in (200, 206):
            raise SdpsError(
                f"{url} answers {response.status_code} {response.reason_phrase}.",
                _by_hand(file, url, part.with_suffix("")),
            )
        resumed = response.status_code == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise _CutError("the server resumes at another place")
        with part.open("ab" if resumed else "wb") as stream:
            done = have if resumed else 0
            progress(done, file.size)
            for piece in response.iter_raw():
                done += stream.write(piece[: file.size + 1 - done])  # one too many shows that it is wrong
                progress(min(done, file.size), file.size)
                if done > file.size:
                    return
    # Where the server says how long or in which pieces, the client itself notices what is cut.
    if done < file.size and not {"content-length", "transfer-encoding"} & set(response.headers):
        raise _CutError("the connection ended early")


def _by_hand(file: KnownFile, url: str, target: Path) -> str:
    return f"By hand: get {url} ({file.size} bytes, SHA-256 {file.sha256}) and put it at {target}"
