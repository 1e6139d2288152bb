"""FP16 graphs: which tensors become half precision, and which stay.

The newer NVIDIA builders take precision from the graph's tensors and from nothing else, so half
precision is written into the graph: everything is FP16 but three islands, which a rule on the
graph's topology finds, in any network and at any size:

- **Input**: from the graph's input up to the first convolutions (cast, layout, normalisation).
- **Means**: spatial means and sums and whatever is computed from them and constants alone
  (channel attention, gates, the whole PSF path). H x W addends, a division by a signed sum and
  an epsilon of 1e-8 do not survive FP16, and on 1x1 and 7x7 maps FP32 costs nothing.
- **Output**: from the graph's output back to the last convolutions (residual, denormalisation,
  clamp, rounding): levels above 128 have a step of 1/8 in FP16.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

from sdps.core.errors import ExportError
from sdps.export.graph_macs import macs_by_node

FLOAT, HALF, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8
HALF_MAX = 65504.0
"""The largest finite number in IEEE half precision."""
HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Where the arithmetic is; these end the islands of the input and of the output."""
ANY_TYPE = frozenset({"Cast", "Shape", "Size"})
"""These read a tensor of whatever type, so nothing is cast for them."""


@dataclass(frozen=True)
class PrecisionReport:
    """How a graph's floating-point work is spread over the two types.

    Attributes:
        convs_fp16, convs_fp32: Convolutions and matrix products.
        nodes_fp16, nodes_fp32: All nodes with floating-point results, casts left out.
        casts: Casts between the two types, i.e. the islands' borders.
        macs_share_fp16: Part of the multiply-accumulates that is done in FP16, 0 to 1.
    """

    convs_fp16: int
    convs_fp32: int
    nodes_fp16: int
    nodes_fp32: int
    casts: int
    macs_share_fp16: float

    def __str__(self) -> str:
        return (
            f"FP16: {self.convs_fp16} convolutions, {self.macs_share_fp16:.1%} of the multiply-accumulates. "
            f"FP32: {self.convs_fp32} small ones, {self.nodes_fp32} nodes in all. {self.casts} casts between."
        )


def precision_report(model: ModelProto) -> PrecisionReport:
    """Counts nodes by the type of their first result; `model` needs its value_info."""
    types = tensor_types(model)
    macs = macs_by_node(model)
    convs: Counter[int] = Counter()
    nodes: Counter[int] = Counter()
    work: Counter[int] = Counter()
    casts = 0
    for index, node in enumerate(model.graph.node):
        result = types.get(node.output[0], 0)
        if node.op_type == "Cast" and {types.get(node.input[0]), result} == {FLOAT, HALF}:
            casts += 1
            continue
        nodes[result] += 1
        if node.op_type in HEAVY:
            convs[result] += 1
            work[result] += macs[index]
    share = work[HALF] / max(1, work.total())
    return PrecisionReport(convs[HALF], convs[FLOAT], nodes[HALF], nodes[FLOAT], casts, share)


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
    _check_convertible(model)
    half = ModelProto()
    half.CopyFrom(model)
    types = tensor_types(half)
    stays = fp32_islands(half)
    _Rewriter(half, types, stays).rewrite()
    try:
        return onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(f"The FP16 graph is inconsistent: {str(error).splitlines()[0]}") from error


def fp32_islands(model: ModelProto) -> set[int]:
    """Indices of the nodes that stay FP32, by the rule in this file's docstring."""
    graph = model.graph
    types = tensor_types(model)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    consumers: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(graph.node):
        for name in node.input:
            consumers[name].append(index)

    # Forward, in topological order. `pooled` tensors come from spatial means (or from shapes)
    # alone; `early` ones may come from the picture as well, but from no convolution of it.
    pooled: set[str] = set()
    early = {value.name for value in graph.input}
    stays: set[int] = set()
    for index, node in enumerate(graph.node):
        sources = [name for name in node.input if types.get(name) in (FLOAT, UINT8) and name not in constants]
        if _is_spatial_mean(node, constants) or pooled.issuperset(sources):
            pooled.update(node.output)
        elif node.op_type not in HEAVY and (early | pooled).issuperset(sources):
            early.update(node.output)
        else:
            continue
        stays.add(index)

    # Backward: a node joins if all that read it are in already.
    ends: set[int] = set()
    outputs = {value.name for value in graph.output}
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        readers = [reader for name in node.output for reader in consumers[name]]
        is_end = any(name in outputs for name in node.output)
        if node.op_type not in HEAVY and (is_end or readers) and all(reader in ends for reader in readers):
            ends.add(index)
    return stays | ends


