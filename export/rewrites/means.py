"""Spatial means: each map's own, once, and none of a map that is 1x1 already."""

from __future__ import annotations

import onnx_ir as ir

from sdps.export.rewrites.surgery import (
    bias_of,
    bypass,
    constant,
    insert,
    ints,
    is_plain_conv,
    keeps_dims,
    producer,
    spatial_axes,
    substitute,
    weight,
)


def mean_before_concat(graph: ir.Graph) -> int:
    """The mean of concatenated maps is the concatenation of their means.

    So the maps need not be copied side by side at full resolution (the gates), and a map whose mean is
    taken twice has it taken once.
    """
    changed = 0
    for node in list(graph):
        if node.op_type != "ReduceMean" or not spatial_axes(node) or not keeps_dims(node):
            continue
        concat = producer(node.inputs[0], "Concat")
        if concat is None or concat.attributes["axis"].as_int() not in (1, -3):
            continue
        means = []
        for part in concat.inputs:
            assert part is not None
            mean = insert(node, "ReduceMean", (part, node.inputs[1]), {"keepdims": 1}, f"{part.name}/mean")
            if part.shape is not None:
                mean.outputs[0].shape = ir.Shape((part.shape[0], part.shape[1], 1, 1))
            means.append(mean.outputs[0])
        substitute(node, "Concat", means, {"axis": 1})
        graph.remove(concat, safe=True)
        changed += 1
    return changed


def global_pool(graph: ir.Graph) -> int:
    """A mean over height and width becomes GlobalAveragePool.

    The same sum; but ONNX Runtime computes it in the convolutions' blocked layout.
    """
    changed = 0
    for node in list(graph):
        if node.op_type == "ReduceMean" and spatial_axes(node) and keeps_dims(node):
            substitute(node, "GlobalAveragePool", node.inputs[:1], {})
            changed += 1
    return changed


def small_maps(graph: ir.Graph) -> int:
    """On a 1x1 map a padded convolution meets its central weights only, and the mean is the map."""
    changed = 0
    for node in list(graph):
        if not node.inputs or not _is_1x1(node.inputs[0]):
            continue
        # A mean over channels gives a 1x1 map as well, and is another.
        spatial = node.op_type == "ReduceMean" and spatial_axes(node)
        if (spatial or node.op_type == "GlobalAveragePool") and _is_1x1(node.outputs[0]):
            source = node.inputs[0]
            assert source is not None
            bypass(node, source)
        elif node.op_type == "Conv" and is_plain_conv(node) and _central(node):
            weights = constant(node.inputs[1])
            assert weights is not None and node.inputs[1] is not None
            middle = slice(weights.shape[2] // 2, weights.shape[2] // 2 + 1)
            centre = weight(graph, f"{node.inputs[1].name}/centre", weights[:, :, middle, middle])
            bias = weight(graph, f"{node.outputs[0].name}/bias", bias_of(node, len(weights)))
            substitute(node, "Conv", (node.inputs[0], centre, bias), {})
        else:
            continue
        changed += 1
    return changed


def _is_1x1(value: ir.Value | None) -> bool:
    shape = value.shape if value is not None else None
    return shape is not None and shape.rank() == 4 and list(shape)[2:] == [1, 1]


def _central(node: ir.Node) -> bool:
    """Whether a square convolution of odd kernel keeps the map's size."""
    weights = constant(node.inputs[1])
    assert weights is not None
    kernel = weights.shape[2]
    return (
        weights.shape[3] == kernel
        and kernel > 1
        and kernel % 2 == 1
        and ints(node, "pads", (0, 0, 0, 0)) == [kernel // 2] * 4
        and ints(node, "strides", (1, 1)) == [1, 1]
    )
