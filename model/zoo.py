"""Checkpoints by name: those that come inside the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from sdps.core.errors import UsageError

SUFFIX = ".safetensors"


def bundled() -> dict[str, Path]:
    """Names of the bundled checkpoints and where they lie."""
    folder = Path(str(resources.files("sdps.model").joinpath("weights")))
    return {path.stem: path for path in sorted(folder.glob("*" + SUFFIX))}


def find_weights(name_or_path: str) -> Path:
    """A checkpoint by path, or a bundled one by name.

    Raises:
        UsageError: neither a file nor a bundled name.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    named = bundled()
    if name_or_path in named:
        return named[name_or_path]
    known = ", ".join(named) or "none in this install"
    raise UsageError(
        f"There is no checkpoint {name_or_path}.",
        f"Give a .pth or .safetensors file, or a bundled name ({known}).",
    )
