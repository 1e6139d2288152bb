"""`--inspect` and `--require`: what a graph or an engine really computes in which precision."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from sdps.core.errors import EngineError, ExportError, ModelError, UsageError
from sdps.core.spec import ShapeRange, Size
from sdps.export.cli import app
from sdps.export.engine import build_engine
from sdps.export.engine_options import RTX
from sdps.export.inspection import FROM_SIDECAR, Requirement, inspect_file, parse_inspector
from sdps.export.layers import Share, graph_layers, shares, summarise

SMALL = ShapeRange.fixed(Size(32, 48))
CONV1, CONV2 = 32 * 48 * 16 * 27, 32 * 48 * 3 * 16 * 9  # multiply-accumulates of the small graph


@pytest.fixture(scope="module")
def quantised(small: Callable[..., onnx.ModelProto], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "small.onnx"
    onnx.save(small(quantised=True), path)
    return path


@pytest.fixture(scope="module")
def engine(quantised: Path) -> Path:
    pytest.importorskip(RTX)
    path = quantised.with_suffix(".engine")
    build_engine(quantised, path, RTX, SMALL)
    return path


def test_a_convolution_is_int8_if_both_of_its_operands_are(quantised: Path) -> None:
    found = inspect_file(quantised)
    assert found.convolutions == {"fp32": Share(1, CONV1), "int8": Share(1, CONV2)}
    assert found.ranges == {"d": 254.0}
    model = onnx.load(quantised)
    conv = next(node for node in model.graph.node if node.name == "conv2")
    conv.input[1] = "w_float"  # weights in float: no integer kernel, whatever stands before the picture
    weights = np.zeros((3, 16, 3, 3), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w_float"))
    assert shares(summarise(graph_layers(model))) == {"fp32": Share(2, CONV1 + CONV2)}


def test_a_real_fp16_graph_adds_up(graph_path: Callable[..., Path]) -> None:
    found = inspect_file(graph_path("fp16", "61x90"))
    model = onnx.load(graph_path("fp16", "61x90"))
    assert sum(row["count"] for row in found.rows) == len(model.graph.node) == len(found.layers)
    held = sum(len(t.raw_data) or t.ByteSize() for t in model.graph.initializer)
    assert sum(row["weight_bytes"] for row in found.rows) == held  # each constant once
    assert found.convolutions["fp16"].macs > 0.9 * sum(share.macs for share in found.convolutions.values())


def test_without_a_gpu_the_sidecar_tells_what_the_builder_was_given(engine: Path, quantised: Path) -> None:
    found = inspect_file(engine)
    assert found.source == FROM_SIDECAR
    # As the parser of NVIDIA's library sees it, and equal to what the graph says.
    assert found.convolutions == inspect_file(quantised).convolutions
    assert {row["type"] for row in found.rows} >= {"CONVOLUTION", "QUANTIZE", "DEQUANTIZE"}
    assert found.profiles == [["32x48"] * 3]


def test_an_engine_that_was_touched_is_not_shown(engine: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.engine"
    copy.write_bytes(engine.read_bytes()[:-1])
    copy.with_name("copy.engine.json").write_bytes(engine.with_name("small.engine.json").read_bytes())
    with pytest.raises(EngineError, match="SHA-256 does not match"):
        inspect_file(copy)


@pytest.mark.parametrize("text", ["int8", "int8:0.2", "fp32:0.5", "int8:.01", "int8:0"])
def test_requirements_that_hold(quantised: Path, text: str) -> None:
    requirement = Requirement.parse(text)
    requirement.check(inspect_file(quantised))
    assert requirement.precision == text.partition(":")[0]


@pytest.mark.parametrize(
    ("text", "said"), [("int8:0.9", "int8 does 50.0%"), ("fp16", "1 fp32, 1 int8"), ("fp32:1", "for 100%")]
)
def test_requirements_that_do_not(quantised: Path, text: str, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        Requirement.parse(text).check(inspect_file(quantised))


@pytest.mark.parametrize("text", ["int7", "int8:2", "int8:", "int8:90%", ""])
def test_requirements_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="nothing to require"):
        Requirement.parse(text)


def test_the_inspector_s_json_of_tensorrt() -> None:
    """In the form of TensorRT's documents; no real one was at hand."""
    int8 = "Thirty-two wide channel vectorized row major Int8 format"
    fp16 = "Channel major FP16 format where channel % 4 == 0"
    entries = [
        {
            "Name": "conv1 + relu",
            "LayerType": "CaskConvolution",
            "ParameterType": "Convolution",
            "Inputs": [{"Name": "x", "Format/Datatype": int8}],
            "Weights": {"Type": "Int8", "Count": 432},
        },
        {
            "Name": "conv2",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "y", "Format/Datatype": fp16}],
            "Weights": {"Type": "Half", "Count": 432},
        },
        {"Name": "copy", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
        {"Name": "fused", "LayerType": "kgen"},
        "only a name",
    ]
    text = json.dumps({"Layers": entries})
    layers = parse_inspector(text)
    assert [layer.precision for layer in layers] == ["int8", "fp16", "fp32", "other", "other"]
    assert shares(summarise(layers)) == {"int8": Share(1, 0), "fp16": Share(1, 0)}


def test_what_cannot_be_inspected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        inspect_file(tmp_path / "none.onnx")
    for name, error in (("text.onnx", ModelError), ("text.txt", UsageError), ("text.engine", EngineError)):
        (tmp_path / name).write_text("not a model")
        with pytest.raises(error):
            inspect_file(tmp_path / name)


def test_the_command(quantised: Path) -> None:
    run = CliRunner()
    shown = run.invoke(app, ["--inspect", str(quantised)])
    assert shown.exit_code == 0
    for said in ("int8", "QuantizeLinear", "±254", "small"):
        assert said in shown.stdout
    as_json = run.invoke(app, ["--inspect", str(quantised), "--json", "--require", "int8"])
    assert as_json.exit_code == 0
    assert json.loads(as_json.stdout)["convolutions"]["int8"] == {"count": 1, "macs": CONV2}
    failed = run.invoke(app, ["--inspect", str(quantised), "--require", "int8:0.9"])
    assert failed.exit_code == 1
    assert "lacks int8 convolutions for 90%" in failed.stderr
    for wrong in (
        ["--require", "int8"],
        ["--inspect", str(quantised), "--require", "x"],
        ["--inspect", str(quantised), "--require", ""],
        [],
    ):
        assert (
            run.invoke(app, [*wrong, *(["sdps-nano"] if wrong[:1] == ["--require"] else [])]).exit_code == 2
        )


@pytest.mark.skipif(importlib.util.find_spec(RTX) is None, reason="TensorRT-RTX is not installed")
def test_the_command_on_an_engine(engine: Path) -> None:
    shown = CliRunner().invoke(app, ["--inspect", str(engine), "--require", "int8"])
    assert shown.exit_code == 0
    assert "CONVOLUTION" in shown.stdout
    assert "before fusion" in shown.stdout
