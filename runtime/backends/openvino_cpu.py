"""OpenVINO on the CPU: the fastest engine measured there (docs of the project: CPU figures)."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from sdps.core.console import need
from sdps.core.errors import ModelError
from sdps.core.frame import Image
from sdps.core.manifest import INPUT, OUTPUT
from sdps.core.means import MEANS_INPUT, MEANS_OUTPUT, Means, means_input
from sdps.runtime.backends.base import BlockingBackend, integers
from sdps.runtime.backends.openvino_means import pool_means
from sdps.runtime.graph_file import read_graph

KEPT_SIZES = 4
"""Compiled sizes of a dynamic graph that are kept; each costs memory for its activations."""

INTEGERS = ("i8", "u8")
"""How OpenVINO names what an integer kernel reads."""


class OpenVinoBackend(BlockingBackend):
    """Runs an ONNX graph in OpenVINO, compiled anew for each picture size (under a second).

    Args:
        path: The graph.
        threads: CPU threads; 0 leaves it to OpenVINO.

    Raises:
        ModelError: the graph is damaged or not sdps's.
    """

    def __init__(self, path: Path, threads: int = 0, reason: str = "") -> None:
        ov = need("openvino")
        data, self.manifest = read_graph(path)
        self.core = ov.Core()
        # Some CPUs would run in bfloat16 unasked, which costs tenths of a decibel.
        self.options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            self.options["INFERENCE_NUM_THREADS"] = threads
        try:
            self.model = self.core.read_model(model=data)
        except Exception as error:
            raise ModelError(f"OpenVINO cannot load {path}: {str(error).splitlines()[0]}") from error
        self.compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self.name, self.reason = "openvino:CPU", reason

    def run(self, batch: Image) -> Image:
        return self._infer(batch, None)[0]

    def run_with(self, batch: Image, means: Means | None) -> tuple[Image, Means]:
        restored, found = self._infer(batch, means)
        return restored, found.reshape(-1)

    def _infer(self, batch: Image, means: Means | None) -> tuple[Image, Means]:
        """Pictures restored, and the means of a graph that tells them (of others none)."""
        fed: dict[str, Any] = {INPUT: batch}
        if count := self.manifest.tile_means:
            fed[MEANS_INPUT] = means_input(count, means)
        result = self._request(batch.shape).infer(fed, share_inputs=True)
        found = np.array(result[MEANS_OUTPUT]) if count else np.empty(0, np.float32)
        return np.array(result[OUTPUT]), found

    def _request(self, shape: tuple[int, ...]) -> Any:
        if shape not in self.compiled:
            model = self.model.clone()
            if model.input(INPUT).get_partial_shape().is_dynamic:
                model.reshape({INPUT: list(shape)})
            pool_means(model)
            while len(self.compiled) >= KEPT_SIZES:
                self.compiled.popitem(last=False)
            self.compiled[shape] = self.core.compile_model(model, "CPU", self.options).create_infer_request()
        self.compiled.move_to_end(shape)
        return self.compiled[shape]

    def arithmetic(self) -> str:
        if self.manifest.precision != "int8" or not self.compiled:
            return ""
        network = next(reversed(self.compiled.values())).get_compiled_model().get_runtime_model()
        facts = [operation.get_rt_info() for operation in network.get_ops()]
        convolutions = [f["runtimePrecision"].value for f in facts if "onvolution" in f["layerType"].value]
        return integers(sum(precision in INTEGERS for precision in convolutions), self.manifest)

    def close(self) -> None:
        self.compiled.clear()
