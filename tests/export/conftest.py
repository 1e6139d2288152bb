"""Graphs that the export tests share; tracing takes most of their time, so each is traced once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from sdps.core.frame import Image
from sdps.core.manifest import INPUT
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.model.checkpoint import to_published

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
def graph(graph_path: Callable[..., Path]) -> Callable[..., onnx.ModelProto]:
    """graph('fp16', 'dynamic'): the shared graphs, loaded afresh."""
    return lambda precision, size=ODD: onnx.load(graph_path(precision, size))


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
