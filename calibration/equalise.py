"""Cross-layer equalisation: channels of one tensor brought to like ranges, without changing the net.

Where one convolution alone reads what another one alone makes, through nothing but operators that
let a positive factor per channel pass (PReLU with one slope, LeakyReLU, ReLU), the first one's
output channel can be divided by what the second one's input channel is multiplied with (Nagel et
al., arXiv 1906.04721). Activations have one scale per tensor, so that spares the small channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto

from sdps.calibration.layers import Array, Layer, biases_of, weights_of, with_parameters
from sdps.calibration.observe import channel_maxima
from sdps.core.frame import Image

TRANSPARENT = frozenset({"Relu", "LeakyRelu", "PRelu"})


@dataclass(frozen=True)
class Link:
    """Two layers with nothing between but what lets factors pass; `tensor` is what the second reads."""

    first: Layer
    second: Layer

    @property
    def tensor(self) -> str:
        return self.second.source


def find_links(model: ModelProto, layers: Sequence[Layer]) -> list[Link]:
    """All such pairs, in the graph's order."""
    producers = {node.output[0]: node for node in model.graph.node}
    readers: dict[str, int] = {value.name: 1 for value in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    by_name = {layer.name: layer for layer in layers}
    weights = weights_of(model)

    def passes(node: NodeProto) -> bool:
        if node.op_type == "PRelu":  # one slope, or one per channel
            return node.input[1] in weights
        return node.op_type in TRANSPARENT

    links = []
    for layer in layers:
        name = layer.source
        while name in producers and readers[name] == 1 and passes(producers[name]):
            name = producers[name].input[0]
        if name in by_name and readers[name] == 1:
            links.append(Link(by_name[name], layer))
    return links


def equalise(model: ModelProto, layers: Sequence[Layer], pictures: Sequence[Image]) -> ModelProto:
    """The same network with its linked layers rescaled so that the channels between them are alike.

    Args:
        model: An FP32 graph.
        layers: Its layers.
        pictures: To see the channels' ranges on.
    """
    links = find_links(model, layers)
    if not links:
        return model
    ranges = channel_maxima(model, [link.tensor for link in links], pictures)
    weights, biases = weights_of(model), biases_of(model, layers)
    changed = {
        layer.name: weights[layer.weight].copy() for link in links for layer in (link.first, link.second)
    }
    for link in links:
        reads = changed[link.second.name]
        inputs = 0 if link.second.transposed else 1
        used = np.abs(reads).max(axis=tuple(i for i in range(4) if i != inputs))
        seen = ranges[link.tensor]
        alive = (used > 0) & (seen > 0)
        if not alive.any():  # a dead link: nothing to be brought to like ranges
            continue
        factor = np.ones_like(seen)
        factor[alive] = seen[alive] / np.exp(np.log(seen[alive]).mean())
        factor = np.clip(factor, 1 / 32, 32)
        changed[link.first.name] /= _along(factor, link.first.axis)
        changed[link.second.name] *= _along(factor, inputs)
        if link.first.name in biases:
            biases[link.first.name] = biases[link.first.name] / factor
    return with_parameters(model, layers, changed, biases)


def _along(factor: Array, axis: int) -> Array:
    return factor.reshape([-1 if i == axis else 1 for i in range(4)])
