"""What a graph asks of a machine, read from its shapes: nodes, arithmetic and memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from onnx import ModelProto, TensorProto

from sdps.core.errors import ExportError
from sdps.export.graph_macs import macs_by_node, tensor_shapes
from sdps.export.islands import tensor_types

ITEM_BYTES: dict[int, int] = {
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.UINT8: 1,
    TensorProto.INT8: 1,
    TensorProto.INT64: 8,
}
"""Bytes of one element; 4 for the others."""


@dataclass(frozen=True)
class GraphCost:
    """One picture through a graph, at the graph's size, or at 256x256 if it is dynamic.

    Attributes:
        nodes: Operations.
        macs: Multiply-accumulates of convolutions and matrix products.
        weight_bytes: All constants.
        moved_bytes: Activations that the nodes write, one after the other.
        peak_bytes: Most activations alive at once if the nodes run in the order of the file and no
            node writes in place. An engine may do better (fusion, reuse) or worse (scratch).

    The three that rest on the shapes of activations are None where those cannot be inferred.
    """

    nodes: int
    macs: int | None
    weight_bytes: int
    moved_bytes: int | None
    peak_bytes: int | None


def graph_cost(model: ModelProto) -> GraphCost:
    """Counts a graph's cost."""
    shapes = tensor_shapes(model)
    types = tensor_types(model)
    graph = model.graph

    def size(name: str) -> int:
        return prod(shapes.get(name, (0,))) * ITEM_BYTES.get(types.get(name, 0), 4)

    last_read = {name: index for index, node in enumerate(graph.node) for name in node.input}
    kept = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.output} | {""}
    alive = sum(size(value.name) for value in graph.input)
    peak, moved = alive, 0
    for index, node in enumerate(graph.node):
        written = sum(size(name) for name in node.output)
        moved, alive = moved + written, alive + written
        peak = max(peak, alive)
        done = {name for name in (*node.input, *node.output) if last_read.get(name, index) == index}
        alive -= sum(size(name) for name in done - kept)
    weight_bytes = sum(size(tensor.name) for tensor in graph.initializer)
    try:
        macs = sum(macs_by_node(model).values())
    except ExportError:  # then other activations are not known, either
        return GraphCost(len(graph.node), None, weight_bytes, None, None)
    return GraphCost(len(graph.node), macs, weight_bytes, moved, peak)
