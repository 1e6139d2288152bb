"""Global means for OpenVINO, taken in two steps.

Its ReduceMean shares the work among threads by channels, of which the largest maps have eight, one vector;
its average pooling shares it by rows. A mean of means of equal windows is the mean, but for the order of the
sum.
"""

from __future__ import annotations

from typing import Any

from sdps.core.console import need

LARGEST = 16
"""Pixels a side of a window, at most."""
LEAST = 1 << 14
"""Values of a map from which on it pays; smaller ones fit into a cache."""


def pool_means(model: Any) -> int:
    """Puts an average pooling before each mean over a picture, in place; returns before how many.

    Args:
        model: An openvino.Model whose picture has a fixed size. Sides that no number up to LARGEST
            divides keep their mean in one step.
    """
    opset = need("openvino.opset13")
    found = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ReduceMean":
            continue
        source, result = node.input_value(0), node.output(0)
        if source.get_partial_shape().is_dynamic or result.get_partial_shape().is_dynamic:
            continue
        shape = list(source.get_shape())
        if len(shape) != 4 or list(result.get_shape()) != [*shape[:2], 1, 1]:  # not over height and width
            continue
        window = [max(side for side in range(1, LARGEST + 1) if length % side == 0) for length in shape[2:]]
        if shape[1] * shape[2] * shape[3] < LEAST or max(window) == 1:
            continue
        pooled = opset.avg_pool(source, window, [0, 0], [0, 0], window, True)
        node.input(0).replace_source_output(pooled.output(0))
        found += 1
    model.validate_nodes_and_infer_types()
    return found
