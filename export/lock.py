"""One export at a time into one place.

Locks lie in the system's temporary folder, named after what they guard, so that output folders
hold results only; the system frees them when a process dies, however it dies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sdps.core.cache import private_folder
from sdps.core.console import need
from sdps.core.errors import SdpsError

POLL_SECONDS = 0.1


@contextmanager
def locked(target: Path, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Holds the lock of `target`, and waits for it if another process of this user has it.

    Args:
        target: The file about to be written; it need not exist.
        say: Told in one line that there is a wait.

    Raises:
        SdpsError: this user may not write where the locks lie.
    """
    filelock = need("filelock", "export")
    folder = private_folder("sdps-locks", "TMPDIR")
    name = hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:24]
    lock = filelock.FileLock(folder / f"{name}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"Waiting for another export that writes {target.name}.")
            lock.acquire(poll_interval=POLL_SECONDS)
    except OSError as error:  # Timeout is one too, and was caught
        raise SdpsError(
            f"The lock of {target.name} cannot be made in {folder}: {error.strerror or error}.",
            "Name a folder of yours: export TMPDIR=/a/folder/of/yours",
        ) from error
    try:
        yield
    finally:
        lock.release()
