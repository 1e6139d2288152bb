"""One export from checkpoint to checked graph: the steps of `sdps-export`, without its talk."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sdps.core.artifact import sha256_of
from sdps.core.manifest import GraphManifest
from sdps.core.spec import Size
from sdps.core.version import __version__
from sdps.export.graph_macs import REFERENCE
from sdps.export.onnx_export import describe, export_graph
from sdps.export.parity import Drift, measure_drift, read_picture, worst_of
from sdps.model import load_checkpoint
from sdps.model.deploy import MEAN, STD


@dataclass(frozen=True)
class ExportJob:
    """What to export, and how.

    Attributes:
        weights: The checkpoint file.
        name: The model's name; files and manifest carry it.
        precision: 'fp32' or 'fp16'.
        size: The graph's size, or None for a dynamic graph.
        picture: The photograph that the graph is checked on.
    """

    weights: Path
    name: str
    precision: str
    size: Size | None
    picture: Path

    @property
    def stem(self) -> str:
        """Name of the files, without suffix: 'sdps-nano-fp16-256x256'."""
        return f"{self.name}-{self.precision}-{self.size or 'dynamic'}"


@dataclass(frozen=True)
class Exported:
    """A graph with its description and its measured distance from PyTorch."""

    model: onnx.ModelProto
    manifest: GraphManifest
    drifts: list[Drift]


def run_job(job: ExportJob, step: Callable[[str], None] = lambda _: None) -> Exported:
    """Loads, traces, converts, checks and measures; writes nothing and judges nothing.

    Args:
        job: What to do.
        step: Told in a few words what begins.

    Raises:
        CheckpointError, ExportError, ParityError, UsageError: see the steps' own functions.
    """
    step("Loading the checkpoint")
    image = read_picture(job.picture)
    network = load_checkpoint(job.weights)
    manifest = GraphManifest(
        name=job.name,
        weights_sha256=sha256_of(job.weights),
        architecture=type(network).__name__,
        config=dict(vars(network.config)),
        precision=job.precision,
        size=str(job.size or "dynamic"),
        mean=MEAN,
        std=STD,
        sdps_version=__version__,
        macs=network_macs(network),
    )
    step(f"Tracing the network ({job.precision}, {manifest.size})")
    model = export_graph(network, manifest)
    step("Comparing with PyTorch")
    drifts = measure_drift(network, model, image, job.picture.name, job.size)
    manifest = replace(manifest, drift=worst_of(drifts).to_manifest())
    describe(model, manifest)
    return Exported(model, manifest, drifts)


def network_macs(network: nn.Module, size: Size = REFERENCE) -> int:
    """Multiply-accumulates of convolutions and matrix products for one picture of `size`.

    Counted on PyTorch's meta device, which does no arithmetic; `graph_macs` counts the same of a
    graph, but of a fixed one only at its own size, and a manifest states them at 256x256.
    """
    shadow = copy.deepcopy(network).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.empty(1, 3, size.padded.height, size.padded.width, device="meta"))
    return counter.get_total_flops() // 2
