"""FP16 graphs: the islands lie where the rule says, whatever the tensors are called."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper

from sdps import __version__
from sdps.core.errors import ExportError, ParityError
from sdps.core.frame import Image
from sdps.core.manifest import INPUT, OUTPUT, GraphManifest
from sdps.core.pictures import read_picture
from sdps.core.samples import PICTURE, sample
from sdps.core.spec import ShapeRange, Size
from sdps.export.engine import build_engine
from sdps.export.engine_options import RTX
from sdps.export.islands import tensor_types
from sdps.export.onnx_export import export_graph, manifest_of
from sdps.export.parity import Bounds, drift_between, fit, measure_drift, require
from sdps.export.precision import (
    BFLOAT,
    FLOAT,
    HALF,
    HALF_MAX,
    narrow_type,
    precision_report,
    to_bf16,
    to_fp16,
)
from sdps.export.rehearsal import PEAK, rehearse
from sdps.model import SDPSFNet
from sdps.model.deploy import MEAN, STD
from sdps.runtime.backends.openvino_cpu import openvino_core

GraphMaker = Callable[..., ModelProto]
FRAGILE = {
    "GlobalAveragePool",
    "ReduceMean",
    "ReduceSum",
    "Softmax",
    "Div",
    "Sub",
    "Erf",
    "Gemm",
    "Resize",
    "Round",
    "Pad",
}


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


def test_the_type_is_known_without_weights_of_it(small: GraphMaker) -> None:
    plain = onnx.shape_inference.infer_shapes(small())
    assert narrow_type(plain) is None
    half = to_fp16(plain)
    del half.graph.initializer[:]
    assert narrow_type(half) == HALF


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
    for model in (graph("fp16"), rehearse(graph("fp16"))):
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
        assert np.array_equal(run_graph(rehearse(half), image), image) == survives


def test_openvino_runs_the_fp16_graph(
    graph: GraphMaker, run_graph: Callable[..., Image], hard_pictures: dict[str, Image]
) -> None:
    core = openvino_core()
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


PHOTO_SIZES = (Size(64, 64), Size(256, 384))


def watched(model: ModelProto) -> Callable[[Image], tuple[Image, float]]:
    """Gives the rehearsal's picture, and the largest value that a 16-bit tensor had to hold."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        rehearse(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(image: Image) -> tuple[Image, float]:
        restored, peak = session.run([OUTPUT, PEAK], {INPUT: image[None]})
        return restored[0], float(peak)

    return run


def test_no_activation_comes_near_overflow_and_size_does_not_matter(
    graph: GraphMaker, hard_pictures: dict[str, Image]
) -> None:
    run, photo = watched(graph("fp16", "dynamic")), read_picture(sample(PICTURE))
    square = {name: np.tile(image, (2, 1, 1))[:64, :64] for name, image in hard_pictures.items()}
    peaks = {name: run(image)[1] for name, image in square.items()}
    sizes = [run(fit(photo, size))[1] for size in PHOTO_SIZES]
    assert all(np.isfinite(peak) and 1 < peak < HALF_MAX / 100 for peak in (*peaks.values(), *sizes)), peaks
    # Only means see the whole picture, and they are FP32: 24 times the pixels is not 24 times the values.
    assert sizes[1] < 2 * sizes[0]


def test_bf16_keeps_the_islands_and_the_picture(
    graph: GraphMaker, run_graph: Callable[[ModelProto, Image], Image], hard_pictures: dict[str, Image]
) -> None:
    plain = graph("fp32", "dynamic")
    model = to_bf16(plain)
    onnx.checker.check_model(model, full_check=True)
    types = {(node.op_type, elem) for node, elem in result_types(model)}
    assert {elem for op, elem in types if op in FRAGILE | {"ConvTranspose"}} == {FLOAT}
    assert ("Conv", BFLOAT) in types
    assert HALF not in {elem for _, elem in types}
    report = precision_report(model)
    assert report.narrow == "BF16"
    assert report.macs_share_fp16 > 0.9
    run = watched(model)
    for name, image in hard_pictures.items():
        square = np.tile(image, (2, 1, 1))[:64, :64]
        restored, _ = run(square)
        assert drift_between(name, run_graph(plain, square), restored).psnr_db > 35


def test_rtx_builds_bf16(graph: GraphMaker, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = tmp_path / "bf16.onnx"
    onnx.save(to_bf16(graph("fp32", "dynamic")), model)
    shapes = ShapeRange(Size(32, 32), Size(64, 96), Size(128, 192))
    build_engine(model, tmp_path / "bf16.engine", RTX, shapes)
    assert (tmp_path / "bf16.engine").stat().st_size > 1e5


def test_an_overflow_is_found_where_it_happens(tiny_network: SDPSFNet, graph: GraphMaker) -> None:
    loud = copy.deepcopy(tiny_network)
    loud.stage_in.shallow.conv_in.weight.mul_(3e5)
    manifest = manifest_of(graph("fp16", "61x90"))
    with pytest.raises((ParityError, ExportError), match="FP16"):
        model = export_graph(loud, manifest)
        measure_drift(loud, model, read_picture(sample(PICTURE)), "rain", Size(61, 90))
