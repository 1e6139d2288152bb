"""What every backend is."""

from __future__ import annotations

from typing import Protocol

from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest


class Backend(Protocol):
    """Runs one graph.

    Attributes:
        name: Engine and device, e.g. 'openvino:CPU'.
        reason: Why `--provider auto` chose it, one clause; empty if it was asked for.
        manifest: The graph's own description.
    """

    name: str
    reason: str
    manifest: GraphManifest

    def run(self, batch: Image) -> Image:
        """Restores pictures.

        Args:
            batch: uint8 [N,H,W,3] RGB, C-contiguous, not written to and not kept. H and W are the
                graph's, or for a dynamic one multiples of 4. Fixed graphs take N = 1.

        Returns:
            uint8 [N,H,W,3] RGB, the caller's to keep and to change.
        """
        ...

    def close(self) -> None:
        """Frees the engine. Calling it again does nothing."""
        ...
