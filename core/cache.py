"""The one folder for what is downloaded or measured once and kept: photographs, weights."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from sdps.core.errors import SdpsError


def cache_folder() -> Path:
    """`$SDPS_HOME`, else `$XDG_CACHE_HOME/sdps`, else `~/.cache/sdps`; it need not exist.

    A user without a home folder (a container under a number) gets a folder of their own in the temporary
    directory, which does exist.

    Raises:
        SdpsError: that folder is someone else's, or cannot be made.
    """
    if home := os.environ.get("SDPS_HOME"):
        return Path(home)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "sdps"
    folder = home_folder()
    return folder / ".cache" / "sdps" if folder else private_folder("sdps", "SDPS_HOME")


def home_folder() -> Path | None:
    """The user's home folder; None where neither $HOME nor the system names one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def private_folder(stem: str, instead: str) -> Path:
    """A folder of this user's own in the temporary directory, by their number: not every user has a name.

    Everybody may write beside it and guess its name, so it must be this user's and nobody else's.

    Args:
        stem: What its name begins with.
        instead: The variable that names another place, for the remedy.

    Raises:
        SdpsError: it is someone else's, or cannot be made.
    """
    user = os.geteuid() if hasattr(os, "geteuid") else ""
    mend = f"Name a folder of yours: export {instead}=/a/folder/of/yours"
    try:
        folder = Path(tempfile.gettempdir()) / f"{stem}-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise SdpsError(f"No folder of this user's own can be made: {error}.", mend) from None
    mine = not hasattr(os, "geteuid") or (found.st_uid == user and not found.st_mode & 0o077)
    if not stat.S_ISDIR(found.st_mode) or not mine:
        raise SdpsError(f"{folder} is not this user's alone.", mend)
    return folder
