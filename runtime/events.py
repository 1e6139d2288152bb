"""What happens in a run, told to whoever listens: the log, the health file, a callback."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

KEPT = 100
"""Events that wait for the first listener; a source has things to tell before a pipeline exists."""
Kind = Literal[
    "waiting", "stale", "lost", "lagging", "recovered", "frozen", "moving",  # a live source
    "unreadable", "resized", "clock",  # frames
    "passed", "model", "memory",  # the model
    "sink", "carried",  # outputs
]  # fmt: skip
"""What can happen: by whom it is told. The type checker knows no others."""


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: One word for programs.
        text: One line for people, without credentials.
        values: Figures that belong to it.
        at: `time.monotonic()`, seconds.
        loud: Whether a person should hear of it at once.
    """

    kind: Kind
    text: str
    values: dict[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)
    loud: bool = True


Listener = Callable[[Event], None]


class Events:
    """Hands events to its listeners, from whatever thread they come, and counts them by kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._listeners: list[Listener] = []
        self._waiting: list[Event] = []
        self._lock = threading.RLock()

    def emit(self, kind: Kind, text: str, loud: bool = True, **values: Any) -> None:
        """Tells the listeners; before there are any, the first hundred events wait for one."""
        self.pass_on(Event(kind, text, values, loud=loud))

    def pass_on(self, event: Event) -> None:
        """Tells the listeners an event that came from elsewhere."""
        with self._lock:  # so that two threads' events reach a listener one after the other
            self.counts[event.kind] += 1
            for listener in self._listeners:
                listener(event)
            if not self._listeners and len(self._waiting) < KEPT:
                self._waiting.append(event)

    def listen(self, listener: Listener) -> None:
        """Adds a listener, which hears at once what has been waiting."""
        with self._lock:
            self._listeners.append(listener)
            waiting, self._waiting = self._waiting, []
            for event in waiting:
                listener(event)


def hear(part: object, listener: Listener) -> None:
    """Listens to a source or an output, if it has something to tell: an `Events` as `events`."""
    told = getattr(part, "events", None)
    if isinstance(told, Events):
        told.listen(listener)
