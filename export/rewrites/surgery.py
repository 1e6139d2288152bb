"""What every rewrite needs: constants, single uses, attributes, and one node in another's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[np.float32]


def constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """The values of an initializer, or None of a tensor that is computed."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return np.asarray(value.const_value.numpy())


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes `value`, if it is an `op_type` and `value` is read once and is no output."""
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    node = value.producer()
    return node if node is not None and node.op_type == op_type and not node.domain else None


def ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    """A list attribute, or its default."""
    attribute = node.attributes.get(name)
    return list(default) if attribute is None else list(attribute.as_ints())


def is_float32(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def spatial_axes(node: ir.Node) -> bool:
    """Whether a reduction is over height and width of [N,C,H,W], and nothing else."""
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    rank = node.inputs[0].shape.rank() if node.inputs[0] is not None and node.inputs[0].shape else None
    return axes is not None and rank == 4 and sorted(int(axis) % 4 for axis in axes) == [2, 3]


def keeps_dims(node: ir.Node) -> bool:
    attribute = node.attributes.get("keepdims")
    return attribute is None or attribute.as_int() == 1


def weight(graph: ir.Graph, like: str, values: npt.NDArray[Any]) -> ir.Value:
    """A new initializer, named after `like`."""
    name = like
    while name in graph.initializers:
        name += "'"
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(values.dtype)),
        shape=ir.Shape(values.shape),
        const_value=ir.tensor(np.ascontiguousarray(values), name=name),
    )
    graph.register_initializer(value)
    return value


def insert(
    before: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], name: str
) -> ir.Node:
    """A new node with one float32 output called `name`, placed before another."""
    graph = before.graph
    assert graph is not None
    node = ir.node(op_type, inputs, attributes, name=f"{name}/{op_type}")
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(before, node)
    return node


def substitute(
    old: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any]
) -> ir.Node:
    """A new node in the place of `old`; its output takes over the old one's name, type and shape."""
    graph = old.graph
    assert graph is not None
    new = ir.node(op_type, inputs, attributes, name=old.name)
    ir.convenience.replace_nodes_and_values(graph, old, [old], [new], old.outputs[:1], new.outputs)
    return new


def bypass(old: ir.Node, value: ir.Value) -> None:
    """Removes a node whose result is `value`."""
    graph = old.graph
    assert graph is not None
    old.outputs[0].replace_all_uses_with(value)
    graph.remove(old, safe=True)


def is_plain_conv(node: ir.Node, kernel: int | None = None) -> bool:
    """A convolution without groups or dilation, weights constant; of kernel x kernel if given."""
    weights = constant(node.inputs[1])
    return (
        weights is not None
        and weights.ndim == 4
        and is_float32(node.inputs[0])
        and (kernel is None or weights.shape[2:] == (kernel, kernel))
        and _one(node, "group")
        and ints(node, "dilations", (1, 1)) == [1, 1]
        and ("auto_pad" not in node.attributes or node.attributes["auto_pad"].as_string() == "NOTSET")
        and (len(node.inputs) < 3 or node.inputs[2] is None or constant(node.inputs[2]) is not None)
    )


def bias_of(node: ir.Node, outputs: int) -> Array:
    """A convolution's bias, zeros where it has none."""
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return np.zeros(outputs, np.float32) if bias is None else bias


def _one(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is None or attribute.as_int() == 1
