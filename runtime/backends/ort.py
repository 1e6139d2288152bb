"""ONNX Runtime: on the CPU, and through its CUDA and TensorRT providers.

The GPU providers are untested here, beyond that their options are accepted in form and their absence is said.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdps.core.cache import cache_folder
from sdps.core.console import need
from sdps.core.errors import ModelError, SdpsError
from sdps.core.frame import Image
from sdps.core.manifest import INPUT, OUTPUT, GraphManifest
from sdps.core.means import MEANS_INPUT, MEANS_OUTPUT, Means, means_input
from sdps.core.spec import ShapeRange, Size
from sdps.runtime.backends.base import BlockingBackend, closed, integers
from sdps.runtime.graph_file import read_graph

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
CHAINS = {"cpu": [CPU], "cuda": [CUDA, CPU], "tensorrt": [TENSORRT, CUDA, CPU]}
TRT_RANGE = ShapeRange(Size(64, 64), Size(720, 1280), Size(1088, 1920))
"""Sizes of the one engine that the TensorRT provider makes of a dynamic graph; larger pictures are
tiled. Without it the provider builds again, for minutes, at each size that it has not seen."""

FLOATING = "session.disable_quant_qdq"
"""The session option that makes it compute Q and DQ as they are written, and multiply in floating point. With
those of activations dropped (session.enable_quant_qdq_cleanup) it would be as fast as FP32, but they clip as
well, which a fine-tuned network has learnt to rest on: a tile then lost 2.4 dB (docs/int8.md)."""


class OrtBackend(BlockingBackend):
    """Runs an ONNX graph in ONNX Runtime.

    INT8 graphs are computed in floating point, rounded where they say so, as the export verified them: on
    the CPU it multiplies integers only where a Q follows the convolution directly, which graphs with
    TensorRT's placement hardly have, gains nothing by it, and saturates without VNNI (docs/int8.md);
    through CUDA it never does (untested). TensorRT's provider gets them as they are.

    Args:
        path: The graph.
        device: 'cpu', 'cuda' or 'tensorrt' (the execution provider, which builds its own engine at
            the first picture, for minutes, and keeps it in the user's cache folder).
        threads: CPU threads; 0 leaves it to ONNX Runtime (one per core).

    Raises:
        ModelError: the graph is damaged or not sdps's.
        SdpsError: the provider is not in the installed build, or does not load.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int = 0) -> None:
        self.ort = need("onnxruntime")
        data, self.manifest = read_graph(path)
        wanted = CHAINS[device]
        if wanted[0] not in self.ort.get_available_providers():
            raise SdpsError(
                f"The installed ONNX Runtime has no {wanted[0]}.",
                "Install the GPU build: pip uninstall onnxruntime; pip install 'sdps[gpu]'",
            )
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # its warnings speak of its own optimisations
        # It keeps a memory plan for each size that it ever saw: measured +70 MB in 100 sizes, +10 without.
        options.enable_mem_pattern = self.manifest.fixed_size is not None
        self.multiplies_floats = device != "tensorrt" and self.manifest.precision == "int8"
        if self.multiplies_floats:
            options.add_session_config_entry(FLOATING, "1")
        if device != "cpu":
            self._preload()
        try:
            self._session: Any = self.ort.InferenceSession(
                data, options, providers=[(name, provider_options(name, self.manifest)) for name in wanted]
            )
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}") from error
        # It falls back to the CPU in silence; a user who asked for a GPU must hear of it.
        if self.session.get_providers()[0] != wanted[0]:
            raise SdpsError(
                f"{wanted[0]} does not load on this machine.",
                "Are the GPU's driver, CUDA and cuDNN installed? Use --provider cpu meanwhile.",
            )
        self.device = device
        if device == "tensorrt" and self.manifest.fixed_size is None:
            self.limits: Sequence[ShapeRange] = (TRT_RANGE,)
        self.name, self.reason = f"onnxruntime:{device.upper()}", ""
        self._bound: tuple[Any, Any, Any] | None = None
        self._shape: tuple[int, ...] = ()

    @property
    def session(self) -> Any:
        """ONNX Runtime's. Raises an SdpsError if it is closed."""
        if self._session is None:
            raise closed()
        return self._session

    def run(self, batch: Image) -> Image:
        if self.manifest.tile_means:
            return self._run_means(batch, None)[0]
        if self.device == "cpu":
            result: Image = self.session.run(None, {INPUT: batch})[0]
            return result
        return self._run_bound(batch)

    def run_with(self, batch: Image, means: Means | None) -> tuple[Image, Means]:
        restored, found = self._run_means(batch, means)
        return restored, found.reshape(-1)

    def _run_means(self, batch: Image, means: Means | None) -> tuple[Image, Means]:
        given = means_input(self.manifest.tile_means, means)
        restored, found = self.session.run([OUTPUT, MEANS_OUTPUT], {INPUT: batch, MEANS_INPUT: given})
        return restored, found

    def arithmetic(self) -> str:
        return integers(0, self.manifest) if self.multiplies_floats else ""

    def close(self) -> None:
        self._bound = self._session = None

    def _run_bound(self, batch: Image) -> Image:
        """Input and output stay at the same place on the GPU for all pictures of one size."""
        if self._bound is None or batch.shape != self._shape:
            self._bound = None  # frees the earlier ones first
            source = self.ort.OrtValue.ortvalue_from_numpy(batch, "cuda", 0)
            target = self.ort.OrtValue.ortvalue_from_shape_and_type(batch.shape, np.uint8, "cuda", 0)
            binding = self.session.io_binding()
            binding.bind_ortvalue_input(INPUT, source)
            binding.bind_ortvalue_output(OUTPUT, target)
            self._bound, self._shape = (binding, source, target), batch.shape
        binding, source, target = self._bound
        source.update_inplace(batch)
        self.session.run_with_iobinding(binding)  # returns when the output is there
        result: Image = target.numpy()  # a copy in host memory
        return result

    def _preload(self) -> None:
        """Loads CUDA and cuDNN from NVIDIA's own wheels, if they are there (ONNX Runtime 1.21 and later)."""
        if hasattr(self.ort, "preload_dlls"):
            with contextlib.redirect_stdout(sys.stderr):  # it prints, and standard output may be a video
                self.ort.preload_dlls()


def provider_options(provider: str, manifest: GraphManifest) -> dict[str, str]:
    """A provider's options for a graph. Precision is what the graph says, so no option changes it."""
    if provider == CUDA:
        options = {"device_id": "0", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
        if manifest.fixed_size is None:  # an exhaustive search at every new size would stall a stream
            options["cudnn_conv_algo_search"] = "HEURISTIC"
        return options
    if provider == TENSORRT:
        folder = str(cache_folder() / "ort-tensorrt")
        options = {
            "device_id": "0",
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": folder,
        }
        if manifest.fixed_size is None:
            for which, size in (("min", TRT_RANGE.min), ("opt", TRT_RANGE.opt), ("max", TRT_RANGE.max)):
                options[f"trt_profile_{which}_shapes"] = f"{INPUT}:1x{size.height}x{size.width}x3"
        return options
    return {}
