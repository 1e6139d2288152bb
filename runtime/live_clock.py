"""What the frames of a live source tell of time: when each was taken, how late it came, what stands still."""

from __future__ import annotations

import time
import zlib

from sdps.core.frame import Frame

CREEP = 0.001
"""Seconds per second by which two clocks may run apart unnoticed."""
JUMP = 10.0
"""Seconds by which a stream's clock may disagree with ours before it is taken to have been reset."""
AHEAD = 0.5
"""Seconds by which a server that sends too fast may run ahead of ours."""


class StreamClock:
    """Presentation times that go on across connections, and how far delivery lags behind.

    The lag is the arrival's delay against the stream's own clock, compared with the least seen;
    the comparison creeps by a thousandth, because no two clocks run alike for days.
    """

    def __init__(self) -> None:
        self.lag = 0.0
        self._least: float | None = None
        self._offset: float | None = None
        self._last = -1.0
        self._seen = 0.0

    def reconnected(self) -> None:
        self._offset = None
        self._least = None

    def forget(self) -> None:
        self.lag, self._least = 0.0, None

    def time(self, stamp: float, arrival: float) -> float:
        """Seconds since the start, never going back; `stamp` is the connection's own clock."""
        delay = arrival - stamp
        if self._offset is None or abs(delay - self._offset) > JUMP:
            self._offset, self._least = delay, delay
        if self._least is None:
            self._least = delay
        self._least = min(delay, self._least + CREEP * max(0.0, arrival - self._seen))
        self._seen = arrival
        self.lag = delay - self._least
        # A server that sends faster than time passes does not make this clock run ahead.
        self._last = max(min(stamp + self._offset, arrival + AHEAD), self._last + 0.001)
        return self._last


class Stillness:
    """How long the picture has been the same, judged by one pixel in sixteen."""

    def __init__(self) -> None:
        self._sum, self._since = -1, 0.0

    def seconds(self, frame: Frame) -> float:
        now, found = time.monotonic(), zlib.crc32(frame.image[::4, ::4].tobytes())
        if found != self._sum:
            self._sum, self._since = found, now
        return now - self._since
