"""A network to one ONNX graph, from uint8 picture to uint8 picture.

One recipe for ONNX Runtime, OpenVINO, TensorRT 10.3+, 11 and TensorRT-RTX: precision is what the
graph's tensors say (the newer NVIDIA builders know nothing else), opset 18, no external data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.optimizer import fold_constants
from torch import nn

from sdps.core.errors import ExportError
from sdps.core.manifest import GraphManifest
from sdps.export.precision import to_bf16, to_fp16
from sdps.export.rewrite import REWRITES, rewrite
from sdps.export.tracing import quiet, trace
from sdps.model.deploy import DeployNet


def export_graph(
    network: nn.Module,
    manifest: GraphManifest,
    rewrites: Collection[str] = tuple(REWRITES),
    traced: Callable[[onnx.ModelProto], None] | None = None,
) -> onnx.ModelProto:
    """Traces `network` into an ONNX model of the size and precision that `manifest` names.

    Args:
        network: Eval-mode module from normalised float [N,3,H,W] to one image or a list of them
            in the same space, of which the last is exported.
        manifest: Written into the graph's metadata, with the rewrites that were applied.
        rewrites: Names of the exact rewrites to apply (`rewrite.py`); none for the graph as traced.
        traced: Shown the FP32 graph before the rewrites.

    Returns:
        A checked model: input `image` uint8 [N,H,W,3] RGB, output `restored` likewise. Fixed
        graphs have N = 1; dynamic ones take any N, and H and W in multiples of 4.

    Raises:
        ExportError: the tracer or the ONNX checker refuses the network.
    """
    deploy = DeployNet(network, manifest.fixed_size).eval()
    try:
        with quiet():
            program = trace(deploy, manifest.fixed_size)
            _simplify(program)
            if traced:
                traced(ir.to_proto(program))
            applied = rewrite(program, rewrites)
        model = ir.to_proto(program)
    except Exception as error:
        raise ExportError(f"The network could not be traced to ONNX: {_cause(error)}") from error
    _forget_python(model)
    if manifest.precision == "fp16":
        model = to_fp16(model)
    elif manifest.precision == "bf16":
        model = to_bf16(model)
    describe(model, replace(manifest, rewrites=applied))
    check_graph(model)
    return model


def check_graph(model: onnx.ModelProto) -> None:
    """Holds a graph to ONNX's rules, shapes and types included.

    Raises:
        ExportError: it breaks one.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The exported graph is not valid ONNX: {_first_line(error)}") from error


def describe(model: onnx.ModelProto, manifest: GraphManifest) -> None:
    """Writes (or replaces) the graph's description of itself."""
    onnx.helper.set_model_props(model, manifest.to_metadata())
    model.producer_name, model.producer_version = "sdps", manifest.sdps_version


def manifest_of(model: onnx.ModelProto) -> GraphManifest:
    """The description that `describe` wrote."""
    return GraphManifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})


def _simplify(model: ir.Model) -> None:
    """Folds constants and shares what is equal, in place; changes no value.

    The tracer's own `optimize=True` also drops additions within 1e-8 of zero (onnxscript's rule
    `add_0`, absolute tolerance 1e-8), and with them the network's guard of a division by zero.
    """
    passes.InlinePass()(model)
    fold_constants(model, onnx_shape_inference=True)
    passes.RemoveUnusedNodesPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.DeduplicateInitializersPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.NameFixPass()(model)


def _forget_python(model: onnx.ModelProto) -> None:
    """Drops the tracer's notes (stack traces, paths of this machine); half of a small file is that."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for values in (
        model.graph.value_info,
        model.graph.initializer,
        model.graph.input,
        model.graph.output,
        [model.graph],
    ):
        for value in values:
            del value.metadata_props[:]
            value.doc_string = ""
    del model.functions[:]


def _cause(error: Exception) -> str:
    """What stopped the tracer, which wraps it in advice to its developers."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    return f"{type(root).__name__}: {_first_line(root)}"


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
