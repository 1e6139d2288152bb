"""A model that hangs, fails or gives nonsense: fault 34, and silent failures."""

from __future__ import annotations

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
from sdps.runtime.events import Event
from sdps.runtime.live_source import LiveSource
from sdps.runtime.model_thread import Hung, ModelThread
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.restorer import Called, Restorer
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


class Exits(Restorer):
    """Goes to a deeper exit after five pictures, whose first one takes long, and back after ten of that."""

    def __init__(self, let_go: threading.Event) -> None:
        self.let_go, self.calls = let_go, 0

    def __call__(self, rgb: Image) -> Image:
        self.calls += 1
        if self.calls == 6:
            self.let_go.wait(60)
        self.exit = int(5 <= self.calls < 15)
        return 255 - rgb


def test_fault_34_an_exit_that_is_first_taken_late_warms_up_like_a_model() -> None:
    let_go, opened = threading.Event(), []
    with Run(camera(), derain=Exits(let_go), reopen=lambda: opened.append(1), patience=0.2) as run:  # type: ignore[arg-type, func-returns-value]
        run.frames(3)
        assert run.event("model").text == "the model warms up; frames pass through as they came"
        time.sleep(1)  # five times the patience
        assert run.pipeline.figures()["state"] == "model-warming"
        let_go.set()
        assert "has warmed up after" in run.event("model", after=1).text
        run.until(lambda: run.pipeline.guard.model.calls > 20)
    assert not opened and set(run.pipeline.guard.passed) == {"warming"}


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

    thread, image = ModelThread(Called(tuned), patience=2.0), np.zeros((8, 8, 3), np.uint8)
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


def test_fault_34_a_run_tells_of_the_model_in_use_and_closes_all(tmp_path: Path) -> None:
    class Failing(IdentityBackend):
        def run(self, batch: Image) -> Image:
            raise RuntimeError("CUDA error 700")

    first, second = Derainer(Failing()), Derainer(IdentityBackend())
    second.backend.name = "the other engine"
    second.backend.reason = "no GPU"
    view = RunView(camera(), first, NullSink(), limit=20, quiet=True, reopen=lambda: second)
    seen: list[Event] = []
    view.pipeline.events.listen(seen.append)
    assert view.model == "identity on identity"
    view.run()
    told = [event.loud for event in seen if "on the other engine from now on" in event.text]
    assert told == [True], "once, and for people: another engine is another speed"
    assert view.derainer is second and view.model == "identity on the other engine"


def test_a_model_is_closed_where_its_output_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed, close = [], Derainer.close
    monkeypatch.setattr(Derainer, "close", lambda self: (closed.append(self), close(self)))
    for wrong in (["--output", "film.xyz"], ["--output", "none", "--log", str(tmp_path / "no" / "log")]):
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
