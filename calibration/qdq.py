"""Ranges to a Q/DQ graph, by the rules that TensorRT fuses (NVIDIA's guide "Explicit quantization").

Symmetric INT8 with zero point 0; activations per tensor, weights per output channel (axis 0, of a
transposed convolution axis 1); biases stay in floating point; Q/DQ stands at the inputs of the
convolutions and, where a residual is added straight to a convolution's result, on the other branch.

ONNX Runtime's `quantize_static` is not built upon here: it rounds weights to nearest itself (ours
come rounded so that their errors cancel), quantises biases to INT32, puts a pair behind every
convolution as well, and knows no branch rule. What it makes of the same graph is in docs/int8.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sdps.calibration.layers import CONVOLUTIONS, Array, drop_unused

LEVELS = 127
"""Steps on either side of zero. -128 is not used, so that negating is exact."""
NARROW = 63
"""Steps on either side of zero of weights in 7 bits. Integer kernels of CPUs without VNNI add two products
of 8 bits in 16, which saturate: 2 x 255 x 127 is too much, 2 x 255 x 63 is not."""
SMALLEST_SCALE = 2.0**-14
"""The smallest normal number of FP16: scales have to survive there."""


@dataclass(frozen=True)
class QuantisedLayer:
    """What a layer is in INT8.

    Attributes:
        scale: Step of the activations that it reads, representable in FP16.
        weight: INT8 weights in the layer's own layout.
        weight_scales: [outputs] step of the weights, representable in FP16.
    """

    scale: float
    weight: npt.NDArray[np.int8]
    weight_scales: Array


@dataclass(frozen=True)
class IntegerReport:
    """How much of a graph is integer.

    Attributes:
        names: Outputs of the convolutions whose picture and weights are `dequantised_from` INT8.
        float_names: Outputs of the other convolutions on feature maps.
        macs_share: The first ones' part of all multiply-accumulates, 0 to 1.
    """

    names: tuple[str, ...]
    float_names: tuple[str, ...]
    macs_share: float


def fp16_scale(step: float) -> float:
    """The step that FP16 holds nearest to `step`, so that the graph means the same in FP16 and FP32."""
    return float(np.float16(max(float(step), SMALLEST_SCALE)))


def fp16_scales(steps: Array) -> Array:
    """The same of several."""
    return np.maximum(steps, SMALLEST_SCALE).astype(np.float16).astype(np.float32)


def quantise(model: ModelProto, chosen: Mapping[str, QuantisedLayer]) -> ModelProto:
    """Writes Q/DQ pairs into a copy of a graph.

    Args:
        model: An FP32 graph of `layers.prepare`.
        chosen: The layers that become INT8, by name; two that read one tensor must agree on its scale.

    Returns:
        The graph, all its other arithmetic as it was; types are not inferred anew.
    """
    graph_model = ModelProto()
    graph_model.CopyFrom(model)
    writer = _Writer(graph_model)
    for node in list(graph_model.graph.node):
        layer = chosen.get(node.output[0])
        if layer is not None:
            node.input[0] = writer.activation(node.input[0], layer.scale, before=node.name)
            node.input[1] = writer.weight(node.input[1], layer, axis=int(node.op_type == "ConvTranspose"))
    writer.finish()
    return graph_model


class _Writer:
    """Collects pairs, one for each tensor and scale, and puts each where its tensor is made."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.pairs: dict[tuple[str, float], str] = {}
        self.after: dict[str, list[NodeProto]] = {}  # by the tensor that the nodes read
        self.first: list[NodeProto] = []
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._zero("int8_zero", np.zeros((), np.int8))

    def _zero(self, name: str, values: npt.NDArray[np.int8]) -> str:
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(values, name)
            self.model.graph.initializer.append(self.weights[name])
        return name

    def activation(self, name: str, scale: float, before: str) -> str:
        if (name, scale) not in self.pairs:
            stem = f"{name}/int8" if all(tensor != name for tensor, _ in self.pairs) else f"{name}/{before}"
            step = numpy_helper.from_array(np.array(scale, np.float32), f"{stem}/scale")
            self.model.graph.initializer.append(step)
            self.after.setdefault(name, []).extend(
                [
                    helper.make_node(
                        "QuantizeLinear",
                        [name, step.name, "int8_zero"],
                        [f"{stem}/q"],
                        name=f"{stem}/quantise",
                    ),
                    helper.make_node(
                        "DequantizeLinear",
                        [f"{stem}/q", step.name, "int8_zero"],
                        [f"{stem}/dq"],
                        name=f"{stem}/dequantise",
                    ),
                ]
            )
            self.pairs[name, scale] = f"{stem}/dq"
        return self.pairs[name, scale]

    def weight(self, name: str, layer: QuantisedLayer, axis: int) -> str:
        values = numpy_helper.from_array(layer.weight, f"{name}/int8")
        scales = numpy_helper.from_array(layer.weight_scales.astype(np.float32), f"{name}/scale")
        self.model.graph.initializer.extend([values, scales])
        # One for each weight: OpenVINO leaves convolutions in FP32 whose weights share a zero point.
        zeros = self._zero(f"{name}/zeros", np.zeros(len(layer.weight_scales), np.int8))
        inputs, output = [values.name, scales.name, zeros], f"{name}/dq"
        self.first.append(
            helper.make_node("DequantizeLinear", inputs, [output], name=f"{name}/dequantise", axis=axis)
        )
        return output

    def finish(self) -> None:
        graph = self.model.graph
        nodes = list(self.first)
        for value in graph.input:
            nodes.extend(self.after.get(value.name, []))
        for node in graph.node:
            nodes.append(node)
            for name in node.output:
                nodes.extend(self.after.get(name, []))
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        drop_unused(self.model)


def infer_types(model: ModelProto) -> ModelProto:
    """States the types of the pairs as well, as `export.precision.to_fp16` needs them."""
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def integer_convolutions(model: ModelProto, macs: Mapping[int, int]) -> IntegerReport:
    """Which convolutions a graph asks to be done in integers.

    What an engine makes of it is its own affair: TensorRT-RTX may pick floating-point kernels.

    Args:
        model: Any graph.
        macs: Multiply-accumulates by index of the node.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    types = inferred_types(model)
    integer, floating, done = [], [], 0
    for index, node in enumerate(model.graph.node):
        if node.op_type in CONVOLUTIONS:
            if dequantised_from(node, producers, types) == TensorProto.INT8:
                integer.append(node.output[0])
                done += macs.get(index, 0)
            else:
                floating.append(node.output[0])
    return IntegerReport(tuple(integer), tuple(floating), done / max(1, sum(macs.values())))


def dequantised_from(
    node: NodeProto, producers: Mapping[str, NodeProto], types: Mapping[str, int]
) -> int | None:
    """The one type that picture and weights of a convolution come from straight through a
    DequantizeLinear, which is what TensorRT fuses to an integer kernel; None where they do not.

    Not even a Cast may stand between, and not some Q/DQ node stand near it.

    Args:
        node: A convolution or matrix product.
        producers: The node that makes each tensor.
        types: `inferred_types`.
    """
    sources = [producers.get(name) for name in node.input[:2]]
    found = {
        types.get(source.input[0]) if source is not None and source.op_type == "DequantizeLinear" else None
        for source in sources
    }
    return found.pop() if len(found) == 1 else None


def inferred_types(model: ModelProto) -> dict[str, int]:
    """The element type (of `onnx.TensorProto`) of every tensor whose type is stated or follows."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for values in (graph.input, graph.value_info, graph.output):
        types |= {value.name: value.type.tensor_type.elem_type for value in values}
    return types
