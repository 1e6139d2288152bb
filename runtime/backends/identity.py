"""A backend that changes nothing: to test a camera, and to measure the pipeline alone."""

from __future__ import annotations

from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest
from sdps.core.version import __version__
from sdps.runtime.backends.base import BlockingBackend


class IdentityBackend(BlockingBackend):
    """Returns a copy of what it gets. `size` makes it behave as a graph of a fixed size would."""

    def __init__(self, size: str = "dynamic") -> None:
        self.name, self.reason = "identity", ""
        self.manifest = GraphManifest(
            "identity", "", "identity", {}, "fp32", size, (0.0,) * 3, (1.0,) * 3, __version__
        )

    def run(self, batch: Image) -> Image:
        return batch.copy()

    def close(self) -> None:
        return None
