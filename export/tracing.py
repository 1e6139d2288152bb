"""PyTorch's tracer, without its chatter, and asked once for each kind of network.

Tracing takes seconds for a small network and minutes for the paper's, whatever its weights are. So what
the tracer made of one of our own networks is kept, without weights, and given those of the next network of
the same shape. What a graph gives is compared with PyTorch after every export, a kept trace or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import numpy_helper
from torch import nn

from sdps.core.artifact import write_bytes
from sdps.core.cache import cache_folder
from sdps.core.errors import SdpsError
from sdps.core.manifest import INPUT, OUTPUT
from sdps.core.spec import Size
from sdps.model.deploy import DeployNet, space_of

OPSET = 18
TRACE_SIZE = Size(64, 96)
"""Size that a dynamic graph is traced at; unequal sides keep height and width apart."""
TRACERS = ("torch", "onnxscript", "onnx", "onnx-ir", "numpy")
"""Packages that have a say in what a trace looks like."""
KEPT_TYPES = (torch.float32, torch.int64)
PLAIN = (bool, int, float, str, tuple, list, dict, type(None))


def trace(deploy: DeployNet, size: Size | None) -> ir.Model:
    """The graph as PyTorch's exporter writes it, nothing folded; weights have their names in `deploy`.

    Args:
        deploy: In eval mode.
        size: Of the picture; None for any.

    Raises:
        Exception: whatever the tracer raises.
    """
    key = fingerprint(deploy, size)
    if not key:
        return ir.from_proto(_trace(deploy, size))
    path = folder() / f"{key}.onnx"
    model = _read(path)
    if model is None:
        model = _trace(deploy, size)
        _forget_where(model)
        with contextlib.suppress(SdpsError):  # a cache that cannot be written costs time and nothing else
            write_bytes(path, _without_weights(model, _state(deploy)).SerializeToString())
    return ir.from_proto(_with_weights(model, _state(deploy)))


def folder() -> Path:
    """Where traces are kept; a few hundred kilobytes each, and free to be deleted."""
    return cache_folder() / "traces"


def fingerprint(deploy: DeployNet, size: Size | None) -> str:
    """What a trace follows from, weights apart: code, versions, modules and their settings, shapes.

    Returns:
        Hexadecimal digits; empty where that cannot be told: of a network whose code is not ours, or that
        was changed from outside, by hooks for instance.
    """
    state = _state(deploy)
    modules = list(deploy.named_modules(remove_duplicate=False))
    if any(not _ours(module) for _, module in modules) or any(
        t.dtype not in KEPT_TYPES for t in state.values()
    ):
        return ""
    first: dict[int, str] = {}
    facts = {
        "code": _code(),
        "tracers": [version(name) for name in TRACERS],
        "size": str(size),
        "modules": [(name, type(module).__qualname__, _settings(module)) for name, module in modules],
        # Tensors that two modules share are one in the graph.
        "state": [
            (key, list(t.shape), str(t.dtype), first.setdefault(id(t), key)) for key, t in state.items()
        ],
    }
    return hashlib.sha256(json.dumps(facts, default=repr).encode()).hexdigest()[:32]


def _ours(module: nn.Module) -> bool:
    """Whether its class tells all that it computes."""
    home = type(module).__module__
    hooks = module._forward_hooks or module._forward_pre_hooks
    return (
        home.startswith(("sdps.model.", "torch.nn.modules.")) and not hooks and "forward" not in vars(module)
    )


def _settings(module: nn.Module) -> dict[str, Any]:
    mine = {key: value for key, value in vars(module).items() if key[0] != "_"}
    return {key: value for key, value in mine.items() if isinstance(value, PLAIN) or is_dataclass(value)}


def _state(deploy: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(deploy.named_parameters(remove_duplicate=False)),
        **dict(deploy.named_buffers(remove_duplicate=False)),
    }


@cache
def _code() -> str:
    """Of the networks' source and of this file."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted(Path(str(sys.modules["sdps.model"].__file__)).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> onnx.ModelProto | None:
    """A kept trace; None if there is none, or it is damaged."""
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception:  # protobuf's own errors share no class with those of files
        return None
    return model if model.graph.node else None


def _without_weights(model: onnx.ModelProto, state: dict[str, torch.Tensor]) -> onnx.ModelProto:
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        if tensor.name in state:
            tensor.ClearField("raw_data")
    return bare


def _with_weights(model: onnx.ModelProto, state: dict[str, torch.Tensor]) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        if tensor.name in state:
            values: np.ndarray[Any, Any] = state[tensor.name].detach().cpu().numpy()
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    return model


def _forget_where(model: onnx.ModelProto) -> None:
    """Drops the tracer's notes (stack traces, paths of this machine), which are most of a trace's bytes."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            del node.metadata_props[:]
            node.doc_string = ""


def _trace(deploy: DeployNet, size: Size | None) -> onnx.ModelProto:
    stride = space_of(deploy.network).stride
    at = size or TRACE_SIZE.padded_to(stride)
    # Two pictures where the batch is dynamic: the tracer takes a batch of one for a constant.
    picture = torch.zeros(1 if size else 2, at.height, at.width, 3, dtype=torch.uint8)
    shapes = None
    if size is None:
        n, h, w = (torch.export.Dim(name, min=1, max=4096) for name in ("n", "h", "w"))
        shapes = ({0: n, 1: stride * h, 2: stride * w, 3: torch.export.Dim.STATIC},)
    with quiet():
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
    return program.model_proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
