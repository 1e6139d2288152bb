"""One small network, calibrated once for all tests of the room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from sdps.calibration.drift import Pair, Verifier
from sdps.calibration.layers import Layer, find_layers
from sdps.calibration.recipe import Calibrated, Options, calibrate
from sdps.core.frame import Image
from sdps.export.graph_macs import macs_by_node
from sdps.export.islands import fp32_islands

SIDE = 64


@pytest.fixture(scope="session")
def scenes() -> list[Image]:
    """Twelve small pictures of unlike brightness and texture."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    made = []
    for i in range(12):
        waves = [
            110 + 70 * np.sin(x / rng.uniform(4, 20) + c) * np.cos(y / rng.uniform(4, 20)) for c in range(3)
        ]
        noise = rng.normal(0, 4 + 3 * i, (SIDE, SIDE, 3))
        made.append(np.clip(np.stack(waves, 2) * rng.uniform(0.4, 1.2) + noise, 0, 255).astype(np.uint8))
    return made


@pytest.fixture(scope="session")
def model(graph_path: Callable[..., Path]) -> onnx.ModelProto:
    """The tiny network as an FP32 graph of any size, its last residual large enough for errors to show."""
    graph = onnx.load(graph_path("fp32", "dynamic"))
    tail = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("tail.weight"))
    tail.CopyFrom(onnx.numpy_helper.from_array(5 * onnx.numpy_helper.to_array(tail), tail.name))
    return graph


@pytest.fixture(scope="session")
def layers(model: onnx.ModelProto) -> list[Layer]:
    return find_layers(model, macs_by_node(model), fp32_islands(model))


@pytest.fixture(scope="session")
def calibrated(
    model: onnx.ModelProto, layers: list[Layer], scenes: list[Image], tmp_path_factory: pytest.TempPathFactory
) -> Calibrated:
    """By the default options, on the first eight scenes."""
    cache = tmp_path_factory.mktemp("cache") / "statistics"
    return calibrate(model, layers, scenes[:8], Options(), cache)


@pytest.fixture(scope="session")
def verifier(model: onnx.ModelProto, scenes: list[Image]) -> Verifier:
    """Two scenes that did not calibrate, without ground truth."""
    return Verifier(model, [Pair(scene, None, "scenes") for scene in scenes[8:10]])
