"""The samples inside the package: a rainy clip and a rainy picture."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

CLIP = "rain.mp4"
PICTURE = "rainy.jpg"


def sample(name: str) -> Path:
    """Path of a sample, CLIP or PICTURE. Packages are never run from archives, so it is a file."""
    return Path(str(resources.files("sdps.assets").joinpath(name)))
