"""The model of a live source in a thread of its own, which can be left behind where it hangs."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sdps.core.frame import Image
from sdps.runtime.restorer import Derain, Restorer, restorer

MODEL = "sdps-model"
FIRST_PATIENCE = 600.0
"""Seconds after which a model has hung that is being opened, or has its first frame of a size or of an exit:
engines allocate, tune and compile then, for minutes on a Jetson. No frame waits for that."""
SLOWER = 5
"""A frame may take so many times the slowest so far."""
END, CLOSING = 0.5, 10.0
"""Seconds that the model gets to return in when it is ended, and then to be closed in."""
SETTLED = 2
"""Frames of a size after which it is known how long one takes; the first tells little."""


@dataclass
class _Pace:
    """How many frames one exit restored of this size, and the longest that one took, in seconds."""

    answers: int = 0
    slowest: float = 0.0


class Hung(Exception):  # noqa: N818 - never leaves the guard
    """The model did not answer in time, or is still at what it was given before.

    Args:
        warming: Whether it is likely to be allocating, tuning and compiling.
    """

    def __init__(self, warming: bool) -> None:
        self.warming = warming


class ModelThread:
    """Calls a model, and waits for it as long as a live source can spare.

    Args:
        model: None has it opened first.
        patience: Seconds that a frame is waited for at least.
        reopen: Opens it.

    Attributes:
        model: None while it is being opened.
        failure: Why it could not be opened.
    """

    def __init__(
        self, model: Restorer | None, patience: float, reopen: Callable[[], Derain] | None = None
    ) -> None:
        self.model, self.patience, self._reopen = model, patience, reopen
        self._in: queue.SimpleQueue[Image | None] = queue.SimpleQueue()
        self._out: queue.SimpleQueue[tuple[Any, BaseException | None, float]] = queue.SimpleQueue()
        self._busy, self._since = model is None, time.monotonic()
        self.failure: BaseException | None = None
        self._shape: tuple[int, ...] = ()
        self.fresh()
        self._closing, self._left = False, threading.Event()
        self._thread = threading.Thread(target=self._work, name=MODEL, daemon=True)
        self._thread.start()

    def fresh(self) -> None:
        """Forgets how long frames took: they are of another size, or for another engine."""
        self._pace = _Pace()
        self._paces: dict[int, _Pace] = {}

    def __call__(self, image: Image) -> Image:
        """Restores a picture.

        Raises:
            Hung: it takes too long, or the one before does; what comes later is thrown away.
            Exception: what the model raised.
        """
        if self._is_behind():
            raise Hung(self._is_warming)
        if image.shape != self._shape:
            self._shape = image.shape
            self.fresh()
        if self.model is not None:  # an exit that comes later has its own first frame
            self._pace = self._paces.setdefault(self.model.exit, _Pace())
        self._in.put(image)
        self._busy, self._since = True, time.monotonic()
        try:
            clean, error, seconds = self._out.get(timeout=self._slow if self._is_settled else self.patience)
        except queue.Empty:
            raise Hung(self._is_warming) from None
        self._busy = False
        if error is not None:
            raise error
        self._learn(seconds)
        return clean

    @property
    def is_lost(self) -> bool:
        """Whether it has been at one thing for so long that it is better opened anew."""
        if not self._is_behind():
            return False
        limit = min(FIRST_PATIENCE, self._slow) if self._pace.answers else FIRST_PATIENCE
        return self.failure is not None or time.monotonic() - self._since >= limit

    def end(self, close: bool, wait: bool) -> None:
        """Lets the thread end as soon as the model lets it.

        Args:
            close: Have it close the model then.
            wait: Until it has, unless it hangs.
        """
        self._closing = close
        self._in.put(None)
        if wait and self._left.wait(END):
            self._thread.join(CLOSING)

    @property
    def _slow(self) -> float:
        return max(self.patience, SLOWER * self._pace.slowest)

    @property
    def _is_settled(self) -> bool:
        return self._pace.answers >= SETTLED

    @property
    def _is_warming(self) -> bool:
        return not self._is_settled and not self.is_lost

    def _is_behind(self) -> bool:
        """Whether it is still at something that nobody waits for any more, or being opened."""
        if self._busy and self.failure is None:
            try:
                _, error, seconds = self._out.get_nowait()
            except queue.Empty:
                return True
            self._busy = False
            if self.model is None:
                self.failure = error
            elif error is None and seconds and not self._is_settled:
                self._learn(seconds)  # later a late answer is no measure: something was wrong
        return self._busy or self.failure is not None

    def _learn(self, seconds: float) -> None:
        pace = self._pace
        pace.answers += 1
        pace.slowest = seconds if pace.answers <= SETTLED else max(pace.slowest, seconds)

    def _work(self) -> None:
        if self.model is None:
            self._open()
        while self.model is not None and (image := self._in.get()) is not None:
            begin = time.monotonic()
            try:
                self._out.put((self.model(image), None, time.monotonic() - begin))
            except BaseException as error:
                self._out.put((None, error, 0.0))
        self._left.set()
        if self._closing and self.model is not None:
            with contextlib.suppress(Exception):  # what failed at its work may fail at this as well
                self.model.close()

    def _open(self) -> None:
        assert self._reopen is not None
        try:
            self.model = restorer(self._reopen())
            self._out.put((None, None, 0.0))
        except Exception as error:
            self._out.put((None, error, 0.0))
