"""Activations in the form that engines fuse into the convolution before them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sdps.export.rewrites.surgery import constant, producer, substitute


def leaky_relu(graph: ir.Graph) -> int:
    """PReLU with one slope for all channels becomes LeakyRelu.

    The same function; but ONNX Runtime fuses only LeakyRelu into a convolution, and a PReLU between two
    convolutions makes it take the map out of its blocked layout and back.
    """
    changed = 0
    for node in list(graph):
        slope = constant(node.inputs[1]) if node.op_type == "PRelu" else None
        if slope is not None and slope.size and np.all(slope == slope.flat[0]):
            substitute(node, "LeakyRelu", node.inputs[:1], {"alpha": float(slope.flat[0])})
            changed += 1
    return changed


def clip(graph: ir.Graph) -> int:
    """min(max(x, low), high) with constant scalars becomes one Clip."""
    changed = 0
    for node in list(graph):
        if node.op_type != "Min" or len(node.inputs) != 2:
            continue
        inner = producer(node.inputs[0], "Max")
        if inner is None or len(inner.inputs) != 2:
            continue
        low, high = constant(inner.inputs[1]), constant(node.inputs[1])
        if low is None or high is None or low.ndim or high.ndim or low > high:
            continue
        substitute(node, "Clip", (inner.inputs[0], inner.inputs[1], node.inputs[1]), {})
        graph.remove(inner, safe=True)
        changed += 1
    return changed
