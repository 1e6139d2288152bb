"""Graphs that the export tests share; tracing takes most of their time, so each is traced once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from sdps.core.frame import Image
from sdps.core.manifest import INPUT, GraphManifest
from sdps.export.onnx_export import describe
from sdps.export.precision import to_fp16
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.model.checkpoint import to_published

# Small networks on cores that others use too: two threads waiting for each other take ten times as long.
torch.set_num_threads(1)

ODD = "61x90"
"""A size that the stride does not divide: padding and cropping are inside the graph."""


def run(model: onnx.ModelProto, image: Image) -> Image:
    """Restores one picture with ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {INPUT: image[None]})[0][0]


@pytest.fixture(scope="session")
def run_graph() -> Callable[[onnx.ModelProto, Image], Image]:
    return run


@pytest.fixture(scope="session")
def graph(graph_path: Callable[..., Path]) -> Callable[[str, str], onnx.ModelProto]:
    """graph('fp16', 'dynamic'): FP16 graphs are converted from the traced FP32 ones, as the exporter does."""

    def make(precision: str, size: str = ODD) -> onnx.ModelProto:
        model = onnx.load(graph_path("fp32", size))
        if precision == "fp32":
            return model
        model = to_fp16(model)
        properties: dict[str, Any] = {entry.key: entry.value for entry in model.metadata_props}
        manifest = GraphManifest.from_metadata(properties | {"sdps.precision": precision})
        describe(model, manifest)
        return model

    return make


@pytest.fixture(scope="session")
def published_pth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tau = 0 network in the authors' layout."""
    torch.manual_seed(1)
    network = SDPSFNet(SDPSFNetConfig(tau=0, features=8, scale_unet=4, scale_orb=4, cabs=1))
    with torch.no_grad():
        network.stage_osr.tail.weight.mul_(0.2)
    path = tmp_path_factory.mktemp("published") / "random-tau0.pth"
    torch.save({"state_dict": to_published(network)}, path)
    return path


@pytest.fixture(scope="session")
def hard_pictures() -> dict[str, Image]:
    """What breaks half precision first: extremes, and noise."""
    height, width = 61, 90
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return {
        "white": np.full((height, width, 3), 255, np.uint8),
        "black": np.zeros((height, width, 3), np.uint8),
        "noise": noise,
    }
