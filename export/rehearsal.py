"""An FP16 or BF16 graph as a GPU would round it, run on the CPU.

ONNX Runtime's CPU provider has no FP16 convolutions: it computes FP16 nodes in FP32 and drops the
roundings between them (seen in 1.31: the value 111,000 passes through an FP16 tensor), so neither
lost digits nor overflow would show there. The rehearsal is the same graph in FP32 with every FP16
tensor rounded to half precision and back, as with FP16 storage and FP32 accumulation. BF16 convolutions
it does not run at all, so there the rehearsal is the only run.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sdps.export.islands import tensor_types
from sdps.export.precision import BFLOAT, FLOAT, HALF, NARROW, narrow_type

PEAK = "peak"
"""Name of the rehearsal's second output: the largest absolute value that any 16-bit tensor had to hold,
float32 scalar, before rounding. It is infinite or NaN where a value before it was."""


def rehearse(model: ModelProto) -> ModelProto:
    """An FP32 graph that gives what a 16-bit graph gives where its type is really stored.

    For checking only: it is slower than either and carries no types of inner tensors.
    """
    rehearsal = ModelProto()
    rehearsal.CopyFrom(model)
    graph = rehearsal.graph
    types = tensor_types(model)
    narrow = narrow_type(model) or HALF
    del graph.value_info[:]
    for weight in graph.initializer:
        if weight.data_type in NARROW:
            weight.CopyFrom(numpy_helper.from_array(_widened(weight), weight.name))
    nodes: list[NodeProto] = []
    peaks: list[str] = []
    for node in list(graph.node):
        nodes.append(node)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == narrow:
                attribute.i = FLOAT
        for slot, name in enumerate(node.output):
            if types.get(name) == narrow:
                node.output[slot] = f"{name}/exact"
                nodes.append(helper.make_node("Abs", [f"{name}/exact"], [f"{name}/size"]))
                nodes.append(helper.make_node("ReduceMax", [f"{name}/size"], [f"{name}/peak"], keepdims=0))
                peaks.append(f"{name}/peak")
                nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/narrow"], to=narrow))
                nodes.append(helper.make_node("Cast", [f"{name}/narrow"], [name], to=FLOAT))
    if peaks:
        nodes.append(helper.make_node("Max", peaks, [PEAK]))
        graph.output.append(helper.make_tensor_value_info(PEAK, FLOAT, []))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return rehearsal


def _widened(weight: TensorProto) -> npt.NDArray[np.float32]:
    """A weight's values, exactly, in FP32."""
    if weight.data_type == BFLOAT and weight.raw_data:
        bits = np.frombuffer(weight.raw_data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(tuple(weight.dims))
    return np.asarray(numpy_helper.to_array(weight), np.float32)
