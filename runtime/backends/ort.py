"""ONNX Runtime: on the CPU, and through its CUDA and TensorRT providers."""

from __future__ import annotations

from pathlib import Path

from sdps.core.console import need
from sdps.core.errors import ModelError, SdpsError
from sdps.core.frame import Image
from sdps.core.manifest import INPUT
from sdps.runtime.graph_file import read_graph

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


class OrtBackend:
    """Runs an ONNX graph in ONNX Runtime.

    Args:
        path: The graph.
        device: 'cpu', 'cuda' or 'tensorrt' (the execution provider, which builds its own engine).
        threads: CPU threads; 0 leaves it to ONNX Runtime (one per core).

    Raises:
        ModelError: the graph is damaged or not sdps's.
        SdpsError: the provider is not in the installed build, or does not load.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int = 0, reason: str = "") -> None:
        ort = need("onnxruntime")
        data, self.manifest = read_graph(path)
        wanted = PROVIDERS[device]
        if wanted[0] not in ort.get_available_providers():
            raise SdpsError(
                f"The installed ONNX Runtime has no {wanted[0]}.",
                "Install the GPU build: pip uninstall onnxruntime; pip install 'sdps[gpu]'",
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # One block planned for all activations costs a third more memory and saves no time (docs/export.md).
        options.enable_mem_pattern = False
        options.log_severity_level = 3  # its warnings speak of its own optimisations
        try:
            self.session = ort.InferenceSession(data, options, providers=wanted)
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}") from error
        # It falls back to the CPU in silence; a user who asked for a GPU must hear of it.
        if self.session.get_providers()[0] != wanted[0]:
            raise SdpsError(
                f"{wanted[0]} does not load on this machine.",
                "Are the GPU's driver, CUDA and cuDNN installed? Use --provider cpu meanwhile.",
            )
        self.name, self.reason = f"onnxruntime:{device.upper()}", reason

    def run(self, batch: Image) -> Image:
        result: Image = self.session.run(None, {INPUT: batch})[0]
        return result

    def close(self) -> None:
        self.__dict__.pop("session", None)
