"""Graphs in ONNX Runtime as calibration runs them: exactly, and with a look at inner tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from sdps.core.console import need
from sdps.core.frame import Image
from sdps.core.manifest import INPUT, OUTPUT


def open_session(model: ModelProto, threads: int = 0, integer: bool = False) -> Any:
    """An ONNX Runtime CPU session.

    Args:
        model: The graph.
        threads: 0 leaves it to ONNX Runtime.
        integer: Run quantised convolutions by integer kernels. By default Q and DQ run as they are
            written, in floating point: the kernels of CPUs with neither VNNI nor AMX add pairs of
            products in 16 bits, which saturate, and their error is not the graph's.
    """
    ort = need("onnxruntime", "export")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves cores to the search
    if not integer:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def restore(session: Any, image: Image) -> Image:
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
    copy = exposing(model, ())
    names = [f"{name}/Size" for name in tensors]
    for name, result in zip(tensors, names, strict=True):
        copy.graph.node.append(onnx.helper.make_node("Size", [name], [result]))
        copy.graph.output.append(onnx.helper.make_tensor_value_info(result, onnx.TensorProto.INT64, []))
    return [4 * int(size) for size in open_session(copy).run(names, {INPUT: picture[None]})]
