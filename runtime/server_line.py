"""The TCP line on which FFmpeg pushes to an RTSP server: FFmpeg neither gives it up nor tells of it."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

RTSP = 554


def ask(uri: str, seconds: float) -> None:
    """Asks an RTSP server for anything at all (OPTIONS), as FFmpeg does first.

    Ctrl-C ends it, and other threads go on meanwhile.

    Raises:
        OSError: it is not there, or does not answer in time.
        ValueError: the address is none.
    """
    parts = urlsplit(uri)
    if not parts.hostname:
        raise ValueError("the address names no server")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = f"rtsp://{host}:{parts.port or RTSP}{parts.path}"
    with socket.create_connection((parts.hostname, parts.port or RTSP), seconds) as line:
        try:
            line.sendall(f"OPTIONS {place} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
            answer = line.recv(1)
        except TimeoutError:
            raise OSError(f"no answer within {seconds:g} s") from None
    if not answer:
        raise OSError("it closed the connection")


@dataclass(frozen=True)
class Line:
    """A connection that a library made, by its descriptor; without one, nothing can be done to it.

    Attributes:
        descriptor: Of the socket.
        here: Its own address, by which it is known again: descriptors are given out anew.
    """

    descriptor: int = -1
    here: Any = None

    @classmethod
    def of(cls, uri: str, connect: Callable[[], object]) -> Line:
        """The line that `connect` makes to the server of an address; it must hold Python's lock."""
        port = urlsplit(uri).port or RTSP
        before = set(_lines_to(port))
        connect()
        return next((line for line in _lines_to(port) if line not in before), cls())

    def takes_bytes(self) -> bool:
        """Whether a few more can be sent without waiting; True if that is unknown."""
        if not self._is_there():
            return True
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    def cut(self) -> None:
        """Ends it, so that whoever sends or waits on it fails at once."""
        if self._is_there():
            with contextlib.suppress(OSError), _borrowed(self.descriptor) as line:
                line.shutdown(socket.SHUT_RDWR)

    def _is_there(self) -> bool:
        try:
            with _borrowed(self.descriptor) as line:
                return bool(line.getsockname() == self.here)
        except (OSError, ValueError):
            return False


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """A descriptor as a socket, which is not closed. Raises OSError if it is none."""
    line = socket.socket(fileno=descriptor)
    try:
        yield line
    finally:
        line.detach()


def _lines_to(port: int) -> list[Line]:
    """This process's TCP connections to a port of anybody; none where the system does not list them."""
    found = []
    with contextlib.suppress(OSError):
        for entry in Path("/dev/fd").iterdir():
            with contextlib.suppress(OSError, ValueError), _borrowed(int(entry.name)) as line:
                if line.family in (socket.AF_INET, socket.AF_INET6) and line.getpeername()[1] == port:
                    found.append(Line(line.fileno(), line.getsockname()))
    return found
