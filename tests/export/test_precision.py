"""FP16 graphs: the islands lie where the rule says, whatever the tensors are called."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from sdps import __version__
from sdps.core.errors import ExportError
from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest
from sdps.core.samples import PICTURE, sample
from sdps.core.spec import Size
from sdps.export.onnx_export import export_graph
from sdps.export.parity import Bounds, drift_between, measure_drift, read_picture, require
from sdps.export.precision import FLOAT, HALF, precision_report, tensor_types, to_fp16
from sdps.export.rehearsal import rehearse_fp16
from sdps.model import SDPSFNet
from sdps.model.deploy import MEAN, STD

GraphMaker = Callable[..., ModelProto]
FRAGILE = {"ReduceMean", "ReduceSum", "Softmax", "Div", "Sub", "Erf", "Gemm", "Resize", "Round", "Pad"}


def result_types(model: ModelProto) -> list[tuple[onnx.NodeProto, int]]:
    types = tensor_types(model)
    return [(node, types[node.output[0]]) for node in model.graph.node]


@pytest.mark.parametrize("size", ["61x90", "dynamic"])
def test_fragile_operations_stay_fp32(graph: GraphMaker, size: str) -> None:
    model = graph("fp16", size)
    found = {(node.op_type, elem) for node, elem in result_types(model) if node.op_type in FRAGILE}
    assert {op for op, _ in found} >= {"ReduceMean", "ReduceSum", "Softmax", "Div", "Erf", "Gemm", "Resize"}
    assert {elem for _, elem in found} == {FLOAT}


def test_convolutions_are_fp16_but_for_the_small_maps(graph: GraphMaker) -> None:
    model = graph("fp16")
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    for node, elem in result_types(model):
        if node.op_type in ("Conv", "ConvTranspose"):
            small = max(shapes[node.output[0]][2:]) <= 7  # 1x1 attention and gates, the 7x7 PSF
            assert elem == (FLOAT if small else HALF), node.name
    report = precision_report(model)
    assert report.convs_fp16 > 100
    assert report.macs_share_fp16 > 0.9


def test_the_picture_goes_in_and_comes_out_in_fp32(graph: GraphMaker) -> None:
    nodes = [(node.op_type, elem) for node, elem in result_types(graph("fp16")) if elem in (FLOAT, HALF)]
    before = nodes[: next(i for i, (op, _) in enumerate(nodes) if op == "Conv")]
    assert [elem for _, elem in before][:-1] == [FLOAT] * (len(before) - 1)
    assert before[-1] == ("Cast", HALF)
    last = max(i for i, (op, _) in enumerate(nodes) if op == "Conv")
    assert nodes[last + 1] == ("Cast", FLOAT)
    assert {elem for _, elem in nodes[last + 1 :]} == {FLOAT}
    assert ("Add", FLOAT) in nodes[last:]  # the residual over the rainy picture


def test_casts_stand_at_borders_only_and_once(graph: GraphMaker) -> None:
    model = graph("fp16", "dynamic")
    types = tensor_types(model)
    casts = [n for n in model.graph.node if n.op_type == "Cast" and types[n.output[0]] in (FLOAT, HALF)]
    ends = [(node.input[0], types[node.output[0]]) for node in casts]
    assert len(set(ends)) == len(ends)
    assert all(types[name] != to for name, to in ends)
    made_by_cast = {node.output[0] for node in casts}
    assert not made_by_cast & {name for name, _ in ends}  # nothing is cast there and back


def test_shape_computations_are_untouched(graph: GraphMaker) -> None:
    def integers(model: ModelProto) -> list[bytes]:
        return [n.SerializeToString() for n, elem in result_types(model) if elem == onnx.TensorProto.INT64]

    assert len(integers(graph("fp32", "dynamic"))) > 5
    assert integers(graph("fp16", "dynamic")) == integers(graph("fp32", "dynamic"))


@pytest.mark.parametrize("size", ["61x90", "dynamic"])
def test_the_graph_is_valid_and_stays_uint8(graph: GraphMaker, size: str) -> None:
    model = graph("fp16", size)
    onnx.checker.check_model(model, full_check=True)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert model.ByteSize() < graph("fp32", size).ByteSize()


def test_the_rule_knows_no_names(graph: GraphMaker) -> None:
    plain = graph("fp32")
    scrambled = ModelProto()
    scrambled.CopyFrom(plain)
    kept = {value.name for value in (*plain.graph.input, *plain.graph.output)} | {""}
    names = {name for node in plain.graph.node for name in (*node.input, *node.output)} - kept
    new = {name: f"t{i}" for i, name in enumerate(sorted(names))}
    for i, node in enumerate(scrambled.graph.node):
        node.name = f"n{i}"
        for slots in (node.input, node.output):
            slots[:] = [new.get(name, name) for name in slots]
    for value in (*scrambled.graph.initializer, *scrambled.graph.value_info):
        value.name = new.get(value.name, value.name)
    assert precision_report(to_fp16(scrambled)) == precision_report(to_fp16(plain))


def test_a_weight_beyond_the_range_is_named(graph: GraphMaker) -> None:
    model = graph("fp32")
    weight = next(t for t in model.graph.initializer if t.name.endswith("stage_osr.tail.weight"))
    values = numpy_helper.to_array(weight).copy()
    values.flat[5] = -70000
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match=r"stage_osr\.tail\.weight reaches 70000"):
        to_fp16(model)


def test_a_floating_point_graph_is_refused() -> None:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("x", FLOAT, [1])], [value("y", FLOAT, [1])])
    with pytest.raises(ExportError, match="x is floating-point"):
        to_fp16(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


@pytest.mark.parametrize("kind", ["white", "black", "noise"])
def test_hard_pictures_survive_half_precision(
    graph: GraphMaker,
    run_graph: Callable[[ModelProto, Image], Image],
    hard_pictures: dict[str, Image],
    kind: str,
) -> None:
    reference = run_graph(graph("fp32"), hard_pictures[kind])
    for model in (graph("fp16"), rehearse_fp16(graph("fp16"))):
        drift = drift_between(kind, reference, run_graph(model, hard_pictures[kind]))
        assert drift.psnr_db > 45, drift


def test_the_rehearsal_shows_an_overflow_that_onnx_runtime_hides(run_graph: Callable[..., Image]) -> None:
    value = helper.make_tensor_value_info
    uint8 = onnx.TensorProto.UINT8
    nodes = [
        helper.make_node("Cast", ["image"], ["a"], to=FLOAT),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["b", "big"], ["c"]),
        helper.make_node("Conv", ["c", "small"], ["d"]),
        helper.make_node("Transpose", ["d"], ["e"], perm=[0, 2, 3, 1]),
        helper.make_node("Clip", ["e", "low", "high"], ["f"]),
        helper.make_node("Cast", ["f"], ["restored"], to=uint8),
    ]
    eye = np.eye(3, dtype=np.float32)[:, :, None, None]
    weights = {"big": eye * 1024, "small": eye / 1024, "low": np.float32(0), "high": np.float32(255)}
    graph = helper.make_graph(
        nodes,
        "amplifier",
        [value("image", uint8, [1, 8, 8, 3])],
        [value("restored", uint8, [1, 8, 8, 3])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    half = to_fp16(onnx.shape_inference.infer_shapes(model))
    for level, survives in ((63, True), (65, False)):  # 64 x 1024 is past 65504
        image = np.full((8, 8, 3), level, np.uint8)
        np.testing.assert_array_equal(run_graph(model, image), image)
        assert np.array_equal(run_graph(rehearse_fp16(half), image), image) == survives


def test_openvino_runs_the_fp16_graph(
    graph: GraphMaker, run_graph: Callable[..., Image], hard_pictures: dict[str, Image]
) -> None:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph("fp16").SerializeToString()), "CPU")
    restored = compiled(hard_pictures["noise"][None])[0][0]
    assert drift_between("noise", run_graph(graph("fp32"), hard_pictures["noise"]), restored).psnr_db > 45


def test_the_golden_network_keeps_its_output_in_fp16() -> None:
    spec = importlib.util.spec_from_file_location(
        "golden", Path(__file__).parents[1] / "model" / "test_psfnet.py"
    )
    assert spec and spec.loader
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    network = SDPSFNet(golden.SMALL).eval().requires_grad_(False)
    golden.golden_weights(network)
    size = Size(64, 96)
    manifest = GraphManifest(
        "golden", "0" * 64, "SDPSFNet", dict(vars(golden.SMALL)), "fp16", str(size), MEAN, STD, __version__
    )
    drifts = measure_drift(
        network, export_graph(network, manifest), read_picture(sample(PICTURE)), "rain", size
    )
    assert len(drifts) == 2
    require(drifts, Bounds.of("fp16"))
