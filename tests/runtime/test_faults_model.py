"""A model that hangs, fails, gives nonsense or finds no memory: faults 34 and 35, and silent failures."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sdps import Derainer
from sdps.core.errors import EngineError, SdpsError
from sdps.core.frame import Image
from sdps.runtime import guard, model_thread
from sdps.runtime.backends.identity import IdentityBackend
from sdps.runtime.cli import app
from sdps.runtime.doubt import Doubt
from sdps.runtime.events import Events
from sdps.runtime.guard import Guard
from sdps.runtime.live_source import LiveSource
from sdps.runtime.memory import is_out_of_memory
from sdps.runtime.model_thread import Hung, ModelThread
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.restorer import Restorer
from sdps.runtime.run_view import RunView
from sdps.runtime.sinks import NullSink, open_sink
from sdps.runtime.sources import open_source

from .conftest import MakeVideo
from .live import Fake, Run, ticking

MakePicture = Callable[[int, int], Image]


def camera() -> LiveSource:
    return LiveSource(lambda: Fake(ticking(10**9, 60)), "fake")


def test_fault_34_while_the_model_hangs_frames_pass_through_until_it_is_opened_anew() -> None:
    let_go, calls = threading.Event(), []

    def hanging(image: Image) -> Image:
        calls.append(1)
        if len(calls) == 5:
            let_go.wait(60)
        return 255 - image

    opening = threading.Event()

    def reopen() -> Callable[[Image], Image]:
        assert opening.wait(30), "frames pass while an engine takes its time to open"
        return lambda image: 254 - image

    with Run(camera(), derain=hanging, reopen=reopen, patience=0.3) as run:
        assert "does not answer" in run.event("passed").text
        run.until(lambda: run.pipeline.guard.restarts)
        run.frames(5)
        assert run.pipeline.figures()["state"] == "model-hung"
        opening.set()
        run.event("model", after=1)
        run.frames(3)
        assert run.pipeline.figures()["state"] == "live"
        passed = dict(run.pipeline.guard.passed)
    let_go.set()
    assert set(passed) == {"hung"} and passed["hung"] >= 5
    assert run.pipeline.summary.restarts == 1
    assert run.sink.images[-1].max() > 50, "the new one restores"


def test_fault_34_a_hung_model_that_comes_back_is_used_again() -> None:
    let_go, calls = threading.Event(), []

    def hanging(image: Image) -> Image:
        calls.append(1)
        if len(calls) == 3:
            let_go.wait(60)
        return image

    with Run(camera(), derain=hanging, patience=0.2) as run:
        run.event("passed")
        run.frames(3)
        let_go.set()
        assert "again" in run.event("model").text


def test_fault_34_a_model_that_raises_passes_frames_and_is_opened_anew_after_three() -> None:
    def broken(image: Image) -> Image:
        raise RuntimeError("CUDA error 700")

    with Run(camera(), derain=broken, reopen=lambda: lambda image: image.copy()) as run:
        assert "CUDA error 700" in run.event("passed").text
        run.event("model", after=1)
        run.frames(3)
    assert run.pipeline.summary.restarts == 1
    assert run.pipeline.summary.passed["raised"] == 3


def test_fault_34_no_frame_waits_for_a_model_that_hangs_once_more_when_opened_anew() -> None:
    never, opened = threading.Event(), []

    def hanging(image: Image) -> Image:
        never.wait(60)
        return image

    def works_twice(image: Image) -> Image:
        return image if len(opened) == 0 and run.pipeline.summary.written < 3 else hanging(image)

    def reopen() -> Callable[[Image], Image]:
        opened.append(1)
        return hanging

    with Run(camera(), derain=works_twice, reopen=reopen, patience=0.2) as run:
        run.until(lambda: opened)
        begin = time.monotonic()
        run.frames(30)
        assert time.monotonic() - begin < 5
        assert run.pipeline.figures()["state"] == "model-hung"
        assert not run.pipeline.figures()["healthy"]
    never.set()
    assert opened == [1], "what has just been opened is given its time"


def test_fault_34_a_model_that_warms_up_is_left_at_it_while_frames_pass_through() -> None:
    let_go, opened, calls = threading.Event(), [], []

    def tuning(image: Image) -> Image:
        calls.append(1)
        if len(calls) == 1:
            let_go.wait(60)
        return 255 - image

    with Run(camera(), derain=tuning, reopen=lambda: opened.append(1), patience=0.2) as run:  # type: ignore[arg-type, func-returns-value]
        assert run.event("model").text == "the model warms up; frames pass through as they came"
        run.frames(10)
        figures = run.pipeline.figures()
        assert (figures["state"], figures["healthy"]) == ("model-warming", True)
        let_go.set()
        assert "has warmed up after" in run.event("model", after=1).text
        run.frames(3)
        assert run.pipeline.figures()["state"] == "live"
    assert not opened and not [e for e in run.seen if e.kind == "passed"]
    assert set(run.pipeline.guard.passed) == {"warming"}


def test_fault_34_a_model_that_never_answers_is_opened_anew_after_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_thread, "FIRST_PATIENCE", 1.0)
    never = threading.Event()

    def hanging(image: Image) -> Image:
        never.wait(60)
        return image

    with Run(camera(), derain=hanging, reopen=lambda: lambda image: 255 - image, patience=0.1) as run:
        assert "does not answer" in run.event("passed").text
        run.event("model", after=2)  # after 'warms up' and 'is opened anew'
        run.frames(3)
        assert run.pipeline.figures()["state"] == "live"
    never.set()
    assert run.pipeline.summary.restarts == 1
    assert {"warming", "hung"} >= set(run.pipeline.guard.passed) >= {"warming"}


def test_fault_34_how_long_frames_are_waited_for_is_not_learned_from_the_first() -> None:
    seconds = iter([1.0, 0.0, 60.0])
    never = threading.Event()

    def tuned(image: Image) -> Image:
        never.wait(next(seconds))
        return image

    thread, image = ModelThread(tuned, patience=2.0), np.zeros((8, 8, 3), np.uint8)
    thread(image), thread(image)
    begin = time.monotonic()
    with pytest.raises(Hung):
        thread(image)
    assert time.monotonic() - begin < 3.5, "five times the first would be 5 s"
    assert thread.is_lost
    never.set()
    thread.end(close=False, wait=True)


def test_fault_34_a_model_slower_than_the_patience_is_waited_for_once_that_is_known() -> None:
    never = threading.Event()

    def slow(image: Image) -> Image:
        never.wait(0.5)
        return 255 - image

    with Run(camera(), derain=slow, reopen=lambda: slow, patience=0.2) as run:
        assert "has warmed up" in run.event("model", after=1).text
        before = sum(run.pipeline.guard.passed.values())
        run.frames(3)
        assert sum(run.pipeline.guard.passed.values()) == before
    assert run.pipeline.summary.restarts == 0


def test_fault_34_an_engine_that_cannot_be_opened_is_tried_again_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "REOPEN_PAUSE", 0.1)
    attempts: list[int] = []

    def broken(image: Image) -> Image:
        raise RuntimeError("CUDA error 700")

    def reopen() -> Callable[[Image], Image]:
        attempts.append(1)
        if len(attempts) == 1:
            raise EngineError("no GPU.", "Plug it in.")
        return lambda image: image.copy()

    with Run(camera(), derain=broken, reopen=reopen) as run:
        second = run.until(lambda: [e for e in run.seen if e.values.get("restarts") == 2])[0]
        assert second.text == "the model could not be opened (no GPU. Plug it in.); it is opened anew"
        run.until(lambda: "restores frames again" in run.seen[-1].text)


class Watched(Restorer):
    """A model that hangs at one frame until it is let go, or fails at every one; tells when it is closed."""

    def __init__(self, hangs: int = 0, fails: bool = False) -> None:
        self.hangs, self.fails, self.calls = hangs, fails, 0
        self.let_go, self.closed = threading.Event(), threading.Event()

    def __call__(self, rgb: Image) -> Image:
        self.calls += 1
        if self.calls == self.hangs:
            self.let_go.wait(60)
        if self.fails:
            raise RuntimeError("CUDA error 700")
        return np.array(255 - rgb)

    def close(self) -> None:
        assert not self.closed.is_set()
        self.closed.set()


def test_fault_34_what_is_opened_anew_is_closed_and_what_it_took_the_place_of() -> None:
    given, new = Watched(fails=True), Watched()
    with Run(camera(), derain=given, reopen=lambda: new) as run:
        assert given.closed.wait(10), "two engines may not fit the memory"
        run.until(lambda: run.pipeline.guard.model is new)
        run.frames(3)
    assert new.closed.is_set()


@pytest.mark.parametrize("closing", [False, True])
def test_a_model_that_works_is_closed_where_that_is_asked_for(closing: bool) -> None:
    model = Watched()
    with Run(camera(), derain=model, closing=closing) as run:
        run.frames(3)
    assert model.closed.is_set() is closing, "who opened it may use it again"


def test_fault_34_a_hung_model_is_not_waited_for_and_closed_when_it_wakes() -> None:
    given, new = Watched(hangs=3), Watched(hangs=3)
    with Run(camera(), derain=given, reopen=lambda: new, patience=0.2, closing=True) as run:
        run.until(lambda: new.calls == 3)
        begin = time.monotonic()
    assert time.monotonic() - begin < 4
    for model in (given, new):
        assert not model.closed.is_set()
        model.let_go.set()
        assert model.closed.wait(10)


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


def test_fault_34_a_run_tells_of_the_model_in_use_and_closes_all(tmp_path: Path) -> None:
    class Failing(IdentityBackend):
        def run(self, batch: Image) -> Image:
            raise RuntimeError("CUDA error 700")

    first, second = Derainer(Failing()), Derainer(IdentityBackend())
    second.backend.name = "the other engine"
    view = RunView(camera(), first, NullSink(), limit=20, quiet=True, reopen=lambda: second)
    assert view.model == "identity on identity"
    view.run()
    assert view.derainer is second and view.model == "identity on the other engine"


def test_a_model_is_closed_where_its_output_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed, close = [], Derainer.close
    monkeypatch.setattr(Derainer, "close", lambda self: (closed.append(self), close(self)))
    for wrong in (["--output", "film.xyz"], ["--output", "none", "--log", str(tmp_path)]):
        closed.clear()
        command = ["--input", "demo", "--provider", "identity", *wrong]
        assert CliRunner().invoke(app, command).exit_code in (1, 2)
        assert len(closed) == 1


def test_fault_34_of_a_file_a_failing_model_ends_the_run(make_video: MakeVideo, tmp_path: Path) -> None:
    def broken(image: Image) -> Image:
        raise SdpsError("the engine is gone")

    source = open_source(str(make_video()))
    with pytest.raises(SdpsError, match="engine is gone"):
        Pipeline(source, broken, open_sink(str(tmp_path / "out.mp4"), source.info)).run()
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_nonsense_is_told_from_results_by_the_input(picture: MakePicture) -> None:
    image, other = picture(120, 160), 255 - picture(120, 160)
    black = np.zeros_like(image)
    nan = np.full(image.shape, np.nan, np.float32)
    assert Doubt().of(image, image) == ""
    assert Doubt().of(image, black) == "flat"
    assert Doubt().of(image, black + 128) == "flat", "constant is as empty as black"
    assert Doubt().of(black + 3, black) == "", "a night may stay black"
    assert Doubt().of(image, nan) == "nan"
    assert Doubt().of(image, image[:60]) == "odd"
    assert Doubt().of(image, None) == "odd"
    frozen = Doubt()
    assert frozen.of(image, image) == ""
    assert frozen.of(other, image) == "frozen"
    assert frozen.of(image, other) == ""
    still = Doubt()
    assert [still.of(image, image) for _ in range(3)] == [""] * 3, "a still picture gives a still result"


@pytest.mark.parametrize("why", ["flat", "nan", "frozen"])
def test_frames_that_the_engine_spoils_pass_through_and_are_counted(why: str, picture: MakePicture) -> None:
    last: list[Image] = []

    def spoil(image: Image) -> Image:
        last.append(image)
        spoilt = {"flat": 0 * image, "nan": image * np.float32("nan"), "frozen": last[0].copy()}
        return spoilt[why]

    def moving(i: int) -> Image:
        return np.roll(picture(48, 64), 5 * i, axis=1)

    source = LiveSource(lambda: Fake(ticking(10**9, 60, moving)), "fake")
    with Run(source, derain=spoil) as run:
        run.event("passed")
        run.frames(3)
        assert not run.pipeline.figures()["healthy"]
        shown = run.sink.images[-1]
    assert run.pipeline.guard.passed[why] >= 3
    assert shown.std() > 10, "what is shown is the rainy picture"


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
