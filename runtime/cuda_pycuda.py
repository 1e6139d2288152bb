"""`Cuda` over pycuda, for machines (often Jetsons) that have no cuda-python. It knows no CUDA graphs.

pycuda has no wheels: it is compiled where it is installed, so this file was never run here.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sdps.core.errors import EngineError
from sdps.runtime.cuda import OnDevice, Pinned


class PyCuda:
    """`Cuda` over pycuda. May be used from any thread, one at a time.

    pycuda wants its context current in the calling thread, so each call makes the primary context
    current and lets it go again.

    Raises:
        EngineError: no driver or no GPU.
    """

    name, captures = "pycuda", False

    def __init__(self) -> None:
        try:
            self.driver: Any = importlib.import_module("pycuda.driver")
            self.driver.init()
            device = self.driver.Device(0)
            self.context = device.retain_primary_context()
            self.integrated = bool(device.get_attribute(self.driver.device_attribute.INTEGRATED))
        except Exception as error:  # ImportError without the driver's library, pycuda.driver.Error else
            raise EngineError(f"CUDA does not start: {error}.", "Is the GPU's driver installed?") from None

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """The context, current in this thread; pycuda's errors as EngineError."""
        self.context.push()
        try:
            yield
        except self.driver.Error as error:
            raise EngineError(f"CUDA: {error}.") from error
        finally:
            self.context.pop()

    def stream(self) -> Any:
        # pycuda's streams are non-blocking only by their flags, CU_STREAM_NON_BLOCKING = 1.
        with self._current():
            return self.driver.Stream(1)

    def event(self) -> Any:
        flags = self.driver.event_flags
        with self._current():
            return self.driver.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING)

    def handle(self, stream: Any) -> int:
        return int(stream.handle)

    def pinned(self, nbytes: int, mapped: bool) -> Pinned:
        flags = self.driver.host_alloc_flags.DEVICEMAP if mapped else 0
        with self._current():
            array = self.driver.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
            address = int(array.base.get_device_pointer()) if mapped else 0
        return Pinned(array, address, lambda: self._free(array.base))

    def device(self, nbytes: int) -> OnDevice:
        with self._current():
            allocation = self.driver.mem_alloc(nbytes)
        return OnDevice(int(allocation), lambda: self._free(allocation))

    def _free(self, allocation: Any) -> None:
        with self._current():
            allocation.free()

    def upload(self, target: OnDevice, source: Pinned, nbytes: int, stream: Any) -> None:
        with self._current():
            self.driver.memcpy_htod_async(target.address, source.array[:nbytes], stream)

    def download(self, target: Pinned, source: OnDevice, nbytes: int, stream: Any) -> None:
        with self._current():
            self.driver.memcpy_dtoh_async(target.array[:nbytes], source.address, stream)

    def record(self, event: Any, stream: Any) -> None:
        with self._current():
            event.record(stream)

    def wait(self, stream: Any, event: Any) -> None:
        with self._current():
            stream.wait_for_event(event)

    def synchronize(self, event: Any) -> None:
        with self._current():
            event.synchronize()

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        return None

    def launch(self, graph: Any, stream: Any) -> None:
        raise AssertionError("pycuda captures no graphs")

    def drop_graph(self, graph: Any) -> None:
        raise AssertionError("pycuda captures no graphs")

    def close(self) -> None:
        """Waits for the GPU; pycuda frees the rest itself, when nothing refers to it."""
        with self._current():
            self.driver.Context.synchronize()
