"""What a graph computes in which precision: layers of an ONNX graph, and of a parsed network.

A convolution's precision is that of its inputs' arithmetic: with explicit quantisation it is the type
that picture and weights are dequantised from (`calibration.qdq.dequantised_from`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import onnx
from onnx import ModelProto, TensorProto

from sdps.calibration.qdq import dequantised_from, inferred_types
from sdps.core.errors import ExportError
from sdps.export.graph_macs import macs_by_node

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
INTEGER = frozenset({"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"})
TYPES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.FLOAT8E4M3FN: "fp8",
    TensorProto.INT4: "int4",
}
NETWORK_TYPES = {
    "FLOAT": "fp32",
    "HALF": "fp16",
    "BF16": "bf16",
    "INT8": "int8",
    "UINT8": "uint8",
    "FP8": "fp8",
}
"""TensorRT's DataType names."""
NETWORK_CONVOLUTIONS = frozenset({"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY"})


@dataclass(frozen=True)
class Layer:
    """One operation.

    Attributes:
        name: Its name in the file.
        type: ONNX operator or TensorRT layer type, e.g. 'Conv' or 'CONVOLUTION'.
        precision: 'fp32', 'fp16', 'int8', ...; 'other' for shapes and indices.
        weight_bytes: Of the constants it reads first; a constant that several read counts once.
        macs: Multiply-accumulates for one picture, at 256x256 if the graph is dynamic.
        convolution: Whether it is a convolution or matrix product.
    """

    name: str
    type: str
    precision: str
    weight_bytes: int = 0
    macs: int = 0
    convolution: bool = False


@dataclass(frozen=True)
class Share:
    """The convolutions and matrix products of one precision."""

    count: int
    macs: int


def graph_layers(model: ModelProto) -> list[Layer]:
    """The nodes of an ONNX graph; the types of inner tensors are inferred where they are not stated."""
    types = inferred_types(model)
    made_by = {name: node for node in model.graph.node for name in node.output}
    sizes = {tensor.name: _tensor_bytes(tensor) for tensor in model.graph.initializer}
    try:
        macs = macs_by_node(model)
    except ExportError:
        macs = {}
    layers = []
    for index, node in enumerate(model.graph.node):
        held = sum(sizes.pop(name, 0) for name in node.input)
        if node.op_type in CONVOLUTIONS:
            quantised = _name(dequantised_from(node, made_by, types) or types.get(node.output[0]))
            precision = "int8" if quantised == "uint8" else quantised
        elif node.op_type in INTEGER:
            precision = "int8"
        else:
            precision = _name(types.get(node.output[0]))
        counts = node.op_type in CONVOLUTIONS | INTEGER
        layers.append(Layer(node.name, node.op_type, precision, held, macs.get(index, 0), counts))
    return layers


def network_layers(trt: Any, network: Any, graph: bytes) -> list[Layer]:
    """The layers that a parser made of `graph`, before any fusion; precision as in `graph_layers`.

    Bytes and multiply-accumulates are the graph's, for nodes that kept their names.
    """
    known = {layer.name: layer for layer in graph_layers(onnx.load_from_string(graph)) if layer.name}
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    dequantised = {
        layer.get_output(0).name: layer.get_input(0).dtype
        for layer in layers
        if layer.type == trt.LayerType.DEQUANTIZE
    }
    found = []
    for layer in layers:
        convolution = layer.type.name in NETWORK_CONVOLUTIONS
        output = layer.get_output(0).dtype if layer.num_outputs else None
        inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
        both = [dequantised.get(tensor.name) for tensor in inputs[:2] if tensor is not None]
        if convolution and len(both) == 2 and both[0] is not None and both[0] == both[1]:
            output = both[0]
        node = known.pop(layer.name, None)
        found.append(
            Layer(
                layer.name,
                layer.type.name,
                NETWORK_TYPES.get(output.name, "other") if output is not None else "other",
                node.weight_bytes if node else 0,
                node.macs if node and convolution else 0,
                convolution,
            )
        )
    return found


def summarise(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """One row for each type and precision, the most work first; for tables and sidecars."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for layer in layers:
        row = rows.setdefault(
            (layer.type, layer.precision), {**asdict(layer), "count": 0, "weight_bytes": 0, "macs": 0}
        )
        row.pop("name", None)
        row["count"] += 1
        row["weight_bytes"] += layer.weight_bytes
        row["macs"] += layer.macs
    return sorted(rows.values(), key=lambda row: (-row["macs"], -row["count"]))


def shares(rows: Iterable[dict[str, Any]]) -> dict[str, Share]:
    """Convolutions and their work by precision, from `summarise`'s rows."""
    found: dict[str, Share] = {}
    for row in rows:
        if row["convolution"]:
            before = found.get(row["precision"], Share(0, 0))
            found[row["precision"]] = Share(before.count + row["count"], before.macs + row["macs"])
    return found


def activation_ranges(model: ModelProto) -> dict[str, float]:
    """What each QuantizeLinear of a per-tensor scale can hold: tensor to the largest magnitude."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    ranges = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[1] in values:
            scale = onnx.numpy_helper.to_array(values[node.input[1]])
            if scale.size == 1:
                ranges[node.input[0]] = float(scale.reshape(-1)[0]) * 127
    return ranges


def _name(elem_type: int | None) -> str:
    return TYPES.get(elem_type, "other") if elem_type is not None else "other"


def _tensor_bytes(tensor: TensorProto) -> int:
    return len(tensor.raw_data) or tensor.ByteSize()
