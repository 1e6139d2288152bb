"""The clock of a file, made to run forwards."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

T = TypeVar("T")
JUMP = 1.0
"""Seconds by which stamps must fall back for the file's clock to have been set anew, and by which one must
leap ahead for those after it to be asked."""

GRACE = 0.001
"""Seconds by which moments may be off: containers round them to their clock, Matroska to this."""


class FileClock:
    """Moments of one stream of a file, from 0 at `origin`, in seconds.

    Where two recordings were joined, or a camera was set anew, stamps fall back; from there on moments go
    on where the last one ended. A single stamp that falsely falls back costs nothing more; for one that leaps
    ahead see `Ahead`.

    Args:
        origin: Where moments begin, by the file's clock.
        jump: Seconds that count as falling back.

    Attributes:
        shift: What is added to a stamp now, apart from the origin.
    """

    def __init__(self, origin: float = 0.0, jump: float = JUMP) -> None:
        self.origin, self.jump, self.shift = origin, jump, 0.0
        self._before: float | None = None
        self._last, self._end = -math.inf, 0.0

    def __call__(self, stamp: float | None, lasting: float) -> float:
        """The moment of the next frame or packet.

        Args:
            stamp: By the file's clock; None if it has none.
            lasting: Seconds that it takes; those after it without a stamp follow.
        """
        if stamp is None:
            moment = self._end
        else:
            own = stamp - self.origin
            before = self._before
            if own + self.shift < self._last - self.jump:
                self._before, self.shift = self.shift, self._end - own
            elif before is not None and self._fits(own + before) and not self._fits(own + self.shift):
                self._before, self.shift = None, before
            moment = own + self.shift
        self._last, self._end = moment, moment + lasting
        return moment

    def leaps(self, stamp: float | None) -> bool:
        """Whether a stamp is so far ahead that it is a long pause, or false."""
        if stamp is None or self._last == -math.inf:
            return False
        own = stamp - self.origin
        back = self._before is not None and self._fits(own + self._before)
        return own + self.shift > self._end + self.jump and not back

    def follows(self, stamp: float | None, between: float) -> bool:
        """Whether a stamp goes on where the last one ended, but for so many seconds between them."""
        return stamp is not None and self._fits(stamp - self.origin + self.shift - between)

    def _fits(self, moment: float) -> bool:
        return abs(moment - self._end) < self.jump


class Ahead(Generic[T]):
    """What comes of one stream, with its moments. Where a stamp leaps ahead, those after it tell if it is so.

    If one goes on from before the leap, the stamps between were false; if none does, the pause was real.

    Args:
        clock: The stream's.
        look: Seconds after a leap that are looked at: of MPEG-TS one false stamp is that of all pieces of
            sound in its packet. 0 looks at one stamp: pictures take memory.
    """

    def __init__(self, clock: FileClock, look: float = 0.0) -> None:
        self.clock, self.look = clock, look
        self._waiting: list[tuple[T, float | None, float]] = []

    def add(self, item: T, stamp: float | None, lasting: float) -> list[tuple[T, float]]:
        """Takes the next; gives what is decided by now, each with its moment, in order."""
        if not self._waiting and not self.clock.leaps(stamp):
            return [(item, self.clock(stamp, lasting))]
        between = sum(seconds for _, _, seconds in self._waiting)
        if self._waiting and self._falls_back(stamp) and self.clock.follows(stamp, between):
            self._waiting = [(one, None, seconds) for one, _, seconds in self._waiting]
            return [*self.rest(), (item, self.clock(stamp, lasting))]
        self._waiting.append((item, stamp, lasting))
        return self.rest() if len(self._waiting) > 1 and between >= self.look else []

    def _falls_back(self, stamp: float | None) -> bool:
        first = self._waiting[0][1]
        return stamp is not None and first is not None and stamp < first

    def rest(self) -> list[tuple[T, float]]:
        """What still waits, as it is."""
        waiting, self._waiting = self._waiting, []
        return [(item, self.clock(stamp, seconds)) for item, stamp, seconds in waiting]
