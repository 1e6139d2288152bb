"""What each exact rewrite is worth on the layers that it touches: `python -m sdps.benchmarks.rewrite_parts`.

In the whole network a rewrite of a few layers drowns in a shared machine's noise. Here the pattern stands
alone, with the widths of the paper's network at 256x256, plain and rewritten in turns on one thread.
Compared are medians of per-round ratios of CPU time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from sdps.benchmarks.timing import Ratio, summarise, versus
from sdps.core.artifact import write_json
from sdps.core.console import failing_clearly
from sdps.runtime.backends.openvino_cpu import openvino_core

SIDE = 256
Nodes = list[tuple[str, list[str], str, dict[str, Any]]]
"""(operation, inputs, output, attributes); an input that is a tuple's text is a weight of that shape."""
app = typer.Typer(add_completion=False)

PATTERNS: dict[str, tuple[tuple[int, int], Nodes]] = {
    # Rewrite: (channels and side of the input, nodes). 'w:OxI...' is a random weight of that shape.
    "leaky_relu": (
        (40, SIDE),
        [
            ("Conv", ["x", "w:40x40x3x3"], "a", {"pads": [1] * 4}),
            ("PRelu", ["a", "w:1x1x1"], "b", {}),
            ("Conv", ["b", "w:40x40x3x3"], "y", {"pads": [1] * 4}),
        ],
    ),
    "clip": (
        (3, SIDE),
        [("Max", ["x", "c:0"], "a", {}), ("Min", ["a", "c:1"], "b", {}), ("Round", ["b"], "y", {})],
    ),
    "pointwise_chains": (
        (40, SIDE),
        [
            ("Conv", ["x", "w:40x40x1x1"], "a", {"strides": [2, 2]}),
            ("Conv", ["a", "w:60x40x1x1"], "y", {}),
        ],
    ),
    "upsampling_chains": (
        (60, SIDE // 2),
        [
            ("ConvTranspose", ["x", "w:60x60x2x2", "w:60"], "a", {"strides": [2, 2]}),
            ("Conv", ["a", "w:40x60x1x1"], "y", {}),
        ],
    ),
    "lone_channel": (
        (40, SIDE),
        [
            ("ReduceMean", ["x", "i:1"], "one", {}),
            ("Concat", ["x", "one"], "a", {"axis": 1}),
            ("Conv", ["a", "w:20x41x3x3", "w:20"], "b", {"pads": [1] * 4}),
            ("Relu", ["b"], "y", {}),
        ],
    ),
    "mean_before_concat": (
        (40, SIDE),
        [
            ("Relu", ["x"], "z", {}),
            ("Concat", ["x", "z"], "a", {"axis": 1}),
            ("ReduceMean", ["a", "i:2,3"], "y", {"keepdims": 1}),
        ],
    ),
    "small_maps": ((83, 1), [("Conv", ["x", "w:83x83x3x3"], "y", {"pads": [1] * 4})]),
    "global_pool": (
        (40, SIDE),
        [
            ("Conv", ["x", "w:40x40x3x3"], "a", {"pads": [1] * 4}),
            ("ReduceMean", ["a", "i:2,3"], "m", {"keepdims": 1}),
            ("Sigmoid", ["m"], "s", {}),
            ("Mul", ["a", "s"], "b", {}),
            ("Add", ["b", "x"], "y", {}),
        ],
    ),
}


@dataclass(frozen=True)
class Part:
    """One pattern on one engine: CPU milliseconds plain and rewritten, and how many times as fast."""

    rewrite: str
    engine: str
    plain_ms: float
    rewritten_ms: float
    speed: Ratio


def plain_graph(name: str) -> Any:
    """The pattern as an ONNX model from x to y."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    (channels, side), nodes = PATTERNS[name]
    rng = np.random.default_rng(0)
    weights: dict[str, npt.NDArray[Any]] = {}

    def tensor(text: str, node: int) -> str:
        if ":" not in text:
            return text
        kind, values = text.split(":")
        key = f"{text}/{node}"
        if kind == "i":
            weights[key] = np.array([int(v) for v in values.split(",")], np.int64)
        elif kind == "c":
            weights[key] = np.array(float(values), np.float32)
        else:
            shape = [int(v) for v in values.split("x")]
            # A slope is one number; other weights are small, so that nothing grows.
            weights[key] = np.full(shape, 0.2) if np.prod(shape) == 1 else 0.05 * rng.standard_normal(shape)
            weights[key] = weights[key].astype(np.float32)
        return key

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node(operation, [tensor(text, at) for text in inputs], [output], **attributes)
            for at, (operation, inputs, output, attributes) in enumerate(nodes)
        ],
        name,
        [value("x", TensorProto.FLOAT, [1, channels, side, side])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def runner(model: Any, engine: str, x: npt.NDArray[np.float32]) -> Callable[[], object]:
    """Opens a graph on one thread of an engine, with the runtime's settings."""
    data = model.SerializeToString()
    if engine == "openvino":
        core = openvino_core()
        options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(core.read_model(data), "CPU", options).create_infer_request()
        return lambda: request.infer({0: x}, share_inputs=True)
    import onnxruntime

    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    session_options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(data, session_options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def measure(name: str, engine: str, rounds: int) -> Part:
    """Times one pattern, plain and rewritten in turns."""
    import onnx_ir as ir

    from sdps.export.rewrite import rewrite

    plain = plain_graph(name)
    changed = ir.from_proto(plain)
    assert rewrite(changed, (name,)), name
    (channels, side), _ = PATTERNS[name]
    x = np.random.default_rng(1).standard_normal((1, channels, side, side)).astype(np.float32)
    calls: Mapping[str, Callable[[], object]] = {
        "plain": runner(plain, engine, x),
        "rewritten": runner(ir.to_proto(changed), engine, x),
    }
    spent: dict[str, list[int]] = {label: [] for label in calls}
    for turn in range(rounds + 3):
        for label in list(calls) if turn % 2 else list(calls)[::-1]:
            start = time.process_time_ns()
            calls[label]()
            if turn >= 3:  # the first ones allocate
                spent[label].append(time.process_time_ns() - start)
    p50 = {label: summarise(values).p50_ms for label, values in spent.items()}
    return Part(name, engine, p50["plain"], p50["rewritten"], versus(spent["plain"], spent["rewritten"]))


@app.command()
@failing_clearly
def main(
    rounds: Annotated[int, typer.Option(min=6, help="Rounds for each.")] = 60,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The figures as JSON.")] = None,
) -> None:
    """Measure each rewrite on the layers that it touches."""
    from sdps.benchmarks.environment import Environment

    parts = []
    sys.stdout.write(
        "| rewrite | engine | plain ms | rewritten ms | times as fast |\n|---|---|---:|---:|---:|\n"
    )
    for name in PATTERNS:
        for engine in ("cpu", "openvino"):
            part = measure(name, engine, rounds)
            parts.append(part)
            speed = f"{part.speed.median:.2f} ({part.speed.low:.2f} to {part.speed.high:.2f})"
            sys.stdout.write(
                f"| {name} | {engine} | {part.plain_ms:.2f} | {part.rewritten_ms:.2f} | {speed} |\n"
            )
            sys.stdout.flush()
    if out:
        write_json(out, {"environment": asdict(Environment.capture()), "parts": [asdict(p) for p in parts]})


if __name__ == "__main__":
    app()
