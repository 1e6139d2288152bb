"""Computations on sizes, which dynamic graphs carry along."""

from __future__ import annotations

import onnx_ir as ir

from sdps.export.rewrites.surgery import constant


def resize_like_neighbour(graph: ir.Graph) -> int:
    """A map that is resized to be concatenated with another takes the other's height and width.

    The concatenation demands that they be equal. The tracer computes them anew, through scalars, where
    shape inference does not follow. A neighbour that is made after the resizing, perhaps of its result,
    has no size yet to be taken.
    """
    changed = 0
    order = {node: index for index, node in enumerate(graph)}
    for concat in list(graph):
        if concat.op_type != "Concat" or len(concat.inputs) != 2 or concat.attributes["axis"].as_int() != 1:
            continue
        neighbour, resized = concat.inputs
        resize = resized.producer() if resized is not None else None
        if resize is None or resize.op_type != "Resize" or len(resize.inputs) != 4 or neighbour is None:
            continue
        if resize.inputs[0] is None or constant(resize.inputs[3]) is not None:
            continue
        maker = neighbour.producer()
        if maker is not None and order[maker] > order[resize]:
            continue
        channels = _sizes(resize, resize.inputs[0], 0, 2)
        sides = _sizes(resize, neighbour, 2, 4)
        sizes = ir.node("Concat", (channels, sides), {"axis": 0}, name=f"{resize.name}/sizes")
        _integers(sizes.outputs[0], f"{resize.name}/sizes", 4)
        graph.insert_before(resize, sizes)
        resize.replace_input_with(3, sizes.outputs[0])
        changed += 1
    return changed


def _sizes(before: ir.Node, value: ir.Value, start: int, end: int) -> ir.Value:
    """Some of a tensor's sizes, computed before a node."""
    graph = before.graph
    assert graph is not None
    name = f"{before.name}/{value.name}/sizes"
    shape = ir.node("Shape", (value,), {"start": start, "end": end}, name=name)
    _integers(shape.outputs[0], name, end - start)
    graph.insert_before(before, shape)
    return shape.outputs[0]


def _integers(value: ir.Value, name: str, count: int) -> None:
    value.name, value.type, value.shape = name, ir.TensorType(ir.DataType.INT64), ir.Shape((count,))
