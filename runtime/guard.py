"""Between the pipeline and the model: what hangs, fails or gives nonsense does not stop the camera.

A frame that the model did not restore is passed through as it came, and counted with the reason.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from sdps.core.errors import SdpsError, UsageError
from sdps.core.frame import Image
from sdps.runtime.doubt import Doubt
from sdps.runtime.events import Events, Kind
from sdps.runtime.memory import OutOfMemory, is_out_of_memory, smaller_tiles
from sdps.runtime.model_thread import Hung, ModelThread
from sdps.runtime.restorer import Derain, Restorer, restorer
from sdps.runtime.tiling import Begun

FAILURES = 3
"""Failures in a row after which the model is opened anew."""
REOPEN_PAUSE = 5.0
"""Seconds between two attempts to open the model, doubled each time up to a minute."""
WARMING, HUNG = "warming", "hung"
BEHIND = (WARMING, HUNG)


@dataclass(frozen=True)
class Result:
    """A restored picture, or the rainy one with the reason in `passed`. `seconds` in the model."""

    image: Image
    seconds: float
    passed: str = ""


@dataclass(eq=False)
class Started:
    """A picture that was given to the model at `since` (`time.perf_counter`).

    Attributes:
        image: The rainy picture.
        waiting: What waits for it, if it was begun ahead.
        clean: The restored picture, before anybody looked at it.
        result: What came of it, once that is known.
    """

    image: Image
    since: float
    waiting: Begun | None = None
    clean: Image | None = None
    result: Result | None = None

    @property
    def ready(self) -> bool:
        """Whether nobody has to wait for it any more."""
        return self.clean is not None or self.result is not None


class Guard:
    """Calls the model, and looks at what comes back.

    Args:
        derain: (H, W, 3) uint8 RGB to the same.
        live: Of a camera every frame is followed by another, so failures pass frames through; a
            file whose frames are not restored is a failure, and exceptions are raised.
        events: Hears 'passed' when frames begin to pass through, 'model' and 'memory'.
        patience: Seconds after which a live frame's inference counts as hung; the model then has a
            thread of its own, which can be left behind. Its first frames may take longer
            (`model_thread.FIRST_PATIENCE`) before it is opened anew, and are not waited for either.
        reopen: Opens the model anew after it hung or failed repeatedly; the one before is closed.
        ahead: Begin pictures before the one before them is there, where the model can and it is no camera.
        closing: Have `close` close the model that was given, too, and not only what was opened anew.
    """

    def __init__(
        self,
        derain: Derain,
        live: bool,
        events: Events,
        patience: float = 3.0,
        reopen: Callable[[], Derain] | None = None,
        ahead: bool = True,
        closing: bool = False,
    ) -> None:
        self.live, self.events, self.closing = live, events, closing
        self._given = self._model = restorer(derain)
        self._engine = engine_of(self._model)
        self.ahead = ahead and not live
        self.patience, self.reopen = patience, reopen
        self.passed: Counter[str] = Counter()
        self.restarts = 0
        self._doubt = Doubt()
        self._thread: ModelThread | None = None
        self._out: list[Started] = []
        self._in_a_row = self._failures = 0
        self.trouble = ""
        self._next_reopen, self._pause = 0.0, REOPEN_PAUSE

    def __call__(self, image: Image) -> Result:
        """Restores a picture.

        Raises:
            SdpsError: of a file, what the model raised; of either, memory that does not suffice even
                for the smallest tiles, and tiles that do not fit the model.
        """
        begin = time.perf_counter()
        try:
            clean = self._run(image)
            why = self._doubt.of(image, clean)
        except Hung as hung:
            # After a failure, that a new model warms up is no news.
            clean, why = image, WARMING if hung.warming and self.trouble in ("", WARMING) else HUNG
        except Exception as error:
            if not self.live or isinstance(error, (OutOfMemory, UsageError)):
                raise
            clean, why = image, "raised"
            self._note(why, f"the model failed: {type(error).__name__}: {error}")
        self._count(why)
        return Result(image if why else clean, time.perf_counter() - begin, why)

    @property
    def model(self) -> Restorer:
        """The one in use."""
        return (self._thread and self._thread.model) or self._model

    @property
    def depth(self) -> int:
        """Pictures that may be begun before the first is waited for."""
        return self._model.depth if self.ahead else 1

    @property
    def in_flight(self) -> int:
        """Pictures that were begun ahead and are in the model."""
        return len(self._out)

    def begin(self, image: Image) -> Started:
        """Starts on a picture, where the model can do so ahead; `finish` gives its result."""
        if self.depth == 1:
            return Started(image, 0.0, result=self(image))
        started = Started(image, time.perf_counter())
        try:
            started.waiting = self._model.begin(image)
        except Exception as error:
            self._alone(error)
        else:
            self._out.append(started)
            if started.waiting.done:
                self._fetch(started)
        return started

    def finish(self, started: Started) -> Result:
        """Waits for a picture that was begun. They are finished in order."""
        if started.result is None:
            self._fetch(started)
            clean = started.clean
            if clean is None:  # memory ran out, for it or for one beside it
                clean = self._run(started.image)
            why = self._doubt.of(started.image, clean)
            self._count(why)
            seconds = time.perf_counter() - started.since
            started.result = Result(started.image if why else clean, seconds, why)
        return started.result

    def close(self) -> None:
        """Closes what was opened anew, and lets the model's thread end.

        One that hangs is left behind: it is closed if it ever answers.
        """
        self.reopen = None
        if self._thread is not None:
            self._thread.end(self.closing or self._thread.model is not self._given, wait=True)
        elif self.closing or self._model is not self._given:
            self._model.close()

    def _run(self, image: Image) -> Image:
        while True:
            try:
                return self._in_thread(image) if self.live else self._model(image)
            except Exception as error:
                if isinstance(error, SdpsError) or not is_out_of_memory(error):
                    raise
            if not self.model.one_at_a_time():
                self._make_room(image)

    def _fetch(self, started: Started) -> None:
        """Takes a picture out of the model, if it is in there."""
        if started not in self._out or started.waiting is None:
            return
        self._out.remove(started)
        try:
            started.clean = started.waiting()
        except Exception as error:
            self._alone(error)

    def _alone(self, error: Exception) -> None:
        """Where memory ran out with several pictures in the model, one is in there at a time from then on.

        Raises:
            Exception: it was another error.
        """
        if isinstance(error, SdpsError) or not is_out_of_memory(error):
            raise error
        self.ahead = False
        for other in list(self._out):
            self._fetch(other)
        self.model.one_at_a_time()

    def _make_room(self, image: Image) -> None:
        """Smaller tiles, in an engine opened anew: an arena that grew in vain is not given back."""
        model = self.model
        tile = smaller_tiles(model, image)
        self.events.emit("memory", f"out of memory; trying tiles of {tile} pixels", tile=tile)
        if self.reopen is None:
            return
        model.close()
        fresh = restorer(self.reopen())
        fresh.tile, fresh.overlap = model.tile, model.overlap
        fresh.one_at_a_time()
        if self._thread:
            self._thread.model = fresh
            self._thread.fresh()
        else:
            self._model = fresh
        self._tell_engine()

    def _in_thread(self, image: Image) -> Image:
        if self._thread is None:
            self._thread = ModelThread(self._model, self.patience)
        return self._thread(image)

    def _replace(self, given_up: ModelThread) -> None:
        """Opens the model anew in a new thread, if that is possible; meanwhile frames pass through."""
        if self.reopen is None or time.monotonic() < self._next_reopen:
            return
        self._next_reopen = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, 60.0)
        self.restarts += 1
        why = given_up.failure
        failed = f"the model could not be opened ({why}); it" if why else "the model"
        self.events.emit("model", f"{failed} is opened anew", restarts=self.restarts)
        given_up.end(close=True, wait=False)
        self._thread = ModelThread(None, self.patience, self.reopen)

    def _count(self, why: str) -> None:
        if why:
            self.passed[why] += 1
            self._in_a_row += 1
            self._failures = 0 if why in BEHIND else self._failures + 1
            if why != self.trouble:
                self._note(why, "")
            thread = self._thread
            if thread is not None and (thread.is_lost or self._failures >= FAILURES):
                self._replace(thread)
        elif self.trouble:
            done = "has warmed up" if self.trouble == WARMING else "restores frames again"
            self.events.emit("model", f"the model {done} after {self._in_a_row}")
            self.trouble, self._pause = "", REOPEN_PAUSE
            self._in_a_row = self._failures = 0
            self._tell_engine()

    def _tell_engine(self) -> None:
        """That a GPU is lost, and a CPU restores in its stead, must not only be felt."""
        before, self._engine = self._engine, engine_of(self.model)
        if before and self._engine and self._engine != before:
            reason = getattr(self.model, "backend").reason  # noqa: B009 - what has an engine has it
            why = f" ({reason})" if reason else ""
            text = f"the model runs on {self._engine} from now on, instead of {before}{why}"
            self.events.emit("model", text, engine=self._engine, before=before)

    def _note(self, why: str, text: str) -> None:
        if self.trouble != why:
            self.trouble = why
            kind: Kind = "model" if why == WARMING else "passed"  # that is how it should be
            self.events.emit(kind, text or f"{REASONS[why]}; frames pass through as they came", why=why)


def engine_of(model: Restorer) -> str:
    """The name of the engine that a model runs on, such as 'openvino:CPU'; empty if that is unknown."""
    return str(getattr(getattr(model, "backend", None), "name", ""))


REASONS = {
    "odd": "the model gave something that is no picture",
    "nan": "the model gave values that are no numbers",
    "flat": "the model gave an empty picture",
    "frozen": "the model gave the picture before once more",
    WARMING: "the model warms up",
    HUNG: "the model does not answer",
    "raised": "the model failed",
}
