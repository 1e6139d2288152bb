"""Exact rewrites: each changes what it says, nothing changes what the network computes.

That rewritten graphs build for NVIDIA, fixed and dynamic, `test_engine.py` shows: its graphs are.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper

from sdps import __version__
from sdps.core.errors import ExportError
from sdps.core.frame import Image
from sdps.core.manifest import INPUT, GraphManifest
from sdps.export.graph_cost import graph_cost
from sdps.export.islands import tensor_types
from sdps.export.onnx_export import check_graph, export_graph, manifest_of
from sdps.export.precision import FLOAT, to_fp16
from sdps.export.rewrite import REWRITES, explain, rewrite
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.model.deploy import MEAN, STD

SMALLEST = SDPSFNetConfig(tau=0, features=5, scale_unet=3, scale_orb=2, cabs=1, reduction=2, psf_channels=8)
"""Odd widths everywhere."""
LIMIT = 1e-4
LEVELS = 255 * min(STD)  # one unit of the network's space, in levels of the picture


def random_network(config: SDPSFNetConfig) -> SDPSFNet:
    """Random weights, biases and slope included, with a PSF whose sum is not near zero."""
    torch.manual_seed(config.tau)
    network = SDPSFNet(config).eval().requires_grad_(False)
    for name, value in network.named_parameters():
        if name.endswith("bias"):
            value.copy_(0.1 * torch.randn_like(value))
        if "attention.reduce" in name or name.endswith("psf.expand.bias"):
            value.abs_()
        if value.shape == (1,) and "act" in name:
            value.fill_(0.17)
    return network


def traced(config: SDPSFNetConfig, size: str, names: Any = ()) -> ModelProto:
    manifest = GraphManifest("x", "0" * 64, "SDPSFNet", {}, "fp32", size, MEAN, STD, __version__)
    return export_graph(random_network(config), manifest, names)


@pytest.fixture(scope="module")
def plain() -> ModelProto:
    """Any size, odd widths: the graph that most tests here rewrite."""
    return traced(SMALLEST, "dynamic")


def applied(model: ModelProto, *names: str) -> ModelProto:
    changed = ir.from_proto(model)
    rewrite(changed, names or tuple(REWRITES))
    return ir.to_proto(changed)


def before_rounding(model: ModelProto, image: Image) -> npt.NDArray[np.float32]:
    """What the graph holds before it clamps and rounds, in units of the network's space."""
    open_ended = ModelProto()
    open_ended.CopyFrom(model)
    clamp = next(node for node in open_ended.graph.node if node.op_type in ("Max", "Clip"))
    del open_ended.graph.output[:]
    open_ended.graph.output.append(helper.make_tensor_value_info(clamp.input[0], FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        open_ended.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result: npt.NDArray[np.float32] = session.run(None, {INPUT: image[None]})[0]
    return result / LEVELS


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def difference(one: ModelProto, other: ModelProto, image: Image) -> float:
    return float(np.abs(before_rounding(one, image) - before_rounding(other, image)).max())


def operations(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("name", REWRITES)
def test_each_alone_changes_something_and_computes_the_same(plain: ModelProto, name: str) -> None:
    # The first one lets shape inference follow sizes, without which costs cannot be counted.
    changed = applied(plain, "resize_like_neighbour", name)
    onnx.checker.check_model(changed, full_check=True)
    assert changed.graph != plain.graph
    for size in ((32, 48), (20, 4), (64, 36)):
        assert difference(plain, changed, noise(*size)) < LIMIT
    kept, after = graph_cost(plain), graph_cost(changed)
    assert after.macs <= kept.macs
    assert tensor_types(changed).keys() >= {name for node in changed.graph.node for name in node.output}


def test_what_each_leaves(plain: ModelProto) -> None:
    before, after = operations(plain), operations(applied(plain))
    assert (before["PRelu"], after["PRelu"], after["LeakyRelu"]) == (before["PRelu"], 0, before["PRelu"])
    assert (after["Max"], after["Min"], after["Clip"]) == (0, 0, 1)
    # Five up-samplings and two down-samplings have lost a 1x1 convolution, two of them a lateral one too,
    assert after["ConvTranspose"] == before["ConvTranspose"] == 5
    assert after["Conv"] == before["Conv"] - 5 - 2 - 2 + 3  # and three PSF attentions add up two
    assert after["GlobalAveragePool"] > 20
    assert after["ReduceMean"] == 3  # those of the PSF codes, which keep no dimensions


def test_no_full_map_is_concatenated_any_more(plain: ModelProto) -> None:
    changed = applied(plain)
    shapes = {v.name: v.type.tensor_type.shape.dim for v in changed.graph.value_info}
    for node in changed.graph.node:
        if node.op_type == "Concat" and len(shapes[node.output[0]]) == 4:
            assert [dim.dim_value for dim in shapes[node.output[0]][2:]] == [1, 1], node.name


def test_a_deep_network_computes_the_same() -> None:
    config = replace(SMALLEST, tau=2, features=6, scale_unet=2)
    model = traced(config, "24x32")
    changed = applied(model)
    assert difference(model, changed, noise(24, 32)) < LIMIT
    kept, after = graph_cost(model), graph_cost(changed)
    assert after.moved_bytes < 0.93 * kept.moved_bytes
    assert after.weight_bytes < kept.weight_bytes


def test_explain_accounts_for_every_step(plain: ModelProto) -> None:
    steps = explain(plain)
    assert [step.name for step in steps] == list(REWRITES)
    assert steps[0].before == graph_cost(plain)
    assert all(a.after == b.before for a, b in itertools.pairwise(steps))
    assert all(step.places > 0 and step.purpose for step in steps)


def test_the_manifest_names_what_was_applied() -> None:
    model = traced(SMALLEST, "dynamic", ("leaky_relu", "clip"))
    assert manifest_of(model).rewrites.keys() == {"leaky_relu", "clip"}
    assert operations(model)["PRelu"] == 0
    assert operations(model)["ReduceMean"] > 20


def test_fp16_islands_survive_the_rewrites(plain: ModelProto) -> None:
    half = to_fp16(applied(plain))
    types = tensor_types(half)
    fragile = {
        "GlobalAveragePool",
        "ReduceMean",
        "ReduceSum",
        "Softmax",
        "Div",
        "Erf",
        "Gemm",
        "Resize",
        "Round",
    }
    found = {(node.op_type, types[node.output[0]]) for node in half.graph.node if node.op_type in fragile}
    assert found == {(operation, FLOAT) for operation in fragile}


def graph_of(nodes: list[onnx.NodeProto], weights: dict[str, npt.NDArray[Any]], channels: int) -> ir.Model:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", FLOAT, [1, channels, 8, 8])],
        [value("y", FLOAT, None)],
        [
            numpy_helper.from_array(v if v.dtype == np.int64 else v.astype(np.float32), k)
            for k, v in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


@pytest.mark.parametrize(
    ("nodes", "weights", "name"),
    [
        (  # a slope for each channel is no LeakyRelu
            [helper.make_node("PRelu", ["x", "s"], ["y"])],
            {"s": np.array([[[0.1]], [[0.2]], [[0.3]], [[0.4]]])},
            "leaky_relu",
        ),
        (  # grouped
            [
                helper.make_node("Conv", ["x", "a"], ["h"], group=2),
                helper.make_node("Conv", ["h", "b"], ["y"]),
            ],
            {"a": np.ones((4, 2, 1, 1)), "b": np.ones((4, 4, 1, 1))},
            "pointwise_chains",
        ),
        (  # a bottleneck: folded it would be more work
            [helper.make_node("Conv", ["x", "a"], ["h"]), helper.make_node("Conv", ["h", "b"], ["y"])],
            {"a": np.ones((1, 4, 1, 1)), "b": np.ones((4, 1, 1, 1))},
            "pointwise_chains",
        ),
        (  # the middle is read twice
            [
                helper.make_node("Conv", ["x", "a"], ["h"]),
                helper.make_node("Conv", ["h", "b"], ["i"]),
                helper.make_node("Add", ["h", "i"], ["y"]),
            ],
            {"a": np.ones((4, 4, 1, 1)), "b": np.ones((4, 4, 1, 1))},
            "pointwise_chains",
        ),
        (  # overlapping up-sampling: the bias would differ at the border
            [
                helper.make_node("ConvTranspose", ["x", "a", "c"], ["h"], strides=[2, 2]),
                helper.make_node("Conv", ["h", "b"], ["y"]),
            ],
            {"a": np.ones((4, 4, 3, 3)), "b": np.ones((4, 4, 1, 1)), "c": np.ones(4)},
            "upsampling_chains",
        ),
        (  # a mean over channels, of a map that is 1x1 before and after
            [
                helper.make_node("GlobalAveragePool", ["x"], ["p"]),
                helper.make_node("ReduceMean", ["p", "axes"], ["y"]),
            ],
            {"axes": np.array([1])},
            "small_maps",
        ),
        (  # the neighbour is made after the resizing,
            [
                helper.make_node("Shape", ["x"], ["sizes"]),
                helper.make_node("Resize", ["x", "", "", "sizes"], ["u"]),
                helper.make_node("Relu", ["x"], ["n"]),
                helper.make_node("Concat", ["n", "u"], ["y"], axis=1),
            ],
            {},
            "resize_like_neighbour",
        ),
        (  # or of its result
            [
                helper.make_node("Shape", ["x"], ["sizes"]),
                helper.make_node("Resize", ["x", "", "", "sizes"], ["u"]),
                helper.make_node("Sigmoid", ["u"], ["n"]),
                helper.make_node("Concat", ["n", "u"], ["y"], axis=1),
            ],
            {},
            "resize_like_neighbour",
        ),
    ],
)
def test_what_only_looks_alike_is_left_alone(
    nodes: list[onnx.NodeProto], weights: dict[str, npt.NDArray[Any]], name: str
) -> None:
    model = graph_of(nodes, weights, 4)
    assert rewrite(model, (name,)) == {}


def test_the_size_of_a_neighbour_that_is_there_is_taken() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Relu", ["x"], ["n"]),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["u"]),
        helper.make_node("Concat", ["n", "u"], ["y"], axis=1),
    ]
    model = graph_of(nodes, {}, 4)
    assert rewrite(model, ("resize_like_neighbour",)) == {"resize_like_neighbour": 1}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_shapes_that_do_not_fit_are_one_line() -> None:
    bad = graph_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": np.ones((4, 4, 1, 1))}, 4)
    model = ir.to_proto(bad)
    check_graph(model)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w"))
    with pytest.raises(ExportError, match="not valid ONNX"):
        check_graph(model)
