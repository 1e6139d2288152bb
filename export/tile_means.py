"""The means of a whole frame, given to its tiles: a graph with one more input and one more output.

SD-PSFNet's gates, attention and point-spread function follow from means over everything that the graph
sees, so a tile is restored otherwise than the frame that it is of. With this pass the graph says what
its means were, and takes others in their place (`sdps-run --context frame`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir

from sdps.core.errors import ExportError
from sdps.core.means import MEANS_INPUT, MEANS_OUTPUT
from sdps.export.onnx_export import describe, manifest_of
from sdps.export.rewrites.surgery import insert, is_float32, keeps_dims, spatial_axes, weight

NOT_HERE = "Leave out --tile-means, or export another precision."


def with_tile_means(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph whose global means can be replaced; `model` is not changed.

    Each spatial mean m of something computed from the picture becomes m + given * (f - m). New tensors:

    - input `frame_means`: float32 [1, T + 1, 1, 1], the f of all means one after another, then `given`:
      0 for a graph as it was, 1 for the means of a frame.
    - output `tile_means`: float32 [N, T, 1, 1], the m of all means in the same order.

    Means of what follows from other means alone (the PSF's) need none. In 16-bit graphs all of these are
    FP32 islands already (`islands.py`).

    Args:
        model: A graph of `export_graph`, of any precision.

    Returns:
        The new graph, with T in its description.

    Raises:
        ExportError: it takes no such means, or they are not FP32, or of unknown channels.
    """
    changed = ir.from_proto(model)
    graph = changed.graph
    means = means_of_the_picture(graph)
    if not means:
        raise ExportError(
            "This network takes no means over the whole picture, so tiles lack none.",
            "Leave out --tile-means.",
        )
    widths = [_channels(node.inputs[0]) for node in means]
    values = [_with_dims(node).outputs[0] for node in means]
    total = sum(widths)
    source = _tensor(MEANS_INPUT, (1, total + 1, 1, 1))
    graph.inputs.append(source)
    sizes = weight(graph, f"{MEANS_INPUT}/sizes", np.array([*widths, 1], np.int64))
    split = ir.node("Split", (source, sizes), {"axis": 1}, num_outputs=len(widths) + 1, name="split_means")
    for value, width in zip(split.outputs, (*widths, 1), strict=True):
        value.name = f"{MEANS_INPUT}/{value.index()}"
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape((1, width, 1, 1))
    graph.insert_before(graph[0], split)
    *frame, given = split.outputs
    for value, of_frame in zip(values, frame, strict=True):
        _replace(value, of_frame, given)
    result = ir.node("Concat", values, {"axis": 1}, name="join_means")
    batch = values[0].shape[0] if values[0].shape is not None else None
    target = result.outputs[0]
    target.name, target.type = MEANS_OUTPUT, ir.TensorType(ir.DataType.FLOAT)
    target.shape = ir.Shape((batch, total, 1, 1))
    graph.append(result)
    graph.outputs.append(target)
    made = ir.to_proto(changed)
    describe(made, replace(manifest_of(model), tile_means=total))
    return made


def means_of_the_picture(graph: ir.Graph) -> list[ir.Node]:
    """The spatial means of what the picture reaches otherwise than through means, in order."""
    found = []
    reached = set(graph.inputs)
    for node in graph:
        if reached.isdisjoint(node.inputs) or node.op_type == "Shape":
            continue
        if node.op_type == "GlobalAveragePool" or (node.op_type == "ReduceMean" and spatial_axes(node)):
            found.append(node)
        else:
            reached.update(node.outputs)
    return found


def _with_dims(node: ir.Node) -> ir.Node:
    """The mean as [N, C, 1, 1]: the node itself, or one before a Flatten in its place."""
    if node.op_type == "GlobalAveragePool" or keeps_dims(node):
        return node
    graph, source = node.graph, node.inputs[0]
    assert graph is not None and source is not None and source.shape is not None
    flat = node.outputs[0]
    whole = insert(node, "GlobalAveragePool", (source,), {}, f"{flat.name}/whole")
    whole.outputs[0].shape = ir.Shape((source.shape[0], source.shape[1], 1, 1))
    flatten = ir.node("Flatten", whole.outputs, {"axis": 1}, name=f"{node.name}/flatten")
    ir.convenience.replace_nodes_and_values(graph, node, [node], [flatten], [flat], flatten.outputs)
    return whole


def _replace(mean: ir.Value, of_frame: ir.Value, given: ir.Value) -> None:
    """Lets all that read `mean` read mean + given * (of_frame - mean)."""
    readers, node = list(mean.uses()), mean.producer()
    assert node is not None and node.graph is not None
    off = ir.node("Sub", (of_frame, mean), name=f"{mean.name}/off")
    moved = ir.node("Mul", (off.outputs[0], given), name=f"{mean.name}/moved")
    used = ir.node("Add", (mean, moved.outputs[0]), name=f"{mean.name}/used")
    for step in (off, moved, used):
        step.outputs[0].name, step.outputs[0].type = step.name, ir.TensorType(ir.DataType.FLOAT)
        step.outputs[0].shape = mean.shape
    node.graph.insert_after(node, (off, moved, used))
    for reader in readers:
        reader.node.replace_input_with(reader.idx, used.outputs[0])


def _channels(averaged: ir.Value | None) -> int:
    channels = averaged.shape[1] if averaged is not None and averaged.shape is not None else None
    if not isinstance(channels, int):
        raise ExportError("This network takes a mean over a map of unknown channels.", NOT_HERE)
    if not is_float32(averaged):
        raise ExportError("This graph takes means in another precision than FP32.", NOT_HERE)
    return channels


def _tensor(name: str, shape: tuple[int, ...]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
