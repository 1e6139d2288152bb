"""The description that every exported graph carries in its own metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdps.core.errors import ModelError
from sdps.core.spec import STRIDE, Size

FORMAT = "1"
PREFIX = "sdps."
INPUT, OUTPUT = "image", "restored"
"""Names of the graph's input and output: uint8 [N,H,W,3] RGB each."""


@dataclass(frozen=True)
class GraphManifest:
    """What a graph is made of and what it expects.

    Attributes:
        name: The model's name, e.g. 'sdps-nano'.
        weights_sha256: SHA-256 of the checkpoint file that it was exported from.
        architecture: e.g. 'SDPSFNet'.
        config: Hyperparameters (tau, widths, ...).
        precision: 'fp32', 'fp16', 'bf16' or 'int8'.
        size: 'HxW' of a fixed graph, 'dynamic' of one that takes any multiple of `stride`.
        mean, std: Normalisation inside the graph, of RGB in [0, 1].
        stride: What divides the heights and widths that a dynamic graph takes.
        macs: Multiply-accumulates of convolutions and matrix products at 256x256; where `stride` does not
            divide that, those at the next size that it does, by the share of the area.
        sdps_version: Version of the tool that wrote it.
        drift: Measured against PyTorch FP32 at export: psnr_db, max_levels, mean_levels, picture, peak.
        rewrites: Exact rewrites that the graph went through, by name, and in how many places.
        exit: Which of the network's supervised images it gives, from 0; -1 is the result.
        int8: Of an INT8 graph: its calibration set, drift, and which layers are not INT8.
        tile_means: How many means over the picture the graph tells, and takes in their place (`means.py`); 0
            for a graph with one input and one output.
    """

    name: str
    weights_sha256: str
    architecture: str
    config: dict[str, Any]
    precision: str
    size: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sdps_version: str
    macs: int = 0
    stride: int = STRIDE
    drift: dict[str, Any] = field(default_factory=dict)
    rewrites: dict[str, int] = field(default_factory=dict)
    exit: int = -1
    int8: dict[str, Any] = field(default_factory=dict)
    tile_means: int = 0

    @property
    def fixed_size(self) -> Size | None:
        """The only size that the graph takes, or None if it is dynamic."""
        return None if self.size == "dynamic" else Size.parse(self.size)

    def to_metadata(self) -> dict[str, str]:
        """As ONNX metadata: strings, structured values as JSON."""
        values = {"format": FORMAT, **self.__dict__}
        return {PREFIX + k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str = "the graph") -> GraphManifest:
        """Reads it back from a graph's metadata; `source` names the graph in errors.

        Raises:
            ModelError: the graph was not written by sdps, or by one too new.
        """
        written_as = metadata.get(PREFIX + "format")
        if written_as is None:
            raise ModelError(f"{source} carries no sdps description.", "Make it with sdps-export.")
        if written_as != FORMAT:
            raise ModelError(
                f"{source} has description format {written_as}, this sdps reads {FORMAT}.", "Export it again."
            )
        try:
            text: dict[str, Any] = {
                key: metadata[PREFIX + key]
                for key in ("name", "weights_sha256", "architecture", "precision", "size", "sdps_version")
            }
            parsed: dict[str, Any] = {
                key: json.loads(metadata[PREFIX + key]) for key in ("config", "mean", "std", "macs", "drift")
            }
            parsed["rewrites"] = json.loads(metadata.get(PREFIX + "rewrites", "{}"))
            parsed["exit"] = json.loads(metadata.get(PREFIX + "exit", "-1"))
            parsed["int8"] = json.loads(metadata.get(PREFIX + "int8", "{}"))
            parsed["tile_means"] = int(json.loads(metadata.get(PREFIX + "tile_means", "0")))
            parsed["stride"] = json.loads(metadata.get(PREFIX + "stride", str(STRIDE)))
        except (KeyError, json.JSONDecodeError) as error:
            raise ModelError(
                f"The sdps description of {source} is damaged ({error}).", "Export it again."
            ) from None
        parsed |= {"mean": tuple(parsed["mean"]), "std": tuple(parsed["std"])}
        return cls(**text, **parsed)
