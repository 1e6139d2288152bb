"""`python -m sdps.benchmarks.integer_kernels`: what an engine's integer convolutions gain on this CPU at all.

A chain of 3x3 convolutions of one width, nothing between them: in FP32, as explicit Q/DQ, and with the
operators that a Q/DQ graph would have to become for ONNX Runtime to multiply integers (QLinearConv,
whose result is INT8 again, and ConvInteger, whose result is exact). If those are no faster here, no way
to write an INT8 graph is. Weights in 7 bits, so that nothing saturates without VNNI.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sdps.benchmarks.environment import Environment
from sdps.benchmarks.timing import interleave, summarise, versus
from sdps.core.artifact import write_json
from sdps.core.console import failing_clearly, need
from sdps.core.errors import UsageError
from sdps.core.packages import module_there
from sdps.runtime.backends.openvino_cpu import openvino_core

LENGTH = 6
"""Convolutions in the chain."""
app = typer.Typer(add_completion=False)

_PADS = [1, 1, 1, 1]


def _fp32(i: int, x: str, y: str) -> list[NodeProto]:
    return [helper.make_node("Conv", [x, "weight"], [y], pads=_PADS)]


def _qdq(i: int, x: str, y: str) -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [x, "step", "zero"], [f"q{i}"]),
        helper.make_node("DequantizeLinear", [f"q{i}", "step", "zero"], [f"d{i}"]),
        helper.make_node("DequantizeLinear", ["integers", "steps", "zeros"], [f"w{i}"], axis=0),
        helper.make_node("Conv", [f"d{i}", f"w{i}"], [y], pads=_PADS),
    ]


def _qlinear(i: int, x: str, y: str) -> list[NodeProto]:
    operands = [f"q{i}", "step", "half", "integers", "steps", "zeros", "step", "half"]
    return [
        helper.make_node("QuantizeLinear", [x, "step", "half"], [f"q{i}"]),
        helper.make_node("QLinearConv", operands, [f"c{i}"], pads=_PADS),
        helper.make_node("DequantizeLinear", [f"c{i}", "step", "half"], [y]),
    ]


def _integer(i: int, x: str, y: str) -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [x, "step", "half"], [f"q{i}"]),
        helper.make_node("ConvInteger", [f"q{i}", "integers", "half"], [f"c{i}"], pads=_PADS),
        helper.make_node("Cast", [f"c{i}"], [f"f{i}"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"f{i}", "both"], [y]),
    ]


FORMS: dict[str, Callable[[int, str, str], list[NodeProto]]] = {
    "FP32": _fp32,
    "Q/DQ": _qdq,
    "QLinearConv": _qlinear,
    "ConvInteger": _integer,
}


def chain(form: str, channels: int) -> onnx.ModelProto:
    """LENGTH convolutions of so many channels in one of FORMS, [1,C,H,W] float32 in and out."""
    rng = np.random.default_rng(0)
    integers = rng.integers(-63, 64, (channels, channels, 3, 3)).astype(np.int8)
    step, steps = np.float32(0.05), np.full(channels, 0.003, np.float32)
    constants: dict[str, Any] = {
        "weight": integers.astype(np.float32) * steps[:, None, None, None],
        "integers": integers,
        "step": step,
        "steps": steps,
        "both": (step * steps)[None, :, None, None],
        "zero": np.int8(0),
        "half": np.uint8(128),  # ONNX Runtime's kernels for x86 want activations without a sign
        "zeros": np.zeros(channels, np.int8),
    }
    names = ["x", *(f"t{i}" for i in range(LENGTH - 1)), "y"]
    nodes = [node for i in range(LENGTH) for node in FORMS[form](i, names[i], names[i + 1])]
    used = {name for node in nodes for name in node.input}
    shape: list[str | int | None] = [1, channels, "height", "width"]
    graph = helper.make_graph(
        nodes,
        form,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k in used],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 19)])


def contenders(channels: int, side: int, threads: int) -> dict[str, Callable[[], object]]:
    """Every form that ONNX Runtime has (1.23 lacks ConvInteger of these types), and FP32 and Q/DQ in OpenVINO
    where that is installed."""
    ort = need("onnxruntime", "cpu")
    lacking = ort.capi.onnxruntime_pybind11_state.NotImplemented
    x = np.random.default_rng(1).normal(size=(1, channels, side, side)).astype(np.float32)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    found: dict[str, Callable[[], object]] = {}
    for form in FORMS:
        try:
            session = ort.InferenceSession(
                chain(form, channels).SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except lacking:
            sys.stderr.write(f"ONNX Runtime {ort.__version__} does not have {form} of these types.\n")
            continue
        found[f"ONNX Runtime, {form}"] = partial(session.run, None, {"x": x})
    if not module_there("openvino"):
        return found
    core = openvino_core()
    for form in ("FP32", "Q/DQ"):
        model = core.read_model(chain(form, channels).SerializeToString())
        model.reshape([1, channels, side, side])
        compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})
        found[f"OpenVINO, {form}"] = partial(compiled, x)
    return found


def _parse(shape: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,3})", shape.strip())
    if not match:
        raise UsageError(f"{shape!r} is not CHANNELSxSIDE.", "Write for example 16x256.")
    return int(match[1]), int(match[2])


@app.command()
@failing_clearly
def bench(
    shapes: Annotated[str, typer.Option(help="CHANNELSxSIDE, separated by commas.")] = "16x256,32x128,48x64",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    budget: Annotated[float, typer.Option(help="Seconds for each shape.")] = 10.0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the raw samples there.")] = None,
) -> None:
    """Time chains of convolutions in FP32 and in integers, in turns."""
    results, asked = [], [_parse(shape) for shape in shapes.split(",")]
    print("| chain | engine, form | median, ms | times its FP32 |\n|---|---|---:|---:|")
    for channels, side in asked:
        samples = interleave(contenders(channels, side, threads), budget_s=budget)
        for name, values in samples.items():
            ratio = versus(samples[f"{name.partition(',')[0]}, FP32"], values)
            median = summarise(values).p50_ms / LENGTH
            interval = f"{ratio.low:.2f} to {ratio.high:.2f}"
            what = f"{channels} channels, {side}x{side} | {name}"
            print(f"| {what} | {median:.2f} | {ratio.median:.2f} ({interval}) |")
            results.append(
                {"shape": f"{channels}x{side}", "name": name, "ratio": asdict(ratio), "samples_ns": values}
            )
    if out:
        environment = asdict(Environment.capture())
        write_json(out, {"threads": threads, "length": LENGTH, "environment": environment, "chains": results})


if __name__ == "__main__":
    app()
