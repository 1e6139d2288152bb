"""Ranges that were trained together with the weights, as a checkpoint carries them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sdps.core.console import need
from sdps.core.weights_file import HEAD, kind_of

ORIGINAL = "original.safetensors"
"""Beside a fine-tuned checkpoint: the weights that it began with, which its loss is measured against."""
_KEY = "quantisation_aware"


@dataclass(frozen=True)
class TrainedRanges:
    """What fine-tuning with fake quantisation leaves beside the weights.

    Attributes:
        steps: Step of every layer's input by the key of its site (`fake_quant.Site.key`).
        original_sha256: Of the file ORIGINAL.
    """

    steps: Mapping[str, float]
    original_sha256: str

    def to_metadata(self) -> dict[str, str]:
        """For the checkpoint's metadata."""
        return {_KEY: json.dumps(asdict(self))}

    @classmethod
    def read(cls, checkpoint: Path) -> TrainedRanges | None:
        """Those of a checkpoint, or None for one that was not trained so.

        Args:
            checkpoint: A checkpoint that could be loaded.
        """
        with checkpoint.open("rb") as stream:
            kind = kind_of(stream.read(HEAD))
        if kind != "safetensors":
            return None
        need("safetensors")
        from safetensors import safe_open

        with safe_open(checkpoint, "np") as opened:
            found = (opened.metadata() or {}).get(_KEY)
        return cls(**json.loads(found)) if found else None
