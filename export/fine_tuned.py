"""A checkpoint that was fine-tuned for INT8 (`sdps-train --qat`): its ranges, and what it began as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdps.calibration.fake_quant import Site
from sdps.calibration.recipe import Calibrated, with_ranges
from sdps.calibration.trained import ORIGINAL, TrainedRanges
from sdps.core.artifact import sha256_of
from sdps.core.errors import ExportError, UsageError
from sdps.export.module_map import Mapped
from sdps.model import SDPSFNet, load_checkpoint


@dataclass(frozen=True)
class FineTuned:
    """What comes with the weights.

    Attributes:
        ranges: The steps that were trained.
        original: The FP32 network that the training began with; INT8's drift is against that.
    """

    ranges: TrainedRanges
    original: SDPSFNet

    @classmethod
    def find(cls, weights: Path) -> FineTuned | None:
        """That of a checkpoint, or None for an ordinary one.

        Raises:
            UsageError: the original weights do not lie beside it, or are others.
        """
        ranges = TrainedRanges.read(weights)
        if ranges is None:
            return None
        path = weights.with_name(ORIGINAL)
        if not path.is_file() or sha256_of(path) != ranges.original_sha256:
            raise UsageError(
                f"{weights} was fine-tuned for INT8, and the weights that it began with are not beside it.",
                f"Put its run's {ORIGINAL} there: the drift is measured against them.",
            )
        return cls(ranges, load_checkpoint(path))

    def calibrated(self, mapped: Mapped) -> Calibrated:
        """The graph with the ranges of the training; layers without one stay in floating point.

        Raises:
            ExportError: the training rounded layers that the graph does not have.
        """
        unknown = self.ranges.steps.keys() - {site.key for site in mapped.sites}
        if unknown:
            raise ExportError(
                f"The checkpoint has a trained range for {min(unknown)}, which is no layer of the graph.",
                "It was trained by another version of sdps: fine-tune it again.",
            )
        return with_ranges(mapped.model, mapped.layers, _by_layer(mapped.sites, self.ranges))

    def settings(self) -> dict[str, Any]:
        """For reports, in the place of calibration's options."""
        return {
            "ranges": "trained (sdps-train --qat)",
            "weights": "rounded to nearest, as they were trained",
            "drift_against": {"file": ORIGINAL, "sha256": self.ranges.original_sha256},
        }


def _by_layer(sites: Sequence[Site], ranges: TrainedRanges) -> dict[str, float]:
    return {site.layer: ranges.steps[site.key] for site in sites if site.key in ranges.steps}
