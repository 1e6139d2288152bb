"""One export from checkpoint to checked graph: the steps of `sdps-export`, without its talk."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sdps.calibration.report import Int8Report
from sdps.core.artifact import sha256_of
from sdps.core.errors import SourceError, UsageError
from sdps.core.manifest import GraphManifest
from sdps.core.pictures import read_picture
from sdps.core.spec import ShapeRange, Size
from sdps.core.version import __version__
from sdps.export.arch import ArchChoice, load_arch
from sdps.export.engine import check_shapes
from sdps.export.fine_tuned import FineTuned
from sdps.export.graph_macs import REFERENCE
from sdps.export.int8_job import quantise_network
from sdps.export.int8_request import Int8Job
from sdps.export.onnx_export import describe, export_graph, manifest_of
from sdps.export.parity import Drift, measure_drift, worst_of
from sdps.export.rewrite import REWRITES
from sdps.export.tile_means import with_tile_means
from sdps.model import load_checkpoint
from sdps.model.deploy import space_of
from sdps.model.exits import cut


@dataclass(frozen=True)
class ExportJob:
    """What to export, and how.

    Attributes:
        weights: The checkpoint file.
        name: The model's name; files and manifest carry it.
        precision: 'fp32', 'fp16', 'bf16' or 'int8'.
        size: The graph's size, or None for a dynamic graph.
        picture: The photograph that the graph is checked on.
        arch: Which network it is, if not SD-PSFNet.
        rewrite: Whether the graph goes through the exact rewrites.
        exit: Which supervised image the graph ends at, from 0; -1 is the network's result.
        int8: How to calibrate; there if and only if the precision is 'int8'.
        tile_means: Whether the graph takes the means of a whole frame (`tile_means.py`).
        engine_range: The sizes that an engine of it is to take, where they were asked for.
    """

    weights: Path
    name: str
    precision: str
    size: Size | None
    picture: Path
    arch: ArchChoice | None = None
    rewrite: bool = True
    exit: int = -1
    int8: Int8Job | None = None
    tile_means: bool = False
    engine_range: ShapeRange | None = None

    @property
    def stem(self) -> str:
        """Name of the files, without suffix: 'sdps-nano-fp16-256x256', 'sdps-nano-exit0-fp16-256x256'."""
        exit = "" if self.exit == -1 else f"-exit{self.exit}"
        means = "-means" if self.tile_means else ""
        return f"{self.name}{exit}-{self.precision}-{self.size or 'dynamic'}{means}"


@dataclass(frozen=True)
class Exported:
    """A graph with its description and its measured distance from PyTorch."""

    model: onnx.ModelProto
    manifest: GraphManifest
    drifts: list[Drift]
    int8: Int8Report | None = None


def run_job(
    job: ExportJob,
    step: Callable[[str], None] = lambda _: None,
    traced: Callable[[onnx.ModelProto], None] | None = None,
) -> Exported:
    """Loads, traces, converts, checks and measures; writes nothing and judges nothing.

    Args:
        job: What to do.
        step: Told in a few words what begins.
        traced: Shown the graph before the rewrites (not of an INT8 job).

    Raises:
        CheckpointError, EngineError, ExportError, ParityError, UsageError: see the steps' own functions.
    """
    step("Loading the checkpoint")
    try:
        image = read_picture(job.picture)
    except SourceError as error:  # it was named by hand
        raise UsageError(error.message, error.remedy) from None
    network, architecture, config = _load(job)
    space = space_of(network)
    manifest = GraphManifest(
        name=job.name,
        weights_sha256=sha256_of(job.weights),
        architecture=architecture,
        config=config,
        precision=job.precision,
        size=str(job.size or "dynamic"),
        mean=space.mean,
        std=space.std,
        stride=space.stride,
        sdps_version=__version__,
        macs=network_macs(network),
        exit=job.exit,
    )
    if job.engine_range:  # now, and not after minutes of exporting
        check_shapes(manifest, [job.engine_range])
    step(f"Tracing the network ({job.precision}, {manifest.size})")
    report = None
    if job.int8:
        quantised = quantise_network(
            network,
            manifest,
            job.int8,
            (job.picture.name, image),
            lambda what, at, of: step(f"{what} {at}/{of}" if of else what),
            _fine_tuned(job),
        )
        model, report = quantised.model, quantised.report
    else:
        model = export_graph(network, manifest, tuple(REWRITES) if job.rewrite else (), traced)
    manifest = manifest_of(model)  # with the rewrites, and what INT8 was calibrated on
    if job.tile_means:
        model = with_tile_means(model)
        manifest = replace(manifest, tile_means=manifest_of(model).tile_means)
    step("Comparing with PyTorch")
    drifts = measure_drift(network, model, image, job.picture.name, job.size)
    manifest = replace(manifest, drift=worst_of(drifts).to_manifest())
    describe(model, manifest)
    return Exported(model, manifest, drifts, report)


def _load(job: ExportJob) -> tuple[nn.Module, str, dict[str, Any]]:
    """The network, what it is called, and its hyperparameters."""
    if job.arch and job.exit != -1:
        raise UsageError("--exit and --exits are for SD-PSFNet, whose stages' images are supervised.")
    if job.arch:
        loaded = load_arch(job.arch, job.weights)
        return loaded.network, loaded.name, loaded.config
    network = load_checkpoint(job.weights)
    return cut(network, job.exit), type(network).__name__, dict(vars(network.config))


def _fine_tuned(job: ExportJob) -> FineTuned | None:
    tuned = None if job.arch else FineTuned.find(job.weights)
    if tuned and job.exit != -1:
        raise UsageError(
            "The weights were fine-tuned for INT8 as a whole network.",
            "Leave --exit out, or give the original.",
        )
    return tuned


def network_macs(network: nn.Module, size: Size = REFERENCE) -> int:
    """Multiply-accumulates of convolutions and matrix products for one picture of `size`; where the network's
    stride does not divide it, those of the padded picture by the share of its area.

    Counted on PyTorch's meta device, which does no arithmetic; `graph_macs` counts the same of a
    graph, but of a fixed one only at its own size, and a manifest states them at 256x256.
    """
    padded = size.padded_to(space_of(network).stride)

    share = size.height * size.width / (padded.height * padded.width)

    def count(subject: nn.Module, device: str) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            subject(torch.zeros(1, 3, padded.height, padded.width, device=device))
        return round(int(counter.get_total_flops()) // 2 * share)

    try:
        return count(copy.deepcopy(network).to("meta"), "meta")
    except (RuntimeError, NotImplementedError):  # foreign networks may make tensors on the CPU
        return count(network, "cpu")
