"""Frames in flight on a GPU that is as late as CUDA allows: whatever no event orders, it does last."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sdps.core.errors import EngineError
from sdps.core.frame import Image
from sdps.core.spec import ShapeRange, Size
from sdps.runtime.backends.identity import IdentityBackend
from sdps.runtime.cuda import OnDevice, Pinned
from sdps.runtime.derainer import Derainer
from sdps.runtime.in_flight import InFlight


class Event:
    """`done` counts up to `recorded` as the streams get to the records."""

    def __init__(self) -> None:
        self.recorded = self.done = 0


class LazyCuda:
    """The promises of CUDA and no more: each stream works in order, and streams know each other by
    events only. Work is done when a synchronisation demands it, streams taking turns at random."""

    name, captures = "lazy", True

    def __init__(self, integrated: bool, seed: int) -> None:
        self.integrated, self.random = integrated, random.Random(seed)
        self.streams: list[list[Callable[[], bool]]] = []
        self.memory: dict[int, Image] = {}
        self.capturing: list[Callable[[], None]] | None = None
        self.launched = self.freed = 0

    def stream(self) -> Any:
        self.streams.append([])
        return self.streams[-1]

    def event(self) -> Any:
        return Event()

    def handle(self, stream: Any) -> int:
        return next(i for i, known in enumerate(self.streams) if known is stream)

    def give(self, stream: Any, work: Callable[[], None]) -> None:
        if self.capturing is not None:
            self.capturing.append(work)
            return
        stream.append(lambda: (work(), True)[1])

    def _memory(self, nbytes: int) -> tuple[Image, int, Callable[[], None]]:
        address = 4096 * (len(self.memory) + 1)
        self.memory[address] = np.full(nbytes, 77, np.uint8)

        def free() -> None:
            self.memory[address][:] = 13  # who still reads it will be found out
            self.freed += 1

        return self.memory[address], address, free

    def pinned(self, nbytes: int, mapped: bool) -> Pinned:
        array, address, free = self._memory(nbytes)
        return Pinned(array, address if mapped else 0, free)

    def device(self, nbytes: int) -> OnDevice:
        _, address, free = self._memory(nbytes)
        return OnDevice(address, free)

    def upload(self, target: OnDevice, source: Pinned, nbytes: int, stream: Any) -> None:
        self.give(stream, lambda: np.copyto(self.memory[target.address][:nbytes], source.array[:nbytes]))

    def download(self, target: Pinned, source: OnDevice, nbytes: int, stream: Any) -> None:
        self.give(stream, lambda: np.copyto(target.array[:nbytes], self.memory[source.address][:nbytes]))

    def record(self, event: Any, stream: Any) -> None:
        event.recorded += 1
        number = event.recorded
        self.give(stream, lambda: setattr(event, "done", number))

    def wait(self, stream: Any, event: Any) -> None:
        number = event.recorded
        stream.append(lambda: event.done >= number)

    def synchronize(self, event: Any) -> None:
        while event.done < event.recorded:
            busy = [stream for stream in self.streams if stream]
            stream = self.random.choice(busy)
            if stream[0]():
                stream.pop(0)

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        self.capturing = []
        try:
            work()
            return self.capturing
        finally:
            self.capturing = None

    def launch(self, graph: Any, stream: Any) -> None:
        self.launched += 1
        for work in graph:
            self.give(stream, work)

    def drop_graph(self, graph: Any) -> None:
        graph.clear()

    def close(self) -> None:
        for stream in self.streams:
            while stream:
                assert stream.pop(0)()


def inverting(cuda: LazyCuda) -> Callable[[int, int, tuple[int, ...], int], None]:
    """An engine that turns pictures into their negatives, in the stream's own time."""

    def enqueue(source: int, target: int, shape: tuple[int, ...], stream: int) -> None:
        size = int(np.prod(shape))

        def work() -> None:
            cuda.memory[target][:size] = 255 - cuda.memory[source][:size]

        cuda.give(cuda.streams[stream], work)

    return enqueue


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_frame_touches_another_whatever_order_the_gpu_takes(integrated: bool, depth: int) -> None:
    for seed in range(8):
        cuda = LazyCuda(integrated, seed)
        flight = InFlight(cuda, inverting(cuda), depth, graphs=True)
        shapes = [(1, 8, 12, 3)] * 9 + [(1, 4, 4, 3)] * 5 + [(1, 16, 12, 3)] * 9
        batches = [
            np.random.default_rng(i).integers(0, 256, shape, np.uint8) for i, shape in enumerate(shapes)
        ]
        out: list[tuple[int, int]] = []
        for i, batch in enumerate(batches):
            scratch = batch.copy()
            out.append((i, flight.submit(scratch)))
            scratch[:] = 0  # the caller's again, as promised
            if len(out) == depth:
                number, ticket = out.pop(0)
                assert np.array_equal(flight.result(ticket), 255 - batches[number])
        for number, ticket in out:
            assert np.array_equal(flight.result(ticket), 255 - batches[number])
        assert cuda.launched > 0, "graphs were used"
        flight.close()
        assert cuda.freed == len(cuda.memory)


