"""Multiply-accumulates of a graph, counted from its shapes.

Convention: convolutions (transposed ones too) and matrix products, one multiply-accumulate per
product; no bias, pooling or element-wise work. That is half of what `torch.utils.flop_counter`
counts, and the tests hold the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from sdps.calibration.session import shapes_of
from sdps.core.errors import ExportError, ModelError
from sdps.core.manifest import GraphManifest
from sdps.core.spec import STRIDE, Size

REFERENCE = Size(256, 256)
"""Where dynamic graphs are counted, as the paper's figures are."""

Shape = tuple[int, ...]


def macs_by_node(model: ModelProto) -> dict[int, int]:
    """Multiply-accumulates for one picture by index of the node, at the graph's size, or at 256x256 if it is
    dynamic; nodes that do not count are left out.

    Raises:
        ExportError: the shape of a tensor that counts cannot be inferred.
    """
    return _counted(model, tensor_shapes(model))


def measured_macs(model: ModelProto) -> dict[int, int]:
    """The same where ONNX cannot infer the shapes, too: then the graph is run once to see them.

    Networks that pad or cut by what they compute from a size need that. They are seen at 256x256, or at the
    next size that the network takes.

    Raises:
        ExportError: ONNX Runtime does not run the graph.
    """
    try:
        return macs_by_node(model)
    except ExportError:
        heavy = [node for node in model.graph.node if node.op_type in _COUNTERS]
        tensors = dict.fromkeys(name for node in heavy for name in (*node.input[:2], node.output[0]))
        picture = np.zeros((*_picture_size(model), 3), np.uint8)
        return _counted(model, shapes_of(model, list(tensors), picture))


def _picture_size(model: ModelProto) -> tuple[int, int]:
    """Height and width of a picture that the graph takes: its own, or REFERENCE brought up to its stride."""
    height, width = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:3])
    if height and width:
        return height, width
    try:
        stride = GraphManifest.from_metadata({m.key: m.value for m in model.metadata_props}).stride
    except ModelError:
        stride = STRIDE
    padded = REFERENCE.padded_to(stride)
    return padded.height, padded.width


def _counted(model: ModelProto, shapes: Mapping[str, Shape]) -> dict[int, int]:
    counts = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type in _COUNTERS:
            try:
                counts[index] = _COUNTERS[node.op_type](node, shapes)
            except KeyError as error:
                raise ExportError(
                    f"The shape of {error} cannot be inferred, so MACs cannot be counted."
                ) from None
    return counts


def _conv(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    # Every output value sums over a kernel of [C/groups, kh, kw]; weights are [K, C/groups, kh, kw].
    return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])


def _transposed(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    # Every input value meets a kernel of [K/groups, kh, kw]; weights are [C, K/groups, kh, kw].
    return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _gemm(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    trans_a = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    inner = shapes[node.input[0]][0 if trans_a else 1]
    return prod(shapes[node.output[0]]) * inner


def _matmul(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


_COUNTERS = {"Conv": _conv, "ConvTranspose": _transposed, "Gemm": _gemm, "MatMul": _matmul}


def tensor_shapes(model: ModelProto) -> dict[str, Shape]:
    """Shapes of all tensors whose dimensions are known; of a dynamic graph at 1x256x256."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    graph = fixed.graph
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, default in zip(dims, (1, REFERENCE.height, REFERENCE.width, 3), strict=False):
            if not dim.HasField("dim_value"):
                dim.dim_value = default
    # What was inferred for other sizes, or for any, would stand in the way.
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for values in (inferred.input, inferred.value_info, inferred.output):
        for value in values:
            dims = value.type.tensor_type.shape.dim
            if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
                shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes
