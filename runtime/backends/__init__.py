"""Backends, and the choice of one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from sdps.core.artifact import sha256_of
from sdps.core.errors import MissingDependency, SdpsError, UsageError
from sdps.core.gpu import first_gpu
from sdps.core.sidecar import read_sidecar, sidecar_path
from sdps.core.weights_file import is_checkpoint
from sdps.runtime.backends.base import Backend
from sdps.runtime.bundled import DEFAULT_MODEL, resolve

PROVIDERS = ("auto", "openvino", "cpu", "cuda", "tensorrt", "torch", "identity")
ENGINES = (".engine", ".plan")

__all__ = ["PROVIDERS", "Backend", "open_backend"]


def open_backend(
    name_or_path: str | Path = DEFAULT_MODEL, provider: str = "auto", threads: int = 0, strict: bool = True
) -> Backend:
    """Opens a model on a provider.

    Args:
        name_or_path: A bundled name, an ONNX file that sdps exported, an engine that it built, or a
            checkpoint (PyTorch).
        provider: One of PROVIDERS. 'auto' takes the first that works of: the engine beside the graph
            that was built from it, CUDA, OpenVINO, ONNX Runtime on the CPU ('cpu'). It measures
            nothing, so the same machine always gets the same one. 'tensorrt' is an engine file's own
            runtime, or for a graph ONNX Runtime's provider, which builds at the first picture.
        threads: CPU threads; 0 leaves it to the engine.
        strict: Raise if the provider that was asked for does not work here; otherwise 'auto' stands in
            for it, and `reason` says so.

    Raises:
        UsageError: no such provider or model.
        MissingDependency: nothing is installed that could run it.
        SdpsError: the model is damaged, or the provider does not work here.
    """
    if provider not in PROVIDERS:
        raise UsageError(f"There is no provider {provider!r}.", f"Choose from {', '.join(PROVIDERS)}.")
    if provider == "identity":
        from sdps.runtime.backends.identity import IdentityBackend

        return IdentityBackend()
    path = resolve(name_or_path)
    engine = path.suffix.lower() in ENGINES
    if not engine and is_checkpoint(path):
        if provider not in ("auto", "torch"):
            raise UsageError(
                f"{path.name} is a checkpoint, which only PyTorch runs.", "Export it first: sdps-export."
            )
        from sdps.runtime.backends.torch_ref import TorchBackend

        return TorchBackend(path)
    if provider == "torch":
        raise UsageError(
            f"{path.name} is not a checkpoint.", "Give a .pth or .safetensors file, or another provider."
        )
    if engine:
        if provider not in ("auto", "tensorrt"):
            raise UsageError(
                f"{path.name} is an engine, which only --provider tensorrt runs.",
                "Give the .onnx file that it was built from.",
            )
        from sdps.runtime.backends.trt import TrtBackend

        return TrtBackend(path)
    if provider == "auto":
        return _fastest(path, threads)
    try:
        return _open(path, provider, threads)
    except UsageError:
        raise
    except SdpsError as error:
        if strict:
            raise
        return _fastest(path, threads, [f"{provider} does not work here: {_clause(error)}"])


def _open(path: Path, provider: str, threads: int) -> Backend:
    if provider == "openvino":
        from sdps.runtime.backends.openvino_cpu import OpenVinoBackend

        return OpenVinoBackend(path, threads)
    from sdps.runtime.backends.ort import OrtBackend

    return OrtBackend(path, provider, threads)


def _fastest(path: Path, threads: int, said: list[str] | None = None) -> Backend:
    """The first that works, with the reasons against those before it in its `reason`."""
    against = said or []
    failure: SdpsError | None = None
    for what, open_it in _candidates(path, threads, against):
        try:
            backend = open_it()
        except SdpsError as error:
            against.append(f"{what} does not work here: {_clause(error)}")
            failure = error
            continue
        backend.reason = "; ".join([*against, what])
        return backend
    if failure is not None:
        raise failure
    raise MissingDependency(
        "No inference engine is installed.", "Install one: pip install 'sdps[cpu]', or 'sdps[gpu]' on NVIDIA."
    )


def _candidates(path: Path, threads: int, against: list[str]) -> Iterator[tuple[str, Callable[[], Backend]]]:
    """What might run here, fastest first: why it is chosen, and what opens it."""
    has_ort, has_openvino = (
        importlib.util.find_spec(name) is not None for name in ("onnxruntime", "openvino")
    )
    if first_gpu() is None:
        against.append("no NVIDIA GPU or driver")
    else:
        engine = path.with_suffix(".engine")
        if engine.is_file() and sidecar_path(engine).is_file():

            def open_engine() -> Backend:
                from sdps.runtime.backends.trt import TrtBackend

                if read_sidecar(engine).graph_sha256 != sha256_of(path):
                    raise SdpsError(f"{engine.name} was built from another graph")
                return TrtBackend(engine)

            yield f"the engine {engine.name} beside the graph", open_engine
        if has_ort:
            yield "ONNX Runtime on the GPU", lambda: _open(path, "cuda", threads)
    if has_openvino:
        yield "OpenVINO is the fastest CPU engine measured", lambda: _open(path, "openvino", threads)
    if has_ort:
        text = "ONNX Runtime on the CPU" + ("" if has_openvino else ", as OpenVINO is not installed")
        yield text, lambda: _open(path, "cpu", threads)


def _clause(error: SdpsError) -> str:
    return error.message.rstrip(".")
