"""The layers of a graph that can become INT8, found by topology, whatever their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from sdps.core.errors import ExportError

CONVOLUTIONS = ("Conv", "ConvTranspose")
OPSET = 19
"""The first opset whose QuantizeLinear and DequantizeLinear take FP16 on their float side; TensorRT
10.3 reads it. Nothing that our graphs use means anything else in it than in opset 18."""

PICTURE_CHANNELS = 3

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """One convolution on a feature map.

    Attributes:
        name: Name of its output tensor, unique in the graph.
        source: Name of the tensor that it convolves.
        weight: Name of its weight, an initializer that no other node reads.
        transposed: A ConvTranspose; its weights are [inputs, outputs, kh, kw], not [outputs, inputs, ...].
        macs: Multiply-accumulates at the reference size.
    """

    name: str
    source: str
    weight: str
    transposed: bool
    macs: int

    @property
    def axis(self) -> int:
        """The weight's axis of output channels."""
        return 1 if self.transposed else 0


def find_layers(model: ModelProto, macs: Mapping[int, int], stays: Collection[int]) -> list[Layer]:
    """Every 2D convolution with weights of its own that is outside `stays`, in the graph's order.

    Those over one or three dimensions stay in floating point: what follows knows maps of height and width.

    Args:
        model: An FP32 graph.
        macs: Multiply-accumulates by index of the node (`export.graph_macs.macs_by_node`).
        stays: Indices of nodes that are FP32 in every recipe: global means and the PSF path
            (`export.islands.fp32_islands`), which work on 1x1 and 7x7 maps.

    Raises:
        ExportError: the graph is quantised already, or has no convolution to quantise.
    """
    if any(
        node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for node in model.graph.node
    ):
        raise ExportError("The graph is quantised already.", "Start from the FP32 graph or its checkpoint.")
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 4}
    layers = [
        Layer(
            node.output[0],
            node.input[0],
            node.input[1],
            node.op_type == "ConvTranspose",
            macs.get(index, 0),
        )
        for index, node in enumerate(model.graph.node)
        if node.op_type in CONVOLUTIONS
        and index not in stays
        and node.input[1] in weights
        and readers[node.input[1]] == 1
        and attribute(node, "group", 1) == 1
    ]
    if not layers:
        raise ExportError(
            "The graph has no convolution that could be quantised (2D, and neither grouped nor with weights "
            "that others share).",
            "Export it with --precision fp16 or fp32.",
        )
    return layers


def picture_facing(model: ModelProto, layers: Collection[Layer]) -> set[str]:
    """Layers with three channels on one side: their error is the picture's own, and their work small."""
    weights = weights_of(model)
    return {layer.name for layer in layers if PICTURE_CHANNELS in weights[layer.weight].shape[:2]}


def attribute(node: NodeProto, name: str, default: int | list[int]) -> int | list[int]:
    """An integer attribute of a node, or a list of them."""
    for entry in node.attribute:
        if entry.name == name:
            return list(entry.ints) if entry.ints else int(entry.i)
    return default


def weights_of(model: ModelProto) -> dict[str, Array]:
    """All FP32 initializers of a graph by name."""
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }


def biases_of(model: ModelProto, layers: Collection[Layer]) -> dict[str, Array]:
    """The bias of every layer that has one, by the layer's name."""
    weights, wanted = weights_of(model), {layer.name for layer in layers}
    return {
        node.output[0]: weights[node.input[2]]
        for node in model.graph.node
        if node.output[0] in wanted and len(node.input) > 2 and node.input[2] in weights
    }


def prepare(model: ModelProto) -> ModelProto:
    """A copy in opset 19 without the zero biases that the tracer gives to convolutions that have none.

    A bias keeps ONNX Runtime from fusing a quantised convolution, so none stands where none is needed.
    """
    ready = ModelProto()
    ready.CopyFrom(model)
    for entry in ready.opset_import:
        if entry.domain == "":
            entry.version = max(entry.version, OPSET)
    zeros = {name for name, values in weights_of(ready).items() if values.ndim == 1 and not values.any()}
    for node in ready.graph.node:
        if node.op_type in CONVOLUTIONS and len(node.input) == 3 and node.input[2] in zeros:
            del node.input[2]
    drop_unused(ready)
    return ready


def with_parameters(
    model: ModelProto, layers: Collection[Layer], weights: Mapping[str, Array], biases: Mapping[str, Array]
) -> ModelProto:
    """A copy with other weights and biases.

    Args:
        model: The graph.
        layers: Its layers.
        weights: New weights by the layer's name; layers that are not named keep theirs.
        biases: New biases by the layer's name, [outputs] each.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in changed.graph.initializer}
    nodes = {node.output[0]: node for node in changed.graph.node}
    for layer in layers:
        if layer.name in weights:
            values = np.ascontiguousarray(weights[layer.name], np.float32)
            tensors[layer.weight].CopyFrom(numpy_helper.from_array(values, layer.weight))
        if layer.name in biases:
            node, bias = nodes[layer.name], f"{layer.weight}/bias"
            del node.input[2:]
            node.input.append(bias)
            values = np.ascontiguousarray(biases[layer.name], np.float32)
            changed.graph.initializer.append(numpy_helper.from_array(values, bias))
    drop_unused(changed)
    return changed


def drop_unused(model: ModelProto) -> None:
    """Removes initializers that no node reads, in place; of two with one name the later stays."""
    used = {name for node in model.graph.node for name in node.input}
    kept = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in used}
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept.values()]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)