class _Rewriter:
    """Moves one graph's nodes to their types, in place."""

    def __init__(self, model: ModelProto, types: dict[str, int], stays: set[int]) -> None:
        self.graph = model.graph
        self.opset = next(entry.version for entry in model.opset_import if entry.domain == "")
        self.types = types  # by tensor name, kept up to date
        self.stays = stays
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.renamed: dict[tuple[str, int], str] = {}  # (tensor, type) -> the tensor's copy in that type
        self.nodes: list[NodeProto] = []

    def rewrite(self) -> None:
        for index, node in enumerate(self.graph.node):
            self._retype(node, FLOAT if index in self.stays else HALF)
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
        takes, gives = _half_slots(node, self.opset)
        for slot, name in enumerate(node.input):
            if self.types.get(name) in (FLOAT, HALF) and node.op_type not in ANY_TYPE:
                node.input[slot] = self._as(name, wanted if takes[slot] else FLOAT)
        self.nodes.append(node)
        if wanted != HALF:
            return
        for slot, name in enumerate(node.output):
            if self.types.get(name) == FLOAT and gives[slot]:
                self.types[name] = HALF
                if node.op_type == "Cast":
                    _set_target(node, HALF)

    def _as(self, name: str, wanted: int) -> str:
        """The name of tensor `name` in type `wanted`: itself, or a copy made once."""
        if self.types[name] == wanted:
            return name
        if (name, wanted) not in self.renamed:
            copy = f"{name}_{'fp16' if wanted == HALF else 'fp32'}"
            if name in self.weights:
                self.weights[copy] = _half_weight(self.weights[name], copy)
            else:
                self.nodes.append(
                    onnx.helper.make_node("Cast", [name], [copy], name=f"cast_{copy}", to=wanted)
                )
            self.types[copy] = wanted
            self.renamed[name, wanted] = copy
        return self.renamed[name, wanted]


def _half_weight(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    finite = np.abs(values[np.isfinite(values)])
    if finite.size and finite.max() > HALF_MAX:
        raise ExportError(
            f"The weight {tensor.name} reaches {finite.max():.6g}, beyond FP16's {HALF_MAX:.0f}.",
            "Export with --precision fp32.",
        )
    return numpy_helper.from_array(values.astype(np.float16), name)


def _half_slots(node: NodeProto, opset: int) -> tuple[list[bool], list[bool]]:
    """Which inputs and outputs may be FP16 (a Resize's scales, for one, may not), by ONNX's own schema."""
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    allowed = {c.type_param_str: "tensor(float16)" in c.allowed_type_strs for c in schema.type_constraints}

    def slots(formals: list[onnx.defs.OpSchema.FormalParameter], count: int) -> list[bool]:
        padded = formals + formals[-1:] * (count - len(formals))  # the last one may be variadic
        return [allowed.get(formal.type_str, False) for formal in padded[:count]]

    return slots(list(schema.inputs), len(node.input)), slots(list(schema.outputs), len(node.output))


def _is_spatial_mean(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Whether the node reduces axes 2 and 3 (of four) and no others."""
    if node.op_type == "GlobalAveragePool":
        return True
    if node.op_type not in ("ReduceMean", "ReduceSum"):
        return False
    # Since opset 18 the axes are an input; for ReduceSum since 13.
    axes = [axis for attribute in node.attribute if attribute.name == "axes" for axis in attribute.ints]
    if len(node.input) > 1 and node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
    return sorted(axis % 4 for axis in axes) == [2, 3]


def tensor_types(model: ModelProto) -> dict[str, int]:
    """The element type (of `onnx.TensorProto`) of every tensor that the graph states."""
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for values in (graph.input, graph.value_info, graph.output):
        types |= {value.name: value.type.tensor_type.elem_type for value in values}
    return types


def _check_convertible(model: ModelProto) -> None:
    graph = model.graph
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in (FLOAT, HALF):
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
