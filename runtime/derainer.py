"""The Python face: a model that takes a picture and gives it back without rain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdps.core.errors import UsageError
from sdps.core.frame import Image, check_image
from sdps.core.manifest import GraphManifest
from sdps.runtime.backends import Backend, open_backend
from sdps.runtime.bundled import DEFAULT_MODEL
from sdps.runtime.context import FrameContext, choose_context
from sdps.runtime.restorer import Restorer
from sdps.runtime.tiling import Begun, begin, restore, unasked_tile

REMEMBERED = 1000
"""Picture sizes whose tiles are remembered."""


class Derainer(Restorer):
    """Removes rain from pictures of any size.

    >>> derainer = Derainer.load()
    >>> clean = derainer(rainy)  # (H, W, 3) uint8 RGB, both

    Not thread-safe: one thread calls it at a time.
    """

    def __init__(
        self,
        backend: Backend,
        tile: int | None = None,
        overlap: int | None = None,
        context: str | None = None,
        video: bool = False,
    ) -> None:
        self.backend, self.tile, self.overlap = backend, tile, overlap
        self.context = FrameContext(video) if choose_context(context, backend) == "frame" else None
        self._tiles: dict[tuple[int, ...], int | None] = {}  # per picture size, chosen once

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
        strict: bool = True,
        context: str | None = None,
        video: bool = False,
    ) -> Derainer:
        """Opens a bundled model, an ONNX file of sdps-export, an engine, a family of exits (.json),
        or a checkpoint.

        Args and errors: see `open_backend`, `tiling.restore`, and for `exit` and `latency_target_ms`,
        which go with a family, `AnytimeDerainer`. With the context 'frame', the default of graphs
        with tile means, tiles are restored with the means of their whole picture: in two passes, in one
        where the pictures are a `video` (`FrameContext`).
        """
        if str(name_or_path).endswith(".json"):
            from sdps.runtime.anytime import AnytimeDerainer

            path = Path(name_or_path)
            return AnytimeDerainer.open(
                path, provider, tile, overlap, threads, exit, latency_target_ms, strict, context, video
            )
        if exit is not None or latency_target_ms is not None:
            raise UsageError(
                f"{name_or_path} has one exit.",
                "Give a family's .json; sdps-export --exits all makes it.",
            )
        backend = open_backend(name_or_path, provider, threads, strict)
        try:
            return cls(backend, tile, overlap, context, video)
        except UsageError:
            backend.close()
            raise

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
        image = check_image(rgb)
        return restore(self.backend, image, self._tile(image), self.overlap, self.context)

    @property
    def depth(self) -> int:
        """Pictures that may be begun before the first is waited for."""
        return self.backend.depth

    def begin(self, rgb: Any) -> Begun:
        """Starts on a picture and returns what waits for it, in order and at most `depth` at a time.

        More pictures a second than by calling it for one after the other: on a GPU the next is copied in
        while this one is computed, in OpenVINO each has half of the cores to itself. Each takes longer.
        """
        image = check_image(rgb)
        return begin(self.backend, image, self._tile(image), self.overlap, self.context)

    def one_at_a_time(self) -> bool:
        """Has no more pictures in flight, to save memory; False where there never was more than one."""
        return self.backend.one_at_a_time()

    def _tile(self, image: Image) -> int | None:
        """The side of the tiles that were asked for, or that suit pictures of this size."""
        if self.tile is not None:
            return self.tile
        if image.shape not in self._tiles:
            if len(self._tiles) > REMEMBERED:
                self._tiles.clear()
            self._tiles[image.shape] = unasked_tile(self.backend, *image.shape[:2])
        return self._tiles[image.shape]

    def close(self) -> None:
        """Frees the engine."""
        self.backend.close()

    def __enter__(self) -> Derainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
