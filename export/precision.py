"""FP16 and BF16 graphs: everything is half precision but the islands that `islands.py` finds.

The newer NVIDIA builders take precision from the graph's tensors and from nothing else, so half
precision is written into the graph.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

from sdps.core.errors import ExportError
from sdps.export.graph_macs import macs_by_node
from sdps.export.islands import HEAVY, fp32_islands, tensor_types

FLOAT, HALF, BFLOAT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
NARROW: dict[int, str] = {HALF: "float16", BFLOAT: "bfloat16"}
"""The 16-bit types that a graph may be converted to, as ONNX's schemas call them. BF16 has FP32's range
and 8 bits of precision instead of 11; FP16 overflows past 65504."""
NAMES: dict[int, str] = {FLOAT: "fp32", HALF: "fp16", BFLOAT: "bf16"}
BFLOAT_OPSET = 22
"""The first in which convolutions may be BF16."""
HALF_MAX = 65504.0
"""The largest finite number in IEEE half precision."""
ANY_TYPE = frozenset({"Cast", "Shape", "Size"})
"""These read a tensor of whatever type, so nothing is cast for them."""


@dataclass(frozen=True)
class PrecisionReport:
    """How a graph's floating-point work is spread over the two types.

    Attributes:
        narrow: 'FP16' or 'BF16', whichever the graph has; what is named fp16 is of it.
        convs_fp16, convs_fp32: Convolutions and matrix products.
        nodes_fp32: All nodes with FP32 results, casts left out.
        casts: Casts between the two types, i.e. the islands' borders.
        macs_share_fp16: Part of the multiply-accumulates that is done in FP16, 0 to 1; None where shapes
            cannot be inferred to count them.
    """

    convs_fp16: int
    convs_fp32: int
    nodes_fp32: int
    casts: int
    macs_share_fp16: float | None
    narrow: str = "FP16"

    def __str__(self) -> str:
        share = (
            ""
            if self.macs_share_fp16 is None
            else f", {self.macs_share_fp16:.1%} of the multiply-accumulates"
        )
        return (
            f"{self.narrow}: {self.convs_fp16} convolutions{share}. "
            f"FP32: {self.convs_fp32} small ones, {self.nodes_fp32} nodes in all. {self.casts} casts between."
        )


def precision_report(model: ModelProto) -> PrecisionReport:
    """Counts nodes by the type of their first result; `model` needs its value_info."""
    types = tensor_types(model)
    try:
        macs = macs_by_node(model)
    except ExportError:
        macs = {}
    narrow = narrow_type(model) or HALF
    convs: Counter[int] = Counter()
    work: Counter[int] = Counter()
    nodes_fp32 = casts = 0
    for index, node in enumerate(model.graph.node):
        result = types.get(node.output[0], 0)
        if node.op_type == "Cast" and {types.get(node.input[0]), result} == {FLOAT, narrow}:
            casts += 1
            continue
        nodes_fp32 += result == FLOAT
        if node.op_type in HEAVY:
            convs[result] += 1
            work[result] += macs.get(index, 0)
    share = work[narrow] / work.total() if work.total() else None
    name = "BF16" if narrow == BFLOAT else "FP16"
    return PrecisionReport(convs[narrow], convs[FLOAT], nodes_fp32, casts, share, name)


def narrow_type(model: ModelProto) -> int | None:
    """The 16-bit type of a graph's tensors, if any, weights or not."""
    return next((kind for kind in tensor_types(model).values() if kind in NARROW), None)


def to_fp16(model: ModelProto) -> ModelProto:
    """Makes a strongly typed FP16 graph with FP32 islands out of an FP32 one.

    Casts stand at the islands' borders only, one per tensor and type; weights that both sides
    use are stored twice; integer (shape) computations stay as they are.

    Args:
        model: An FP32 graph with types for all its tensors, no subgraphs, whose own inputs and
            outputs are not floating-point (ours are uint8). It is not changed.

    Returns:
        A new model, types inferred and checked again.

    Raises:
        ExportError: a weight is beyond FP16's range, or the graph is none of the above.
    """
    half = ModelProto()
    half.CopyFrom(model)
    return _narrowed(half, HALF)


def to_bf16(model: ModelProto) -> ModelProto:
    """As `to_fp16`, with bfloat16: no overflow, and less precision. The graph moves to opset 22.

    ONNX Runtime's CPU provider has no BF16 convolutions; TensorRT and its RTX variant take the graph.

    Raises:
        ExportError: as for `to_fp16`, or a node cannot be brought to opset 22.
    """
    try:
        raised = onnx.version_converter.convert_version(model, BFLOAT_OPSET)
    except Exception as error:  # the converter's own class is not public
        reason = str(error).splitlines()[0]
        raise ExportError(f"The graph cannot be brought to opset {BFLOAT_OPSET}: {reason}") from error
    raised = onnx.shape_inference.infer_shapes(raised, data_prop=True)
    return _narrowed(raised, BFLOAT)


