"""The one folder for what is downloaded or measured once and kept: photographs, weights."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$SDPS_HOME`, else `$XDG_CACHE_HOME/sdps`, else `~/.cache/sdps`; it need not exist."""
    if home := os.environ.get("SDPS_HOME"):
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdps"
