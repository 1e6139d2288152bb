"""The Python face: a model that takes a picture and gives it back without rain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdps.core.errors import UsageError
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
        exit: int | None = None,
        latency_target_ms: float | None = None,
    ) -> Derainer:
        """Opens a bundled model, an ONNX file of sdps-export, a family of exits (.json), or a checkpoint.

        Args and errors: see `open_backend`, `tiling.restore`, and for `exit` and `latency_target_ms`,
        which go with a family, `AnytimeDerainer`.
        """
        if str(name_or_path).endswith(".json"):
            from sdps.runtime.anytime import AnytimeDerainer

            path = Path(name_or_path)
            return AnytimeDerainer.open(path, provider, tile, overlap, threads, exit, latency_target_ms)
        if exit is not None or latency_target_ms is not None:
            raise UsageError(
                f"{name_or_path} has one exit.",
                "Give a family's .json; sdps-export --exits all makes it.",
            )
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

    def usage(self) -> str:
        """What of the model was used for how many frames; empty where there is no choice."""
        return ""

    def close(self) -> None:
        """Frees the engine."""
        self.backend.close()

    def __enter__(self) -> Derainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
