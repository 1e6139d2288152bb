"""OpenVINO on the CPU: the fastest engine measured there (docs of the project: CPU figures)."""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdps.core.console import need
from sdps.core.errors import ModelError
from sdps.core.frame import Image
from sdps.core.machine import cpu
from sdps.core.manifest import INPUT, OUTPUT
from sdps.core.means import MEANS_INPUT, MEANS_OUTPUT, Means, means_input
from sdps.runtime.backends.base import BlockingBackend, closed, integers
from sdps.runtime.backends.openvino_means import pool_means
from sdps.runtime.graph_file import read_graph

KEPT_SIZES = 4
"""Compiled sizes of a dynamic graph that are kept; each costs memory for its activations."""

STREAMS = 2
"""Pictures in flight, each on its share of the cores. All cores on one picture after the other restore
fewer a second, as their threads wait for one another at every layer (docs/backends.md). Each picture takes
as much memory as one alone, so there are no more of them where there are more cores."""

INTEGERS = ("i8", "u8")
"""How OpenVINO names what an integer kernel reads."""


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's `Core`, one for the process and never freed.

    A core gives the thread that first compiles a signal stack, and frees its memory with itself, in whatever
    thread and order that is; if it is not the reverse order in the same thread, the next signal (Ctrl-C)
    ends the process with a segmentation fault (OpenVINO 2026; tests/runtime/test_openvino_signals.py).
    """
    return need("openvino").Core()


@dataclass
class _Network:
    """The graph compiled for one size; `free` are the requests that nothing is in flight in."""

    compiled: Any
    free: list[Any] = field(default_factory=list)

    def request(self) -> Any:
        return self.free.pop() if self.free else self.compiled.create_infer_request()


@dataclass(frozen=True)
class _Ticket:
    network: _Network
    request: Any


class OpenVinoBackend(BlockingBackend):
    """Runs an ONNX graph in OpenVINO, compiled anew for each picture size (under a second).

    What `run` is given has all cores. Of what is begun ahead (`submit`) two run at a time.

    Args:
        path: The graph.
        threads: CPU threads; 0 leaves it to OpenVINO.

    Raises:
        ModelError: the graph is damaged or not sdps's.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.core = openvino_core()
        data, self.manifest = read_graph(path)
        # Some CPUs would run in bfloat16 unasked, which costs tenths of a decibel.
        self.options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            self.options["INFERENCE_NUM_THREADS"] = threads
        usable = cpu().usable
        self.depth = streams_for(min(threads or usable, usable))
        try:
            self.model = self.core.read_model(model=data)
        except Exception as error:
            raise ModelError(f"OpenVINO cannot load {path}: {str(error).splitlines()[0]}") from error
        self.compiled: OrderedDict[tuple[int, ...], _Network] = OrderedDict()
        self.name, self.reason = "openvino:CPU", ""

    def run(self, batch: Image) -> Image:
        return self._infer(batch, None)[0]

    def run_with(self, batch: Image, means: Means | None) -> tuple[Image, Means]:
        restored, found = self._infer(batch, means)
        return restored, found.reshape(-1)

    def submit(self, batch: Image) -> Any:
        if self.depth == 1:
            return super().submit(batch)
        network = self._network(batch.shape, self.depth)
        request = network.request()
        request.start_async(self._fed(batch, None))  # of which it makes a copy
        return _Ticket(network, request)

    def result(self, ticket: Any) -> Image:
        if not isinstance(ticket, _Ticket):
            return super().result(ticket)
        ticket.request.wait()
        restored = np.array(ticket.request.get_tensor(OUTPUT).data)
        ticket.network.free.append(ticket.request)
        return restored

    def one_at_a_time(self) -> bool:
        for key in [key for key in self.compiled if key[-1] > 1]:
            del self.compiled[key]
        return super().one_at_a_time()

    def arithmetic(self) -> str:
        if self.manifest.precision != "int8" or not self.compiled:
            return ""
        operations = next(reversed(self.compiled.values())).compiled.get_runtime_model().get_ops()
        facts = [operation.get_rt_info() for operation in operations]
        convolutions = [f["runtimePrecision"].value for f in facts if "onvolution" in f["layerType"].value]
        return integers(sum(precision in INTEGERS for precision in convolutions), self.manifest)

    def close(self) -> None:
        self.compiled.clear()
        self.model = None

    def _infer(self, batch: Image, means: Means | None) -> tuple[Image, Means]:
        """Pictures restored, and the means of a graph that tells them (of others none)."""
        network = self._network(batch.shape, 1)
        request = network.request()
        result = request.infer(self._fed(batch, means), share_inputs=True)
        network.free.append(request)
        found = np.array(result[MEANS_OUTPUT]) if self.manifest.tile_means else np.empty(0, np.float32)
        return np.array(result[OUTPUT]), found

    def _fed(self, batch: Image, means: Means | None) -> dict[str, Any]:
        count = self.manifest.tile_means
        return {INPUT: batch, MEANS_INPUT: means_input(count, means)} if count else {INPUT: batch}

    def _network(self, shape: tuple[int, ...], streams: int) -> _Network:
        key = (*shape, streams)
        if self.model is None:
            raise closed()
        if key not in self.compiled:
            model = self.model.clone()
            if model.input(INPUT).get_partial_shape().is_dynamic:
                model.reshape({INPUT: list(shape)})
            pool_means(model)
            while len(self.compiled) >= KEPT_SIZES:
                self.compiled.popitem(last=False)
            options = self.options
            if streams > 1:
                # Pinned, the first stream of one size and the first of another would share their cores.
                options = options | {"NUM_STREAMS": streams, "ENABLE_CPU_PINNING": False}
            self.compiled[key] = _Network(self.core.compile_model(model, "CPU", options))
        self.compiled.move_to_end(key)
        return self.compiled[key]


def streams_for(cores: int) -> int:
    """How many pictures are in flight on so many cores: each gets a whole number of them, and of a few
    none may be left over."""
    return STREAMS if cores % STREAMS == 0 or cores >= 3 * STREAMS else 1