def test_a_result_is_the_callers_and_is_given_once() -> None:
    cuda = LazyCuda(False, 0)
    flight = InFlight(cuda, inverting(cuda), 2)
    first = flight.submit(np.zeros((1, 4, 4, 3), np.uint8))
    clean = flight.result(first)
    flight.result(flight.submit(np.full((1, 4, 4, 3), 9, np.uint8)))
    flight.result(flight.submit(np.full((1, 4, 4, 3), 9, np.uint8)))
    assert clean.min() == clean.max() == 255
    with pytest.raises(EngineError, match="not there any more"):
        flight.result(first)


def test_results_that_nobody_fetched_do_not_block_later_ones() -> None:
    cuda = LazyCuda(False, 0)
    flight = InFlight(cuda, inverting(cuda), 2)
    lost, *_ = [flight.submit(np.full((1, 4, 4, 3), i, np.uint8)) for i in range(5)]
    assert flight.result(flight.submit(np.full((1, 4, 4, 3), 200, np.uint8))).max() == 55
    with pytest.raises(EngineError):
        flight.result(lost)
    flight.close()
    flight.close()


class Negative(IdentityBackend):
    """An engine of small pictures over that GPU."""

    depth = 2
    limits = (ShapeRange(Size(8, 8), Size(8, 8), Size(32, 32)),)

    def __init__(self) -> None:
        super().__init__()
        cuda = LazyCuda(False, 3)
        self.flight = InFlight(cuda, inverting(cuda), self.depth, graphs=True)

    def submit(self, batch: Image) -> int:
        return self.flight.submit(batch)

    def result(self, ticket: int) -> Image:
        return self.flight.result(ticket)


def test_pictures_in_tiles_do_not_push_those_before_and_after_out() -> None:
    derainer, waiting = Derainer(Negative()), []
    sizes = [(20, 20), (90, 70), (20, 20), (9, 31), (64, 64), (8, 8)]
    for i, size in enumerate(sizes):
        image = np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)
        waiting.append((image, derainer.begin(image)))
        if len(waiting) == derainer.depth:
            image, wait = waiting.pop(0)
            assert np.array_equal(wait(), 255 - image)
    assert all(np.array_equal(wait(), 255 - image) for image, wait in waiting)


def test_with_one_slot_left_batches_go_one_at_a_time() -> None:
    cuda = LazyCuda(False, 0)
    flight = InFlight(cuda, inverting(cuda), 2, graphs=True)
    batches = [np.full((1, 4, 4, 3), i, np.uint8) for i in range(7)]
    for batch in batches:
        assert np.array_equal(flight.result(flight.submit(batch)), 255 - batch)
    before = cuda.freed
    flight.keep_one_slot()
    assert len(flight.slots) == 1 and cuda.freed > before
    for batch in batches:
        assert np.array_equal(flight.result(flight.submit(batch)), 255 - batch)
    flight.close()
    assert cuda.freed == len(cuda.memory)


def test_an_engine_that_fails_leaves_the_next_frame_alone() -> None:
    cuda = LazyCuda(False, 0)
    works = inverting(cuda)
    failing = [True]

    def enqueue(*arguments: Any) -> None:
        if failing[0]:
            raise EngineError("it failed")
        works(*arguments)

    flight = InFlight(cuda, enqueue, 2)
    with pytest.raises(EngineError, match="it failed"):
        flight.submit(np.zeros((1, 4, 4, 3), np.uint8))
    failing[0] = False
    assert flight.result(flight.submit(np.full((1, 4, 4, 3), 5, np.uint8))).max() == 250
