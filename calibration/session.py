"""Graphs in ONNX Runtime as calibration runs them: exactly, and with a look at inner tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from sdps.core.console import need
from sdps.core.errors import ExportError
from sdps.core.frame import Image
from sdps.core.manifest import INPUT, OUTPUT


class GraphRunError(ExportError):
    """ONNX Runtime does not load a graph, or does not run it on a picture."""


@contextmanager
def _as_runtime_fault(doing: str) -> Iterator[None]:
    """ONNX Runtime's own exceptions, which have no base of their own, as one line."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime."):
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise GraphRunError(f"ONNX Runtime does not {doing}: {said[:300].rstrip('.')}.") from error


class Session:
    """An ONNX Runtime session whose failures are a `GraphRunError`."""

    def __init__(self, model: ModelProto, options: Any) -> None:
        with _as_runtime_fault("load the graph"):
            self._session = need("onnxruntime", "export").InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        return self._session.get_outputs()

    def run(self, outputs: Sequence[str] | None, fed: Mapping[str, Any]) -> list[Any]:
        """The outputs named, or all.

        Raises:
            GraphRunError: it fails, for example because the graph has a size for a constant.
        """
        with _as_runtime_fault("run the graph"):
            results: list[Any] = self._session.run(outputs, fed)
        return results


def open_session(model: ModelProto, threads: int = 0, integer: bool = False) -> Session:
    """An ONNX Runtime CPU session.

    Args:
        model: The graph.
        threads: 0 leaves it to ONNX Runtime.
        integer: Run quantised convolutions by integer kernels. By default Q and DQ run as they are
            written, in floating point: the kernels of CPUs with neither VNNI nor AMX add pairs of
            products in 16 bits, which saturate, and their error is not the graph's.

    Raises:
        GraphRunError: the graph cannot be loaded.
    """
    ort = need("onnxruntime", "export")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves cores to the search
    if not integer:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return Session(model, options)


def restore(session: Session, image: Image) -> Image:
    """One picture through a graph."""
    result: Image = session.run([OUTPUT], {INPUT: image[None]})[0][0]
    return result


def exposing(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """A copy whose outputs are the FP32 tensors named; what none of them needs is dropped at loading."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in tensors:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy


def with_maxima(model: ModelProto, tensors: Sequence[str]) -> tuple[ModelProto, list[str]]:
    """A copy whose outputs are the largest absolute value of each channel, computed in the graph.

    Args:
        model: The graph, opset 18 or later.
        tensors: [N,C,H,W] each.

    Returns:
        The graph, and its outputs' names in the order of `tensors`, float32 [1,C,1,1] each.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    axes = onnx.numpy_helper.from_array(np.array([0, 2, 3], np.int64), "sdps_axes")
    copy.graph.initializer.append(axes)
    names = []
    for name in tensors:
        size, most = f"{name}/abs", f"{name}/max"
        copy.graph.node.append(onnx.helper.make_node("Abs", [name], [size]))
        copy.graph.node.append(onnx.helper.make_node("ReduceMax", [size, axes.name], [most], keepdims=1))
        names.append(most)
    return exposing(copy, names), names


def bytes_of(model: ModelProto, tensors: Sequence[str], picture: Image) -> list[int]:
    """What each FP32 tensor holds on a picture, without holding any of them."""
    return [4 * prod(shape) for shape in shapes_of(model, tensors, picture).values()]


def shapes_of(model: ModelProto, tensors: Sequence[str], picture: Image) -> dict[str, tuple[int, ...]]:
    """The shapes that tensors of any type have on a picture, without holding any of them.

    Raises:
        GraphRunError: the graph does not run.
    """
    copy = exposing(model, ())
    names = [f"{name}/Shape" for name in tensors]
    for name, result in zip(tensors, names, strict=True):
        copy.graph.node.append(onnx.helper.make_node("Shape", [name], [result]))
        copy.graph.output.append(onnx.helper.make_tensor_value_info(result, onnx.TensorProto.INT64, None))
    found = open_session(copy).run(names, {INPUT: picture[None]})
    return {name: tuple(shape.tolist()) for name, shape in zip(tensors, found, strict=True)}
