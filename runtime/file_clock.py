"""The clock of a file, made to run forwards."""

from __future__ import annotations

import math

JUMP = 1.0
"""Seconds by which stamps must fall back for the file's clock to have been set anew."""

GRACE = 0.001
"""Seconds by which moments may be off: containers round them to their clock, Matroska to this."""


class FileClock:
    """Moments of one stream of a file, from 0 at `origin`, in seconds.

    Where two recordings were joined, or a camera was set anew, stamps fall back; from there on moments go
    on where the last one ended. A single false stamp costs nothing more.

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

    def _fits(self, moment: float) -> bool:
        return abs(moment - self._end) < self.jump
