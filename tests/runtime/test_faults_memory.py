"""A model that finds no memory: fault 35."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from sdps import Derainer
from sdps.core.errors import EngineError
from sdps.core.frame import Image
from sdps.runtime.backends.identity import IdentityBackend
from sdps.runtime.events import Events
from sdps.runtime.guard import Guard
from sdps.runtime.memory import is_out_of_memory

MakePicture = Callable[[int, int], Image]


class SmallMemory(IdentityBackend):
    """Runs pictures up to so many pixels; beyond, fails as ONNX Runtime does."""

    def __init__(self, pixels: int, size: str = "dynamic") -> None:
        super().__init__(size)
        self.pixels = pixels
        self.largest = 0

    def run(self, batch: Image) -> Image:
        if batch[0, ..., 0].size > self.pixels:
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bad allocation")
        self.largest = max(self.largest, batch[0, ..., 0].size)
        return super().run(batch)


def test_fault_35_out_of_memory_means_smaller_tiles_from_then_on(picture: MakePicture) -> None:
    image, events, said = picture(400, 600), Events(), []
    events.listen(said.append)
    derainer = Derainer(SmallMemory(200 * 200), tile=None, overlap=100)
    guard = Guard(derainer, live=False, events=events)
    assert np.array_equal(guard(image).image, image)
    assert [e.values["tile"] for e in said] == [300, 148]
    assert np.array_equal(guard(image).image, image)
    assert len(said) == 2, "the next frame begins with what fitted"


def test_fault_35_of_a_file_what_was_opened_with_smaller_tiles_is_closed(picture: MakePicture) -> None:
    class Closing(SmallMemory):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    backends = [Closing(300 * 300), Closing(300 * 300)]
    opened = [Derainer(backend, overlap=20) for backend in backends]
    guard = Guard(opened[0], live=False, events=Events(), reopen=lambda: opened[1])
    guard(picture(400, 600))
    assert [backend.closed for backend in backends] == [1, 0]
    guard.close()
    assert [backend.closed for backend in backends] == [1, 1]


class Ahead(SmallMemory):
    """Of which two pictures may be in flight; that its memory is short shows where they are waited for."""

    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        self.depth, self.out, self.most = 2, 0, 0

    def submit(self, batch: Image) -> Image:
        self.out += 1
        self.most = max(self.most, self.out)
        return batch

    def result(self, ticket: Image) -> Image:
        self.out -= 1
        if self.out and ticket[0, ..., 0].size > self.pixels // 2:
            raise MemoryError
        return self.run(ticket)

    def one_at_a_time(self) -> bool:
        assert not self.out, "nothing is in flight when memory is freed"
        return super().one_at_a_time()


def begun_ahead(guard: Guard, pictures: list[Image]) -> list[Image]:
    """Restores pictures as the pipeline does, those of a file."""
    restored, waiting = [], []
    for image in pictures:
        while len(waiting) >= guard.depth:
            restored.append(guard.finish(waiting.pop(0)).image)
        waiting.append(guard.begin(image))
    return [*restored, *(guard.finish(started).image for started in waiting)]


def test_fault_35_without_memory_for_two_pictures_there_is_one_at_a_time(picture: MakePicture) -> None:
    events, said = Events(), []
    events.listen(said.append)
    pictures = [np.roll(picture(400, 600), i, axis=0) for i in range(5)]
    for pixels, tiles, reopened in ((400 * 600, [], 0), (200 * 200, [300, 148], 2)):
        said.clear()
        opened = [Derainer(Ahead(pixels), overlap=100) for _ in range(3)]
        left = iter(opened[1:])
        guard = Guard(opened[0], live=False, events=events, reopen=lambda left=left: next(left))  # type: ignore[misc]
        restored = begun_ahead(guard, pictures)
        assert all(np.array_equal(a, b) for a, b in zip(restored, pictures, strict=True))
        assert [e.values["tile"] for e in said] == tiles
        assert guard.depth == 1 and guard.in_flight == 0
        assert guard.model is opened[reopened]
        assert [opened[0].backend.most, opened[reopened].backend.depth] == [2, 1]  # type: ignore[attr-defined]


def test_only_pictures_that_others_follow_are_begun_ahead(picture: MakePicture) -> None:
    for several, in_flight in ((False, 0), (True, 1)):
        guard = Guard(Derainer(Ahead(10**6)), live=False, events=Events(), ahead=several)
        started = guard.begin(picture(40, 60))
        assert guard.in_flight == in_flight
        assert np.array_equal(guard.finish(started).image, picture(40, 60))
        assert (guard.depth, guard.in_flight) == (1 + in_flight, 0)
    assert Guard(Derainer(Ahead(10**6)), live=True, events=Events()).depth == 1
    tiled = Guard(Derainer(Ahead(10**6), tile=32), live=False, events=Events())
    assert tiled.begin(picture(40, 60)).ready, "tiles are finished at once"


def test_fault_35_without_memory_for_the_smallest_tile_the_error_is_clear(picture: MakePicture) -> None:
    for live in (False, True):
        with pytest.raises(EngineError, match="not enough memory, not even for tiles"):
            Guard(Derainer(SmallMemory(10)), live=live, events=Events())(picture(400, 600))
    with pytest.raises(EngineError, match="Export it at a smaller size"):
        Guard(Derainer(SmallMemory(10, "64x64")), live=False, events=Events())(picture(400, 600))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 9", True),
        ("BFCArena::AllocateRawInternal Available memory of 0 is smaller", True),
        ("CUDA failure 2: out of memory", True),
        ("std::bad_alloc", True),
        ("cudaErrorMemoryAllocation", True),
        ("[CPU] Can not allocate 12 bytes", True),
        ("Exception from src/inference/src/dev/plugin.cpp:54:\ncan't alloc", True),
        ("std::future_error: Broken promise", True),
        ("Got invalid dimensions for input: image", False),
        ("CUDA error 700: an illegal memory access was encountered", False),
        ("could not create a primitive", True),
        ("could not create a primitive descriptor for a convolution", False),
    ],
)
def test_fault_35_how_engines_say_that_memory_is_out(text: str, expected: bool) -> None:
    assert is_out_of_memory(RuntimeError(text)) is expected
    assert is_out_of_memory(MemoryError())


REAL = """
import resource, sys
import numpy as np
from sdps import Derainer
from sdps.runtime.events import Events
from sdps.runtime.guard import Guard
def load():
    return Derainer.load(provider="cpu", threads=1)
derainer = load()
derainer(np.zeros((64, 64, 3), np.uint8))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000, -1))
events = Events()
events.listen(lambda e: print(e.kind, e.text))
image = np.random.default_rng(0).integers(0, 255, (256, 384, 3), dtype=np.uint8)
print(Guard(derainer, False, events, reopen=load)(image).image.shape)
"""


def test_fault_35_a_real_engine_without_memory() -> None:
    """ONNX Runtime under a limit of address space: a picture does not fit whole, in tiles it does."""
    done = subprocess.run(
        [sys.executable, "-c", REAL], capture_output=True, text=True, check=False, timeout=250
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("memory out of memory; trying tiles of"), done.stderr
    assert lines[-1] == "(256, 384, 3)", done.stdout + done.stderr
