"""A network to one ONNX graph, from uint8 picture to uint8 picture.

One recipe for ONNX Runtime, OpenVINO, TensorRT 10.3+, 11 and TensorRT-RTX: precision is what the
graph's tensors say (the newer NVIDIA builders know nothing else), opset 18, no external data.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from onnxscript.optimizer import fold_constants
from torch import nn

from sdps.core.errors import ExportError
from sdps.core.manifest import INPUT, OUTPUT, GraphManifest
from sdps.core.spec import Size
from sdps.export.precision import to_bf16, to_fp16
from sdps.export.rewrite import REWRITES, rewrite
from sdps.model.deploy import DeployNet, space_of

OPSET = 18
PRECISIONS = ("fp32", "fp16", "bf16")
TRACE_SIZE = Size(64, 96)
"""Size that a dynamic graph is traced at; unequal sides keep height and width apart."""


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
    size = manifest.fixed_size
    deploy = DeployNet(network, size).eval()
    stride = space_of(network).stride
    at = size or TRACE_SIZE.padded_to(stride)
    # Two pictures where the batch is dynamic: the tracer takes a batch of one for a constant.
    picture = torch.zeros(1 if size else 2, at.height, at.width, 3, dtype=torch.uint8)
    shapes = None
    if size is None:
        n, h, w = (torch.export.Dim(name, min=1, max=4096) for name in ("n", "h", "w"))
        shapes = ({0: n, 1: stride * h, 2: stride * w, 3: torch.export.Dim.STATIC},)
    try:
        with _quiet():
            program = torch.onnx.export(
                deploy,
                (picture,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
                optimize=False,
            )
            assert program is not None
            _simplify(program.model)
            if traced:
                traced(ir.to_proto(program.model))
            applied = rewrite(program.model, rewrites)
        model = program.model_proto
    except Exception as error:
        raise ExportError(f"The network could not be traced to ONNX: {_cause(error)}") from error
    _forget_python(model)
    if manifest.precision == "fp16":
        model = to_fp16(model)
    elif manifest.precision == "bf16":
        model = to_bf16(model)
    describe(model, replace(manifest, rewrites=applied))
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"The exported graph is not valid ONNX: {_first_line(error)}") from error
    return model


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tracer's own chatter (absent torchvision, deprecations) says nothing to a user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # On a failure it prints the whole network to standard error.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
