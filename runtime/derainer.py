"""The Python face: a model that takes a picture and gives it back without rain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdps.core.frame import Image, check_image
from sdps.core.manifest import GraphManifest
from sdps.runtime.backends import Backend, open_backend
from sdps.runtime.bundled import DEFAULT_MODEL
from sdps.runtime.tiling import restore


class Derainer:
    """Removes rain from pictures of any size.

    >>> derainer = Derainer.load()
    >>> clean = derainer(rainy)  # (H, W, 3) uint8 RGB, both

    Not thread-safe: one thread calls it at a time.
    """

    def __init__(self, backend: Backend, tile: int | None = None, overlap: int | None = None) -> None:
        self.backend, self.tile, self.overlap = backend, tile, overlap

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = DEFAULT_MODEL,
        provider: str = "auto",
        tile: int | None = None,
        overlap: int | None = None,
        threads: int = 0,
    ) -> Derainer:
        """Opens a bundled model, an ONNX file of sdps-export, or a checkpoint.

        Args and errors: see `open_backend` and `tiling.restore`.
        """
        return cls(open_backend(name_or_path, provider, threads), tile, overlap)

    @property
    def manifest(self) -> GraphManifest:
        """The graph's own description."""
        return self.backend.manifest

    def __call__(self, rgb: Any) -> Image:
        """Restores one picture.

        Args:
            rgb: (H, W, 3) uint8 RGB, at least 1x1; not changed.

        Returns:
            A new picture of the same shape and dtype.

        Raises:
            FrameError: anything else.
        """
        return restore(self.backend, check_image(rgb), self.tile, self.overlap)

    def close(self) -> None:
        """Frees the engine."""
        self.backend.close()

    def __enter__(self) -> Derainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
