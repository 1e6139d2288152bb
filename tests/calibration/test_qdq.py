"""The Q/DQ graph: NVIDIA's rules, its agreement with PyTorch, and NVIDIA's own builder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from sdps import __version__
from sdps.calibration.fake_quant import attach, steps_of
from sdps.calibration.layers import Layer, attribute, find_layers
from sdps.calibration.qdq import NARROW, infer_types, integer_convolutions
from sdps.calibration.recipe import Calibrated, Options, calibrate
from sdps.calibration.session import open_session, restore
from sdps.core.errors import ExportError
from sdps.core.frame import Image
from sdps.core.manifest import INPUT, GraphManifest
from sdps.core.spec import ShapeRange, Size
from sdps.export.graph_macs import macs_by_node
from sdps.export.islands import fp32_islands, tensor_types
from sdps.export.module_map import export_mapped
from sdps.export.precision import precision_report, to_fp16
from sdps.export.rehearsal import PEAK, rehearse
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.model.deploy import MEAN, STD, DeployNet
from sdps.runtime.backends import open_backend
from sdps.runtime.backends.openvino_cpu import openvino_core


@pytest.fixture(scope="module")
def int8(calibrated: Calibrated) -> onnx.ModelProto:
    """All layers in INT8, the rest FP32."""
    return infer_types(calibrated.graph([layer.name for layer in calibrated.layers]))


def test_pairs_follow_the_rules(int8: onnx.ModelProto) -> None:
    onnx.checker.check_model(int8, full_check=True)
    constants = {t.name: numpy_helper.to_array(t) for t in int8.graph.initializer}
    producers = {node.output[0]: node for node in int8.graph.node}
    transposed = 0
    for node in int8.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[1]].shape == ()  # per tensor
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = producers.get(node.input[1])
            if weight is None:
                continue
            axis = int(node.op_type == "ConvTranspose")
            transposed += axis
            assert attribute(weight, "axis", 1) == axis
            values, scales = constants[weight.input[0]], constants[weight.input[1]]
            assert values.dtype == np.int8
            assert scales.shape == (values.shape[axis],)
            # The same in FP16, where the graph may end.
            assert np.array_equal(scales, scales.astype(np.float16).astype(np.float32))
            if len(node.input) > 2:
                assert constants[node.input[2]].dtype == np.float32
    assert transposed > 0


def test_the_psf_path_and_the_means_stay_in_floating_point(
    int8: onnx.ModelProto, model: onnx.ModelProto, layers: list[Layer]
) -> None:
    macs = macs_by_node(int8)
    report = integer_convolutions(int8, macs)
    assert set(report.names) == {layer.name for layer in layers}
    assert report.macs_share > 0.98
    stays = {model.graph.node[i].output[0] for i in fp32_islands(model)}
    convolutions = {n.output[0] for n in model.graph.node if n.op_type == "Conv"}
    assert stays & convolutions == set(report.float_names)


def test_a_quantised_graph_is_refused(int8: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match="quantised already"):
        find_layers(int8, {}, ())


def test_pytorch_with_fake_quantisation_agrees(scenes: list[Image], tmp_path: Path) -> None:
    """What training sees is what the graph does: the module tree, PyTorch's arithmetic, every layer."""
    torch.manual_seed(0)
    network = SDPSFNet(SDPSFNetConfig(tau=0, features=8, scale_unet=4, scale_orb=4, cabs=1))
    network.eval().requires_grad_(False)
    config = dict(network.config.__dict__)
    mapped = export_mapped(
        network,
        GraphManifest("tiny", "0" * 64, "SDPSFNet", config, "fp32", "dynamic", MEAN, STD, __version__),
    )
    options = Options("mse", equalise=False, compensate=False, correct_bias=False, narrow_weights=True)
    calibrated = calibrate(mapped.model, mapped.layers, scenes[:4], options, tmp_path / "s")
    int8 = infer_types(calibrated.graph([layer.name for layer in mapped.layers]))
    steps = {site.key: calibrated.quantised[site.layer].scale for site in mapped.sites}
    assert max(len(site.modules) for site in mapped.sites) == 3  # up-sampling, narrowing, lateral
    assert {site.part for site in mapped.sites} == {"", "rest", "lone"}
    attach(network, mapped.sites, steps)
    assert steps_of(network) == steps
    deploy, session = DeployNet(network).eval(), open_session(int8)
    differences = []
    for scene in scenes[8:]:
        with torch.inference_mode():
            ours = deploy(torch.from_numpy(scene)[None])[0].numpy()
        differences.append(np.abs(ours.astype(int) - restore(session, scene)))
    assert (np.stack(differences) <= 1).mean() >= 0.999


