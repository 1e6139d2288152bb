"""Batches in flight between host and GPU: while one is computed, the next is copied in and the last out.

Three streams (in, compute, out) joined by events. Each slot owns its buffers, and a slot is used again
only after its event `done`, so nothing is overwritten that the GPU still reads or writes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdps.core.errors import EngineError
from sdps.core.frame import Image
from sdps.runtime.cuda import Cuda, OnDevice, Pinned

Enqueue = Callable[[int, int, tuple[int, ...], int], None]
"""enqueue(input address, output address, shape, stream handle): gives the stream one inference of a
uint8 batch, without waiting for it. Raises EngineError if it cannot."""


@dataclass
class Slot:
    """The buffers of one batch, owned by `InFlight`, and its three events.

    Attributes:
        host_in, host_out: Pinned; on shared memory mapped, and then the GPU's own buffers too.
        dev_in, dev_out: On the GPU; None where the host's are mapped.
        arrived, computed, done: After the copy in, the inference, and everything.
        capacity: Bytes of each buffer.
        ticket: Of the batch in flight, -1 for none.
        shape: Of the batch in flight.
        graph: The inference captured for this slot's addresses and the present shape.
        runs: Inferences since the shape last changed.
    """

    arrived: Any
    computed: Any
    done: Any
    host_in: Pinned | None = None
    host_out: Pinned | None = None
    dev_in: OnDevice | None = None
    dev_out: OnDevice | None = None
    capacity: int = 0
    ticket: int = -1
    shape: tuple[int, ...] = field(default=())
    graph: Any = None
    runs: int = 0

    def addresses(self) -> tuple[int, int]:
        """Where the engine reads and writes."""
        assert self.host_in and self.host_out
        if self.dev_in and self.dev_out:
            return self.dev_in.address, self.dev_out.address
        return self.host_in.address, self.host_out.address

    def free(self) -> None:
        """Gives the buffers back; nothing may be in flight."""
        for buffer in (self.host_in, self.host_out, self.dev_in, self.dev_out):
            if buffer:
                buffer.free()
        self.host_in = self.host_out = self.dev_in = self.dev_out = None
        self.capacity = 0


class InFlight:
    """Runs uint8 batches through `enqueue`, up to `depth` at a time.

    Not thread-safe: one thread at a time.

    Args:
        cuda: Made by `open_cuda`; closed by `close`.
        enqueue: Gives one inference to a stream. The output has the shape of the input.
        depth: Batches in flight.
        graphs: Launch the inference as a CUDA graph from the third batch of one shape on. The first
            goes to each slot plainly, since TensorRT sets things up then (its guide, CUDA graphs).

    Raises:
        EngineError: a CUDA call fails.
    """

    def __init__(self, cuda: Cuda, enqueue: Enqueue, depth: int = 2, graphs: bool = False) -> None:
        self.cuda, self.enqueue, self.graphs = cuda, enqueue, graphs and cuda.captures
        self.mapped = cuda.integrated
        self.up, self.compute, self.down = cuda.stream(), cuda.stream(), cuda.stream()
        self.slots = [Slot(cuda.event(), cuda.event(), cuda.event()) for _ in range(depth)]
        self.shape: tuple[int, ...] = ()
        self._next = 0
        self._kept: OrderedDict[int, Image] = OrderedDict()

    def submit(self, batch: Image) -> int:
        """Starts on a batch and returns a ticket for `result`.

        Args:
            batch: uint8, any shape, C-contiguous; copied before this returns, so the caller may reuse it.

        A batch whose slot comes round again before its result was asked for is waited for and kept
        (the tiles of a picture may overtake the picture before it); of those, the latest `depth`.
        """
        slot = self.slots[self._next % len(self.slots)]
        if slot.ticket >= 0:
            ticket = slot.ticket
            self._kept[ticket] = self._take(slot)
            if len(self._kept) > len(self.slots):
                self._kept.popitem(last=False)
        if batch.shape != self.shape:
            self._begin_shape(batch.shape)
        self._reserve(slot, batch.nbytes)
        assert slot.host_in and slot.host_out
        slot.host_in.array[: batch.nbytes] = batch.reshape(-1)
        if slot.dev_in and slot.dev_out:
            self.cuda.upload(slot.dev_in, slot.host_in, batch.nbytes, self.up)
            self.cuda.record(slot.arrived, self.up)
            self.cuda.wait(self.compute, slot.arrived)
            self._infer(slot)
            self.cuda.record(slot.computed, self.compute)
            self.cuda.wait(self.down, slot.computed)
            self.cuda.download(slot.host_out, slot.dev_out, batch.nbytes, self.down)
            self.cuda.record(slot.done, self.down)
        else:
            self._infer(slot)
            self.cuda.record(slot.done, self.compute)
        slot.ticket, slot.shape = self._next, batch.shape
        self._next += 1
        return slot.ticket

    def result(self, ticket: int) -> Image:
        """Waits for a batch; the array is the caller's.

        Raises:
            EngineError: the GPU failed, or the ticket was asked for before or too late.
        """
        if ticket in self._kept:
            return self._kept.pop(ticket)
        slot = self.slots[ticket % len(self.slots)]
        if slot.ticket != ticket:
            raise EngineError("This result is not there any more.", "Ask for each ticket once, and in order.")
        return self._take(slot)

    def keep_one_slot(self) -> None:
        """Frees the buffers of all slots but one; no ticket may be out."""
        for slot in self.slots[1:]:
            self._wait(slot)
            self._drop_graph(slot)
            slot.free()
        del self.slots[1:]

    def close(self) -> None:
        """Waits for what is in flight and frees everything. Calling it again does nothing."""
        for slot in self.slots:
            self._wait(slot)
            self._drop_graph(slot)
            slot.free()
        if self.slots:
            self.slots = []
            self.cuda.close()

    def _begin_shape(self, shape: tuple[int, ...]) -> None:
        """Lets everything finish before the engine is given another shape; results stay to be collected."""
        for slot in self.slots:
            if slot.ticket >= 0:
                self.cuda.synchronize(slot.done)
            self._drop_graph(slot)
            slot.runs = 0
        self.shape = shape

    def _reserve(self, slot: Slot, nbytes: int) -> None:
        if slot.capacity >= nbytes:
            return
        slot.free()
        slot.host_in = self.cuda.pinned(nbytes, self.mapped)
        slot.host_out = self.cuda.pinned(nbytes, self.mapped)
        if not self.mapped:
            slot.dev_in, slot.dev_out = self.cuda.device(nbytes), self.cuda.device(nbytes)
        slot.capacity = nbytes

    def _infer(self, slot: Slot) -> None:
        def enqueue() -> None:
            self.enqueue(*slot.addresses(), self.shape, self.cuda.handle(self.compute))

        if self.graphs and slot.runs == 1:
            slot.graph = self.cuda.capture(self.compute, enqueue)
            self.graphs = slot.graph is not None  # what cannot be captured once never can
        if slot.graph is not None:
            self.cuda.launch(slot.graph, self.compute)
        else:
            enqueue()
        slot.runs += 1

    def _take(self, slot: Slot) -> Image:
        """The slot's result as an array of its own; the slot is free then."""
        self._wait(slot)
        assert slot.host_out
        size = int(np.prod(slot.shape))
        return slot.host_out.array[:size].reshape(slot.shape).copy()

    def _wait(self, slot: Slot) -> None:
        if slot.ticket >= 0:
            slot.ticket = -1
            self.cuda.synchronize(slot.done)

    def _drop_graph(self, slot: Slot) -> None:
        if slot.graph is not None:
            self.cuda.drop_graph(slot.graph)
            slot.graph = None
