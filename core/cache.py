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
    return folder / ".cache" / "sdps" if folder else _temporary_folder()


def home_folder() -> Path | None:
    """The user's home folder; None where neither $HOME nor the system names one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _temporary_folder() -> Path:
    """Everybody may write beside it and guess its name, so it must be this user's and nobody else's."""
    user = os.geteuid() if hasattr(os, "geteuid") else ""
    mend = "Name a folder of yours: export SDPS_HOME=/a/folder/of/yours"
    try:
        folder = Path(tempfile.gettempdir()) / f"sdps-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise SdpsError(f"There is no home folder and no temporary one: {error}.", mend) from None
    mine = not hasattr(os, "geteuid") or (found.st_uid == user and not found.st_mode & 0o077)
    if not stat.S_ISDIR(found.st_mode) or not mine:
        raise SdpsError(f"{folder} is not this user's alone.", mend)
    return folder
