"""An output that does not return: of a live source everything else goes on, so nobody would hear of it."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from sdps.runtime.events import Events
from sdps.runtime.several_sinks import asked_place
from sdps.runtime.stream import Sink

HUNG, LOOK = 5.0, 0.5
"""Seconds after which an output that has a frame is said to hang, and between two looks at it."""


class OutputWatch:
    """Entered around each call of an output, in one thread; `watch` looks on from another.

    Its `events` tell once when the output begins to hang, and once when that is over.
    """

    def __init__(self, sink: Sink, events: Events) -> None:
        self.sink, self.events = sink, events
        self._since: float | None = None
        self._told = False
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether the output is at work."""
        return self._since is not None

    @property
    def hung(self) -> bool:
        """Whether it has been for too long."""
        since = self._since
        return since is not None and time.monotonic() - since > HUNG

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            since, self._since = self._since, None
            told, self._told = self._told, False
        if told and kind is None and since is not None:
            seconds = time.monotonic() - since
            place = asked_place(self.sink)
            self.events.emit(
                "sink", f"{place} takes frames again after {seconds:.0f} s", seconds=round(seconds, 3)
            )

    def watch(self, ended: threading.Event) -> None:
        """Looks on until the run ends."""
        while not ended.wait(LOOK):
            with self._lock:
                news = self.hung and not self._told
                self._told = self._told or news
            if news:
                place = asked_place(self.sink)
                self.events.emit(
                    "sink", f"{place} takes no frames; nothing is written meanwhile", place=place
                )
