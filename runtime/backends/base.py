"""What every backend is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sdps.core.errors import SdpsError
from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest
from sdps.core.means import Means
from sdps.core.spec import ShapeRange


class Backend(Protocol):
    """Runs one graph or engine. One thread at a time.

    Attributes:
        name: Engine and device, e.g. 'openvino:CPU'.
        reason: Why `--provider auto` chose it, or why it stands in for another; empty if it was asked for.
        manifest: The graph's own description.
        limits: Sizes that a dynamic graph takes here, any of these ranges; empty for every size.
        depth: Batches that may be in flight between `submit` and `result`.
    """

    name: str
    reason: str
    manifest: GraphManifest
    limits: Sequence[ShapeRange]
    depth: int

    def run(self, batch: Image) -> Image:
        """Restores pictures.

        Args:
            batch: uint8 [N,H,W,3] RGB, C-contiguous, not written to and not kept. H and W are the
                graph's, or for a dynamic one multiples of its stride. Fixed graphs take N = 1.

        Returns:
            uint8 [N,H,W,3] RGB, the caller's to keep and to change.
        """
        ...

    def submit(self, batch: Image) -> Any:
        """Begins what `run` does and returns a ticket; at most `depth` of them are out at a time."""
        ...

    def result(self, ticket: Any) -> Image:
        """What `run` would have returned. Tickets are redeemed once each, in order."""
        ...

    def one_at_a_time(self) -> bool:
        """Frees what only several batches in flight take memory for; `depth` is 1 from then on.

        Returns:
            Whether that changed anything. No ticket may be out.
        """
        ...

    def arithmetic(self) -> str:
        """What the convolutions of an INT8 graph are computed in here, in a few words.

        Empty where that is as the graph says, or the engine does not tell. An engine may know only
        after it has restored a picture.
        """
        ...

    def close(self) -> None:
        """Frees the engine. Calling it again does nothing."""
        ...


class TakesMeans(Backend, Protocol):
    """A backend of a graph with tile means (the manifest's `tile_means` is not 0).

    What it does as a `Backend` it does with the picture's own means.
    """

    def run_with(self, batch: Image, means: Means | None) -> tuple[Image, Means]:
        """Restores one picture and tells its means.

        Args:
            batch: As for `run`, with N = 1.
            means: (T,) float32 to take in the place of its own; None to take those.

        Returns:
            uint8 [1,H,W,3], and the picture's own means in the order of the graph's, (T,) float32, the
            caller's to keep both.
        """
        ...


def integers(count: int, manifest: GraphManifest) -> str:
    """What `arithmetic` says of an INT8 graph of which so many convolutions are computed in integers."""
    asked = manifest.int8.get("integer_convolutions", 0)
    told = f"{min(count, asked)} of the graph's {asked} INT8 convolutions in integers"
    return told if count >= asked else f"{told}, the others in floating point, rounded alike"


def closed() -> SdpsError:
    """What to raise where a backend is asked after `close`."""
    return SdpsError("This model is closed.", "Load it again.")


class BlockingBackend:
    """Makes a `Backend` of what only has `run`: a ticket is the result itself."""

    limits: Sequence[ShapeRange] = ()
    depth = 1

    def run(self, batch: Image) -> Image:
        raise NotImplementedError

    def submit(self, batch: Image) -> Any:
        return self.run(batch)

    def result(self, ticket: Any) -> Image:
        result: Image = ticket
        return result

    def one_at_a_time(self) -> bool:
        changed, self.depth = self.depth > 1, 1
        return changed

    def arithmetic(self) -> str:
        return ""
