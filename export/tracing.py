"""PyTorch's tracer, without its chatter, and asked once for each kind of network.

Tracing is slow, and what it makes does not depend on the weights. So what the tracer made of an SD-PSFNet
is kept, without weights, and given those of the next network of the same shape. `sdps-export` compares
what it writes with PyTorch, a kept trace or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.modules import module as hooks

import sdps.core
import sdps.model
from sdps import __version__
from sdps.core.artifact import write_bytes
from sdps.core.cache import cache_folder
from sdps.core.errors import SdpsError
from sdps.core.manifest import INPUT, OUTPUT
from sdps.core.spec import Size
from sdps.model import SDPSFNet
from sdps.model.deploy import DeployNet, space_of
from sdps.model.exits import EarlyExit

OPSET = 18
TRACE_SIZE = Size(64, 96)
"""Size that a dynamic graph is traced at; unequal sides keep height and width apart."""
TRACERS = ("torch", "onnxscript", "onnx", "onnx-ir", "numpy")
"""Packages that have a say in what a trace looks like."""
KEPT_TYPES = (torch.float32, torch.int64)
PLAIN = (bool, int, float, str, tuple, list, dict, type(None))
DIGEST = hashlib.sha256().digest_size
MOST = 64
"""Traces that are kept; the oldest go."""


def _digest_of_code() -> str:
    """Of the networks' source, of this file and of what they take from `core`."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for package in (sdps.model, sdps.core):
        for file in sorted(Path(str(package.__file__)).parent.glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


CODE = _digest_of_code()
"""Taken at once: what runs is what was there when it was imported, and not what has come since."""


def trace(deploy: DeployNet, size: Size | None) -> ir.Model:
    """The graph as PyTorch's exporter writes it, nothing folded; weights have their names in `deploy`.

    Args:
        deploy: In eval mode.
        size: Of the picture; None for any.

    Raises:
        Exception: whatever the tracer raises.
    """
    path = _place(deploy, size)
    if path is None:
        return ir.from_proto(_trace(deploy, size))
    model = _read(path)
    if model is None:
        model = _trace(deploy, size)
        _forget_where(model)
        _keep(path, _without_weights(model, _state(deploy)))
    return ir.from_proto(_with_weights(model, _state(deploy)))


def folder() -> Path:
    """Where traces are kept; a few hundred kilobytes each, and free to be deleted."""
    return cache_folder() / "traces"


def fingerprint(deploy: DeployNet, size: Size | None) -> str:
    """What a trace follows from, weights apart: code, versions, modules and their settings, shapes.

    Returns:
        Hexadecimal digits; empty where that cannot be told: of another network than SD-PSFNet and its
        exits, or of one that was changed from outside, by hooks or by methods of its own.
    """
    if type(deploy) is not DeployNet or type(deploy.network) not in (SDPSFNet, EarlyExit):
        return ""
    state = _state(deploy)
    modules = list(deploy.named_modules(remove_duplicate=False))
    known_types = all(tensor.dtype in KEPT_TYPES for tensor in state.values())
    if not known_types or not all(_ours(module) for _, module in modules):
        return ""
    first: dict[int, str] = {}
    facts = {
        "code": [__version__, CODE, OPSET, INPUT, OUTPUT, str(TRACE_SIZE)],
        "tracers": [version(name) for name in TRACERS],
        "size": str(size),
        "modules": [(name, type(module).__qualname__, _settings(module)) for name, module in modules],
        # Tensors that two modules share are one in the graph.
        "state": [(key, t.shape, t.dtype, first.setdefault(id(t), key)) for key, t in state.items()],
    }
    return hashlib.sha256(json.dumps(facts, default=repr).encode()).hexdigest()[:32]


def _ours(module: nn.Module) -> bool:
    """Whether its class tells all that it computes."""
    everywhere = hooks._global_forward_hooks or hooks._global_forward_pre_hooks
    hooked = everywhere or module._forward_hooks or module._forward_pre_hooks
    changed = hooked or any(callable(value) for value in vars(module).values())
    return type(module).__module__.startswith(("sdps.model.", "torch.nn.modules.")) and not changed


def _settings(module: nn.Module) -> dict[str, Any]:
    mine = {key: value for key, value in vars(module).items() if key[0] != "_"}
    return {key: value for key, value in mine.items() if isinstance(value, PLAIN) or is_dataclass(value)}


def _state(deploy: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(deploy.named_parameters(remove_duplicate=False)),
        **dict(deploy.named_buffers(remove_duplicate=False)),
    }


def _place(deploy: DeployNet, size: Size | None) -> Path | None:
    """Where its trace is kept, or would be; None where none can be."""
    try:
        key = fingerprint(deploy, size)
        return folder() / f"{key}.trace" if key else None
    except (RuntimeError, PackageNotFoundError):  # no home folder; an install without versions
        return None


def _read(path: Path) -> onnx.ModelProto | None:
    """A kept trace; None if there is none, or one byte of it is not what was written."""
    try:
        data = path.read_bytes()
        if hashlib.sha256(data[DIGEST:]).digest() == data[:DIGEST]:
            return onnx.load_model_from_string(data[DIGEST:])
    except Exception:  # protobuf's own errors share no class with those of files
        pass
    return None


def _keep(path: Path, model: onnx.ModelProto) -> None:
    """Writes a trace behind its SHA-256; a cache that cannot be written costs time and nothing else."""
    graph = model.SerializeToString()
    with contextlib.suppress(SdpsError, OSError):
        write_bytes(path, hashlib.sha256(graph).digest() + graph)
        for old in sorted(path.parent.glob("*.trace"), key=lambda file: file.stat().st_mtime)[:-MOST]:
            old.unlink(missing_ok=True)


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