def test_openvino_runs_it_in_integers(int8: onnx.ModelProto, layers: list[Layer]) -> None:
    """All but a few: weights that share a zero point would leave most of them in FP32."""
    core = openvino_core()
    network = core.read_model(model=int8.SerializeToString())
    network.reshape({INPUT: [1, 64, 64, 3]})
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    facts = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
    precisions = [f["runtimePrecision"].value for f in facts if "onvolution" in f["layerType"].value]
    precisions += [f["runtimePrecision"].value for f in facts if f["layerType"].value == "Deconvolution"]
    integer = [precision for precision in precisions if precision in ("u8", "i8")]
    assert len(integer) > 0.9 * len(layers)


def test_the_islands_are_those_of_the_plain_graph(int8: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Means, the PSF path, the picture's ends: what is FP32 without Q and DQ is FP32 with them, no more."""

    def islands(graph: onnx.ModelProto) -> set[str]:
        nodes = [graph.graph.node[index] for index in fp32_islands(graph)]
        return {n.output[0] for n in nodes if n.op_type not in ("QuantizeLinear", "DequantizeLinear")}

    assert islands(int8) == islands(model)


def test_fp16_around_int8_is_fp16_and_changes_little(int8: onnx.ModelProto, scenes: list[Image]) -> None:
    half = to_fp16(int8)
    onnx.checker.check_model(half, full_check=True)
    report = precision_report(half)
    assert report.macs_share_fp16 > 0.98  # what the INT8 convolutions give
    types = tensor_types(half)
    results = Counter(types[node.output[0]] for node in half.graph.node)
    assert results[onnx.TensorProto.FLOAT16] > report.nodes_fp32
    producers = {node.output[0]: node for node in half.graph.node}
    for node in half.graph.node:  # nothing may stand between a DQ and its convolution
        if node.op_type == "DequantizeLinear" and node.input[0].endswith("/int8"):
            reader = next(n for n in half.graph.node if node.output[0] in n.input)
            assert reader.op_type in ("Conv", "ConvTranspose")
            assert producers[reader.input[0]].op_type == "DequantizeLinear"
    exact, rounded = open_session(int8), open_session(rehearse(half))
    difference = restore(exact, scenes[9]).astype(int) - restore(rounded, scenes[9])
    assert np.abs(difference).mean() < 1
    assert PEAK in [value.name for value in rounded.get_outputs()]  # overflow is watched for


@pytest.mark.parametrize("rest", ["fp32", "fp16"])
def test_tensorrt_rtx_builds_it(int8: onnx.ModelProto, layers: list[Layer], rest: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from sdps.export.builder import build_plan
    from sdps.export.engine_options import EngineOptions

    graph = to_fp16(int8) if rest == "fp16" else int8
    shapes = ShapeRange(Size(64, 64), Size(64, 96), Size(128, 128))
    built = build_plan(trt, graph.SerializeToString(), [shapes], EngineOptions())
    assert len(built.plan) > 10_000
    convolutions = [layer.precision for layer in built.layers if layer.type.endswith("CONVOLUTION")]
    assert convolutions.count("int8") == len(layers)  # whatever is around them


def test_with_weights_in_7_bits_openvinos_integers_agree(
    model: onnx.ModelProto, layers: list[Layer], scenes: list[Image], tmp_path: Path
) -> None:
    """Products of 8 bits saturate on CPUs without VNNI; those with weights in 7 bits fit everywhere."""
    options = Options(equalise=False, narrow_weights=True)
    calibrated = calibrate(model, layers, scenes[:4], options, tmp_path / "s")
    assert max(np.abs(layer.weight.astype(int)).max() for layer in calibrated.quantised.values()) == NARROW
    int8 = calibrated.graph([layer.name for layer in layers])
    onnx.save(int8, tmp_path / "int8.onnx")
    backend, session = open_backend(tmp_path / "int8.onnx", "openvino"), open_session(int8)
    for scene in scenes[8:]:
        difference = backend.run(scene[None])[0].astype(float) - restore(session, scene)
        assert np.sqrt((difference**2).mean()) < 1
