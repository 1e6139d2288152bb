"""Files that are never half written: temporary name, then rename; and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sdps.core.cache import cache_folder
from sdps.core.errors import SdpsError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target` and renames it to `target` if the body succeeds.

    If the body raises (Ctrl-C included), the temporary file goes, `target` stays as it was, and folders that
    were made for it go again, if nothing else is in them.
    The temporary name keeps the suffix, because encoders choose the format by it.

    Raises:
        SdpsError: the folder cannot be made or written to, or the disk is full.
    """
    target = Path(target)
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SdpsError(
            f"Cannot make the folder {target.parent}: {error.strerror}.", _elsewhere(target.parent)
        ) from error
    if not os.access(target.parent, os.W_OK):
        raise SdpsError(f"The folder {target.parent} is not writable.", _elsewhere(target.parent))
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        # A full disk names no file; what the body reads is not this function's to explain.
        if error.filename is None or str(error.filename) == str(temporary):
            raise SdpsError(
                f"{target} cannot be written: {error.strerror}.",
                "Is there room, and may this user write there?",
            ) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not target.exists():
            with suppress(OSError):  # something else is in it
                for folder in made:
                    folder.rmdir()


def _elsewhere(folder: Path) -> str:
    """How to get another folder than one that cannot be written; the cache's is nobody's output."""
    with suppress(SdpsError):
        if folder.is_relative_to(cache_folder()):
            return "SDPS_HOME names another one: export SDPS_HOME=/a/folder/of/yours"
    return "Choose another output folder."


def write_bytes(target: Path, data: bytes) -> None:
    """Writes `data` to `target` atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def write_json(target: Path, value: Any) -> None:
    """Writes `value` as indented UTF-8 JSON atomically; bytes of file names that are no UTF-8 are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_bytes(target, text.encode("utf-8", "backslashreplace"))


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
