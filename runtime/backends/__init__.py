"""Backends, and the choice of one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sdps.core.errors import MissingDependency, SdpsError, UsageError
from sdps.core.packages import package_advice
from sdps.runtime.backends.base import Backend
from sdps.runtime.bundled import DEFAULT_MODEL, resolve

PROVIDERS = ("auto", "openvino", "cpu", "cuda", "tensorrt", "torch", "identity")
CHECKPOINTS = (".pth", ".pt", ".safetensors")

__all__ = ["PROVIDERS", "Backend", "open_backend", "package_advice"]


def open_backend(
    name_or_path: str | Path = DEFAULT_MODEL, provider: str = "auto", threads: int = 0
) -> Backend:
    """Opens a model on a provider.

    Args:
        name_or_path: A bundled name, an ONNX file that sdps exported, or a checkpoint (PyTorch).
        provider: One of PROVIDERS. 'auto' takes CUDA where it works, else OpenVINO, else ONNX
            Runtime on the CPU; 'cpu' is ONNX Runtime's.
        threads: CPU threads; 0 leaves it to the engine.

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
    if path.suffix in CHECKPOINTS:
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
    if provider == "auto":
        return _fastest(path, threads)
    if provider == "openvino":
        from sdps.runtime.backends.openvino_cpu import OpenVinoBackend

        return OpenVinoBackend(path, threads)
    from sdps.runtime.backends.ort import OrtBackend

    return OrtBackend(path, provider, threads)


def _fastest(path: Path, threads: int) -> Backend:
    has_ort, has_openvino = (
        importlib.util.find_spec(name) is not None for name in ("onnxruntime", "openvino")
    )
    why_not = ""
    if has_ort:
        import onnxruntime as ort

        from sdps.runtime.backends.ort import OrtBackend

        if "CUDAExecutionProvider" in ort.get_available_providers():
            try:
                return OrtBackend(path, "cuda", threads, reason="a CUDA GPU works")
            except SdpsError as error:
                why_not = f"; {error.message}"
    if has_openvino:
        from sdps.runtime.backends.openvino_cpu import OpenVinoBackend

        return OpenVinoBackend(
            path, threads, reason=f"no GPU provider, OpenVINO is the fastest CPU engine{why_not}"
        )
    if has_ort:
        return OrtBackend(path, "cpu", threads, reason=f"no GPU provider and no OpenVINO{why_not}")
    raise MissingDependency(
        "No inference engine is installed.", "Install one: pip install 'sdps[cpu]', or 'sdps[gpu]' on NVIDIA."
    )
