"""Debian packages read without Debian's tools, which other systems lack."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sdps.core.errors import SdpsError

MAGIC = b"!<arch>\n"
HEADER = 60
"""Bytes before each member of an `ar` archive: its name in the first 16, its size in 48 to 58."""


def packed_files(package: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Path and content of the files in a `.deb` whose names end in `suffix`, as deb(5) lays it out.

    Raises:
        SdpsError: it is no Debian package.
    """
    with package.open("rb") as stream:
        _seek_data(stream, package)
        with tarfile.open(fileobj=stream, mode="r|*") as data:
            for member in data:
                content = data.extractfile(member) if member.name.endswith(suffix) else None
                if content is not None:
                    yield member.name, content.read()


def _seek_data(stream: IO[bytes], package: Path) -> None:
    """Moves to the member that holds the files, `data.tar` compressed in one way or another."""
    if stream.read(len(MAGIC)) == MAGIC:
        while len(header := stream.read(HEADER)) == HEADER:
            if header.startswith(b"data.tar"):
                return
            size = int(header[48:58])
            stream.seek(size + size % 2, 1)  # members begin at even places
    raise SdpsError(f"{package} is no Debian package.")
