"""Graphs that the export tests share; tracing takes most of their time, so each is traced once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from sdps import __version__
from sdps.core.frame import Image
from sdps.core.manifest import INPUT, GraphManifest
from sdps.export.onnx_export import describe
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.model.checkpoint import to_published
from sdps.model.deploy import MEAN, STD

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


def small_model(size: str = "32x48", quantised: bool = False, gain: float = 1.0) -> onnx.ModelProto:
    """Two convolutions between an sdps graph's ends, traced by nobody: engines of it build in no time.

    With `quantised` the second one is INT8, in explicit Q/DQ form. `gain` scales the weights.
    """
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    sides = [int(part) for part in size.split("x")] if size != "dynamic" else ["h", "w"]
    shape = [1, *sides, 3]
    random = np.random.default_rng(0)
    weights = {
        "first": random.normal(0, 0.1 * gain, (16, 3, 3, 3)).astype(np.float32),
        "second": random.normal(0, 0.1 * gain, (3, 16, 3, 3)).astype(np.float32),
        "low": np.float32(0),
        "high": np.float32(255),
    }
    nodes = [
        node("Cast", ["image"], ["a"], to=onnx.TensorProto.FLOAT),
        node("Transpose", ["a"], ["b"], perm=[0, 3, 1, 2]),
        node("Conv", ["b", "first"], ["c"], name="conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "second"], ["e"], name="conv2", pads=[1, 1, 1, 1]),
        node("Transpose", ["e"], ["f"], perm=[0, 2, 3, 1]),
        node("Clip", ["f", "low", "high"], ["g"]),
        node("Cast", ["g"], ["restored"], to=onnx.TensorProto.UINT8),
    ]
    if quantised:
        weights |= {"scale": np.float32(2.0), "scale_w": np.float32(0.01), "zero": np.int8(0)}
        weights["second"] = np.clip(weights["second"] / 0.01, -127, 127).astype(np.int8)
        nodes[4:5] = [
            node("QuantizeLinear", ["d", "scale", "zero"], ["d_q"]),
            node("DequantizeLinear", ["d_q", "scale", "zero"], ["d_dq"]),
            node("DequantizeLinear", ["second", "scale_w", "zero"], ["w_dq"]),
            node("Conv", ["d_dq", "w_dq"], ["e"], name="conv2", pads=[1, 1, 1, 1]),
        ]
    graph = onnx.helper.make_graph(
        nodes,
        "small",
        [value("image", onnx.TensorProto.UINT8, shape)],
        [value("restored", onnx.TensorProto.UINT8, shape)],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    precision = "int8" if quantised else "fp32"
    manifest = GraphManifest("small", "0" * 64, "Small", {}, precision, size, MEAN, STD, __version__)
    describe(model, manifest)
    return model


@pytest.fixture(scope="session")
def small() -> Callable[..., onnx.ModelProto]:
    """small('32x48'), small('dynamic'), small(quantised=True): see `small_model`."""
    return small_model
