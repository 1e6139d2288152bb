"""The few CUDA calls that frames in flight need, over cuda-python, or over pycuda where only that is.

cuda-python (`cuda.bindings.runtime`) is NVIDIA's own and has CUDA graphs; pycuda has none, but is on
many Jetsons already. Every call is checked. Both use the GPU's primary context, as TensorRT does, so
streams and addresses mean the same to all of them.

Untested on a GPU so far; what needs no driver is tested.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sdps.core.errors import EngineError, MissingDependency
from sdps.core.frame import Image

INSTALL = "Install the binding of the driver's CUDA: pip install 'cuda-python==13.*' (12.6.* on JetPack 6)."


@dataclass(frozen=True)
class Pinned:
    """Page-locked memory of the host.

    Attributes:
        array: (nbytes,) uint8 over it, valid until `free`.
        address: Of the same memory as the GPU sees it; 0 where it was not mapped.
        free: Gives it back, once the GPU is done with it.
    """

    array: Image
    address: int
    free: Callable[[], None]


@dataclass(frozen=True)
class OnDevice:
    """Memory of the GPU: its address, and what gives it back once the GPU is done with it."""

    address: int
    free: Callable[[], None]


class Cuda(Protocol):
    """What both bindings can do. Streams, events and graphs are opaque; only `handle` looks inside.

    Attributes:
        name: Of the binding.
        integrated: CPU and GPU share their memory (Jetson), so mapped buffers save the copies.
        captures: Whether `capture` works.
    """

    name: str
    integrated: bool
    captures: bool

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        ...

    def event(self) -> Any:
        """An event whose waiter sleeps rather than spins, since cores are scarce."""
        ...

    def handle(self, stream: Any) -> int:
        """The stream as an address, as TensorRT takes it."""
        ...

    def pinned(self, nbytes: int, mapped: bool) -> Pinned: ...

    def device(self, nbytes: int) -> OnDevice: ...

    def upload(self, target: OnDevice, source: Pinned, nbytes: int, stream: Any) -> None: ...

    def download(self, target: Pinned, source: OnDevice, nbytes: int, stream: Any) -> None: ...

    def record(self, event: Any, stream: Any) -> None:
        """Marks the end of what the stream was given so far."""
        ...

    def wait(self, stream: Any, event: Any) -> None:
        """What the stream is given from now on begins after the event. Does not block the caller."""
        ...

    def synchronize(self, event: Any) -> None:
        """Blocks until the event has come; at once if it was never recorded."""
        ...

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """What `work` gives the stream, as a graph that is launched in one call; None if it cannot be."""
        ...

    def launch(self, graph: Any, stream: Any) -> None: ...

    def drop_graph(self, graph: Any) -> None: ...

    def close(self) -> None:
        """Waits for the GPU, and frees streams and events. Buffers are freed by their own `free` before."""
        ...


def open_cuda() -> Cuda:
    """The first GPU through whichever binding is installed, cuda-python before pycuda.

    Raises:
        MissingDependency: neither is installed.
        EngineError: there is no driver or no GPU, or the driver is older than the binding.
    """
    # In two steps, as looking for a.b imports a.
    if importlib.util.find_spec("cuda") and importlib.util.find_spec("cuda.bindings"):
        return CudaPython()
    if importlib.util.find_spec("pycuda"):
        from sdps.runtime.cuda_pycuda import PyCuda

        return PyCuda()
    raise MissingDependency("Neither cuda-python nor pycuda is installed.", INSTALL)


class CudaPython:
    """`Cuda` over cuda-python. May be used from any thread, one at a time.

    Raises:
        EngineError: no driver, no GPU, or a driver older than the binding.
    """

    name, captures = "cuda-python", True

    def __init__(self) -> None:
        self.rt: Any = importlib.import_module("cuda.bindings.runtime")
        kinds = self.rt.cudaMemcpyKind
        self.to_device, self.to_host = kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost
        self._streams: list[Any] = []
        self._events: list[Any] = []
        try:
            count = self._call("cudaGetDeviceCount")
        except EngineError as error:
            raise EngineError(f"CUDA does not start: {error.message}", INSTALL) from None
        if not count:
            raise EngineError("CUDA finds no GPU.", "Is the driver loaded, and CUDA_VISIBLE_DEVICES right?")
        self._call("cudaSetDevice", 0)
        self._call("cudaFree", 0)  # creates the primary context, where a failure is easiest to understand
        attribute = self.rt.cudaDeviceAttr.cudaDevAttrIntegrated
        self.integrated = bool(self._call("cudaDeviceGetAttribute", attribute, 0))

    def _call(self, function: str, *args: Any) -> Any:
        """Calls; the bindings return the error code and then the results.

        Raises:
            EngineError: any other code than success, with CUDA's own words.
        """
        code, *values = getattr(self.rt, function)(*args)
        if code != self.rt.cudaError_t.cudaSuccess:
            words = self.rt.cudaGetErrorString(code)[1]
            text = words.decode() if isinstance(words, bytes) else str(words)
            raise EngineError(f"{function}: {text} ({code.name}).")
        return values[0] if values else None

    def stream(self) -> Any:
        self._streams.append(self._call("cudaStreamCreateWithFlags", self.rt.cudaStreamNonBlocking))
        return self._streams[-1]

    def event(self) -> Any:
        flags = self.rt.cudaEventBlockingSync | self.rt.cudaEventDisableTiming
        self._events.append(self._call("cudaEventCreateWithFlags", flags))
        return self._events[-1]

    def handle(self, stream: Any) -> int:
        return int(stream)

    def pinned(self, nbytes: int, mapped: bool) -> Pinned:
        flags = self.rt.cudaHostAllocMapped if mapped else self.rt.cudaHostAllocDefault
        host = int(self._call("cudaHostAlloc", nbytes, flags))
        address = int(self._call("cudaHostGetDevicePointer", host, 0)) if mapped else 0
        array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(host))
        return Pinned(array, address, lambda: self._call("cudaFreeHost", host))

    def device(self, nbytes: int) -> OnDevice:
        address = int(self._call("cudaMalloc", nbytes))
        return OnDevice(address, lambda: self._call("cudaFree", address))

    def upload(self, target: OnDevice, source: Pinned, nbytes: int, stream: Any) -> None:
        host = source.array.ctypes.data
        self._call("cudaMemcpyAsync", target.address, host, nbytes, self.to_device, stream)

    def download(self, target: Pinned, source: OnDevice, nbytes: int, stream: Any) -> None:
        host = target.array.ctypes.data
        self._call("cudaMemcpyAsync", host, source.address, nbytes, self.to_host, stream)

    def record(self, event: Any, stream: Any) -> None:
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: Any, event: Any) -> None:
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def synchronize(self, event: Any) -> None:
        self._call("cudaEventSynchronize", event)

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        # Thread-local: what other threads do with the GPU meanwhile is neither recorded nor forbidden.
        self._call(
            "cudaStreamBeginCapture", stream, self.rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        failed = False
        try:
            work()
        except EngineError:
            failed = True
        finally:
            # Also after a failure, or the stream would stay in capture mode.
            code, graph = self.rt.cudaStreamEndCapture(stream)
        if code != self.rt.cudaError_t.cudaSuccess:
            self.rt.cudaGetLastError()  # it is told; later calls must not stumble over it
            return None
        try:
            # What an engine gave the stream before it failed is a graph too, and has to be destroyed.
            return None if failed else self._call("cudaGraphInstantiate", graph, 0)
        except EngineError:
            self.rt.cudaGetLastError()
            return None
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def drop_graph(self, graph: Any) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        for stream in self._streams:
            self._call("cudaStreamSynchronize", stream)
            self._call("cudaStreamDestroy", stream)
        for event in self._events:
            self._call("cudaEventDestroy", event)
        self._streams, self._events = [], []
