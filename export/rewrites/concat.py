"""Convolutions of concatenated maps, where the concatenation costs more than it saves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sdps.export.rewrites.surgery import (
    bias_of,
    constant,
    insert,
    is_plain_conv,
    producer,
    substitute,
    weight,
)

LONE = 1
"""Channels of a map that is not worth a copy of its neighbour."""


def lone_channel(graph: ir.Graph) -> int:
    """conv(concat(x, one channel)) becomes conv(x) + conv(one channel).

    The PSF attention puts the resized PSF beside C feature channels: a copy of the whole map for one
    channel more, and C + 1 channels, which no engine's blocks divide.
    """
    changed = 0
    for node in list(graph):
        if node.op_type != "Conv" or not is_plain_conv(node):
            continue
        concat = producer(node.inputs[0], "Concat")
        if concat is None or len(concat.inputs) != 2 or concat.attributes["axis"].as_int() not in (1, -3):
            continue
        widths = [_channels(part) for part in concat.inputs]
        weights = constant(node.inputs[1])
        assert weights is not None and node.inputs[1] is not None
        if widths[1] != LONE or widths[0] is None or widths[0] + LONE != weights.shape[1]:
            continue
        made, name, attributes = node.outputs[0].name, node.inputs[1].name, dict(node.attributes)
        split = np.split(weights, [widths[0]], axis=1)
        rest = weight(graph, f"{name}/rest", split[0])
        lone = weight(graph, f"{name}/lone", split[1])
        bias = weight(graph, f"{made}/bias", bias_of(node, len(weights)))
        terms = [
            insert(node, "Conv", (concat.inputs[0], rest, bias), attributes, f"{made}/rest"),
            insert(node, "Conv", (concat.inputs[1], lone), attributes, f"{made}/lone"),
        ]
        for part in terms:
            part.outputs[0].shape = node.outputs[0].shape
        substitute(node, "Add", [term.outputs[0] for term in terms], {})
        graph.remove(concat, safe=True)
        changed += 1
    return changed


def _channels(value: ir.Value | None) -> int | None:
    channels = value.shape[1] if value is not None and value.shape is not None else None
    return channels if isinstance(channels, int) else None