def _narrowed(half: ModelProto, narrow: int) -> ModelProto:
    _check_convertible(half)
    types = tensor_types(half)
    stays = fp32_islands(half)
    if narrow == BFLOAT:  # TensorRT-RTX 1.7 cannot build BF16 transposed convolutions
        stays |= {index for index, node in enumerate(half.graph.node) if node.op_type == "ConvTranspose"}
    _Rewriter(half, types, stays, narrow).rewrite()
    try:
        return onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(
            f"The {NARROW[narrow]} graph is inconsistent: {str(error).splitlines()[0]}"
        ) from error


class _Rewriter:
    """Moves one graph's nodes to their types, in place."""

    def __init__(self, model: ModelProto, types: dict[str, int], stays: set[int], narrow: int) -> None:
        self.graph = model.graph
        self.opset = next(entry.version for entry in model.opset_import if entry.domain == "")
        self.types = types  # by tensor name, kept up to date
        self.stays, self.narrow = stays, narrow
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.renamed: dict[tuple[str, int], str] = {}  # (tensor, type) -> the tensor's copy in that type
        self.nodes: list[NodeProto] = []

    def rewrite(self) -> None:
        for index, node in enumerate(self.graph.node):
            self._retype(node, FLOAT if index in self.stays else self.narrow)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.weights.values() if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        for value in self.graph.value_info:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.elem_type = self.types[value.name]

    def _retype(self, node: NodeProto, wanted: int) -> None:
        takes, gives = _narrow_slots(node, self.opset, self.narrow)
        for slot, name in enumerate(node.input):
            if self.types.get(name) in (FLOAT, self.narrow) and node.op_type not in ANY_TYPE:
                node.input[slot] = self._as(name, wanted if takes[slot] else FLOAT)
        self.nodes.append(node)
        if wanted != self.narrow:
            return
        for slot, name in enumerate(node.output):
            if self.types.get(name) == FLOAT and gives[slot]:
                self.types[name] = self.narrow
                if node.op_type == "Cast":
                    _set_target(node, self.narrow)

    def _as(self, name: str, wanted: int) -> str:
        """The name of tensor `name` in type `wanted`: itself, or a copy made once."""
        if self.types[name] == wanted:
            return name
        if (name, wanted) not in self.renamed:
            copy = f"{name}_{NAMES[wanted]}"
            if name in self.weights:
                self.weights[copy] = _narrow_weight(self.weights[name], copy, wanted)
            else:
                self.nodes.append(
                    onnx.helper.make_node("Cast", [name], [copy], name=f"cast_{copy}", to=wanted)
                )
            self.types[copy] = wanted
            self.renamed[name, wanted] = copy
        return self.renamed[name, wanted]


def _narrow_weight(tensor: TensorProto, name: str, narrow: int) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    if narrow == BFLOAT:
        # The upper half of a float32, rounded to nearest, ties to even.
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        packed = rounded.astype("<u2").tobytes()
        return TensorProto(name=name, data_type=BFLOAT, dims=values.shape, raw_data=packed)
    finite = np.abs(values[np.isfinite(values)])
    if finite.size and finite.max() > HALF_MAX:
        raise ExportError(
            f"The weight {tensor.name} reaches {finite.max():.6g}, beyond FP16's {HALF_MAX:.0f}.",
            "Export with --precision fp32, or bf16 for a GPU that has it.",
        )
    return numpy_helper.from_array(values.astype(np.float16), name)


def _narrow_slots(node: NodeProto, opset: int, narrow: int) -> tuple[list[bool], list[bool]]:
    """Which inputs and outputs may be narrow (a Resize's scales, for one, may not), by ONNX's own schema."""
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    wanted = f"tensor({NARROW[narrow]})"
    allowed = {c.type_param_str: wanted in c.allowed_type_strs for c in schema.type_constraints}

    def slots(formals: list[onnx.defs.OpSchema.FormalParameter], count: int) -> list[bool]:
        padded = formals + formals[-1:] * (count - len(formals))  # the last one may be variadic
        return [allowed.get(formal.type_str, False) for formal in padded[:count]]

    return slots(list(schema.inputs), len(node.input)), slots(list(schema.outputs), len(node.output))


def _check_convertible(model: ModelProto) -> None:
    graph = model.graph
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in (FLOAT, HALF, BFLOAT):
            raise ExportError(
                f"{value.name} is floating-point; only graphs from uint8 to uint8 are converted to FP16."
            )
    types = tensor_types(model)
    for node in graph.node:
        if any(
            attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute
        ):
            raise ExportError(
                f"The graph branches ({node.op_type}); such a network is not converted to FP16."
            )
        if node.op_type == "Constant" or any(name and name not in types for name in node.output):
            raise ExportError(
                f"The type of {node.output[0]} is not known, so the graph is not converted to FP16."
            )


def _set_target(node: NodeProto, elem_type: int) -> None:
    for attribute in node.attribute:
        if attribute.name == "to":
            attribute.i = elem_type
