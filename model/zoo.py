"""Checkpoints by name: those inside the package, and the authors' published ones, downloaded once."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from sdps.core.cache import cache_folder
from sdps.core.errors import UsageError
from sdps.model.download import KnownFile, fetch

SUFFIX = ".safetensors"

BASE_URL = "https://media.githubusercontent.com/media/Aster-1024/SD-PSFNet/main/weights"
"""Where GitHub serves the LFS objects of the authors' repository; `SDPS_WEIGHTS_URL` replaces it."""

PUBLISHED = {
    "rain100h": KnownFile(
        "Rain100H-sota.pth", 38876396, "dd02b16ee5bb1236dc6b5a57cff6f81351136c32f2ab7f2a5b997ae6799736fc"
    ),
    "rain100l": KnownFile(
        "Rain100L-sota.pth", 38876396, "6e61c36f5462a91fc62d9a05ebc2aa4156012cd9e9d3475c45d24f2d8e064412"
    ),
    "realrain-h": KnownFile(
        "Realrain-1k-H-sota.pth", 38876396, "afd817a12897e521ea30d0aedbd2e9c47a4207ef5ac388021cdd3519e2c4a655"
    ),
    "realrain-l": KnownFile(
        "Realrain-1k-L-sota.pth", 38876396, "ecc5aa5468e68de22ec847c57b32ce82e18c4e922bf162ec85bebd0db4ac97fe"
    ),
}
"""The paper's weights, one for each benchmark set, by size and SHA-256 of the file."""


def bundled() -> dict[str, Path]:
    """Names of the bundled checkpoints and where they lie."""
    folder = Path(str(resources.files("sdps.model").joinpath("weights")))
    return {path.stem: path for path in sorted(folder.glob("*" + SUFFIX))}


def find_weights(name_or_path: str) -> Path:
    """A checkpoint by path, a bundled one by name, or a published one by name, downloaded if need be.

    A download shows its progress on standard error, if that is a terminal.

    Raises:
        UsageError: neither a file nor a known name.
        SdpsError: the download failed, or is not the published file.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    named = bundled()
    if name_or_path in named:
        return named[name_or_path]
    if name_or_path.lower() in PUBLISHED:
        return fetch_published(name_or_path.lower())
    raise UsageError(
        f"There is no checkpoint {name_or_path}.",
        "Give a .pth or .safetensors file, a bundled name "
        f"({', '.join(named) or 'none in this install'}), or a published one ({', '.join(PUBLISHED)}).",
    )


def model_name(name_or_path: str) -> str:
    """What a checkpoint of `find_weights` is called: a known name in lower case, or the file's own."""
    path = Path(name_or_path)
    return path.stem if path.is_file() else name_or_path.lower()


def fetch_published(name: str) -> Path:
    """The published checkpoint of that name, in the cache folder; see `find_weights`."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    file = PUBLISHED[name]
    base = os.environ.get("SDPS_WEIGHTS_URL") or BASE_URL
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(file.name, total=file.size, visible=False)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        return fetch(file, base, cache_folder() / "weights", progress)
