"""What stays FP32 in a half-precision graph: three islands, found by the graph's topology.

The same rule holds in any network and at any size:

- **Input**: from the graph's input up to the first convolutions (cast, layout, normalisation).
- **Means**: spatial means and sums and whatever is computed from them and constants alone
  (channel attention, gates, the whole PSF path). H x W addends, a division by a signed sum and
  an epsilon of 1e-8 do not survive FP16, and on 1x1 and 7x7 maps FP32 costs nothing.
- **Output**: from the graph's output back to the last convolutions (residual, denormalisation,
  clamp, rounding): levels above 128 have a step of 1/8 in FP16.
"""

from __future__ import annotations

from collections import defaultdict

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Where the arithmetic is; these end the islands of the input and of the output."""


def fp32_islands(model: ModelProto) -> set[int]:
    """Indices of the nodes that stay FP32, by the rule in this file's docstring.

    With Q/DQ pairs on its convolutions a graph has the same islands as without.
    """
    return _input_and_means(model) | _output(model.graph)


def _input_and_means(model: ModelProto) -> set[int]:
    """What is computed from means, or from the picture before any convolution; in topological order."""
    types = tensor_types(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    floats = {name for name, kind in types.items() if kind in (TensorProto.FLOAT, TensorProto.UINT8)}
    # `pooled` tensors come from spatial means (or from shapes) alone; `early` ones may come from the
    # picture as well, but from no convolution of it.
    pooled: set[str] = set()
    early = {value.name for value in model.graph.input}
    stays: set[int] = set()
    for index, node in enumerate(model.graph.node):
        if node.op_type == "DequantizeLinear":  # reads integers alone, and belongs to the convolution after
            continue
        sources = [name for name in node.input if name in floats and name not in constants]
        if _is_spatial_mean(node, constants) or pooled.issuperset(sources):
            # A resized map is as large as the picture again: what convolves it is no longer cheap.
            (early if node.op_type == "Resize" else pooled).update(node.output)
        elif node.op_type not in HEAVY and (early | pooled).issuperset(sources):
            early.update(node.output)
        else:
            continue
        stays.add(index)
    return stays


def _output(graph: GraphProto) -> set[int]:
    """What ends in the graph's outputs without a convolution; backwards: a node joins if all that read it
    are in already."""
    consumers: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(graph.node):
        for name in node.input:
            consumers[name].append(index)
    ends: set[int] = set()
    outputs = {value.name for value in graph.output}
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        readers = [reader for name in node.output for reader in consumers[name]]
        is_end = any(name in outputs for name in node.output)
        if node.op_type not in HEAVY and (is_end or readers) and all(reader in ends for reader in readers):
            ends.add(index)
    return ends


def _is_spatial_mean(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Whether the node reduces axes 2 and 3 (of four) and no others."""
    if node.op_type == "GlobalAveragePool":
        return True
    if node.op_type not in ("ReduceMean", "ReduceSum"):
        return False
    # Since opset 18 the axes are an input; for ReduceSum since 13.
    axes = [axis for attribute in node.attribute if attribute.name == "axes" for axis in attribute.ints]
    if len(node.input) > 1 and node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
    return sorted(axis % 4 for axis in axes) == [2, 3]


def tensor_types(model: ModelProto) -> dict[str, int]:
    """The element type (of `onnx.TensorProto`) of every tensor that the graph states."""
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for values in (graph.input, graph.value_info, graph.output):
        types |= {value.name: value.type.tensor_type.elem_type for value in values}
    return types
