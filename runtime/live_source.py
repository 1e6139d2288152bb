"""A camera or stream that comes back: read in a thread that can be left behind, newest frame first.

Neither FFmpeg nor a camera driver can be made to return from a read in every case (a stopped
server holds OpenCV for 90 s), so a reader that stays silent is abandoned and a new one started.
What the old one still delivers is ignored, and it frees its connection when it wakes up.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sdps.core.errors import SdpsError, SourceError
from sdps.core.frame import Frame
from sdps.runtime.events import Events
from sdps.runtime.live_clock import Stillness, StreamClock
from sdps.runtime.stream import Source, SourceRefused, StreamInfo

READER = "sdps-reader"
MAX_ABANDONED = 4
"""Readers that may hang at once; beyond, the next attempt waits for one to end."""


@dataclass(frozen=True)
class Patience:
    """How long a live source is waited for. All in seconds, on the monotonic clock.

    Attributes:
        stale: Silence after which the last picture is no longer the present.
        silent: Silence after which a reader is left behind and the source opened anew.
        opening: Time for a connection to give its first frame. A source that has been there before
            gets `reopening` at first, twice that if it stays mute, and so on up to `opening`.
        retry, retry_most: First and longest pause between attempts; each is twice the one before,
            give or take a quarter, so that many clients do not come back in step.
        frozen: Time of byte-identical pictures after which the source is reported unhealthy:
            a sensor's noise never repeats, a hung encoder's picture does.
        lag: Delay behind the fastest delivery so far after which the backlog is thrown away by
            connecting anew: on a line that is too slow, latency would grow without end.
    """

    stale: float = 2.0
    silent: float = 4.0
    opening: float = 8.0
    reopening: float = 3.0
    retry: float = 0.25
    retry_most: float = 1.0
    frozen: float = 10.0
    lag: float = 3.0

    def pause(self, attempt: int) -> float:
        """Seconds to wait before an attempt, counted from 0, with jitter."""
        return float(min(self.retry * 2 ** min(attempt, 16), self.retry_most) * random.uniform(0.75, 1.25))


class _Reader(threading.Thread):
    """One connection, from opening to its end. Hands over its newest frame only."""

    def __init__(self, owner: LiveSource, connect: Callable[[], Source]) -> None:
        super().__init__(name=READER, daemon=True)
        self.owner, self.connect = owner, connect
        self.begun = time.monotonic()
        self.info: StreamInfo | None = None
        self.error: SdpsError | None = None
        self.skipped = 0

    def run(self) -> None:
        connection: Source | None = None
        try:
            connection = self.connect()
            self.info = connection.info
            for frame in connection:
                self.skipped = connection.skipped
                if not self.owner._hand_over(self, frame):
                    break
            else:
                self.error = SourceError(f"{self.owner.name} ended.")
        except SdpsError as error:
            self.error = error.with_traceback(None)  # which would keep the connection alive
        except Exception as error:  # a driver's own exception: the source is lost, the run is not
            self.error = SourceError(f"{self.owner.name} failed: {type(error).__name__}: {error}.")
        finally:
            if connection is not None:
                self.skipped = connection.skipped
                connection.close()
                connection = None
            self.owner._ended(self)


class LiveSource:
    """Frames of a live source for as long as it is wanted, through every loss of it.

    Args:
        connect: Opens one connection; called again after every loss, from a thread of its own.
        name: For messages, without credentials.
        wait: Whether a source that is absent at the start is waited for.
        first: A connection that is already open, to begin with.
        patience: When to lose it.
        say: Told, while it is waited for, why.

    Frames are numbered and timed on across connections. `events` tells of 'waiting', 'lost',
    'stale', 'recovered', 'frozen', 'moving' and 'lagging'.

    Raises:
        SourceError: it is absent at the start and not to be waited for, or refuses the user.
    """

    def __init__(
        self,
        connect: Callable[[], Source],
        name: str,
        wait: bool = False,
        first: Source | None = None,
        patience: Patience | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.connect, self.name, self.patience = connect, name, patience or Patience()
        self.events = Events()
        self.reconnects = self.unread = 0
        self.recoveries: list[float] = []
        self.lost_at: float | None = None
        self.is_stale = self.is_frozen = False
        self.last_arrival = time.monotonic()
        self._earlier_skips = 0
        self._changed = threading.Condition()
        self._closed = False
        self._slot: Frame | None = None
        self._failed: SdpsError | None = None
        self._begin = time.monotonic()
        self._clock = StreamClock()
        self._same = Stillness()
        self._attempt, self._next_attempt, self._mute = 0, 0.0, 0
        self._left_behind: list[_Reader] = []
        self._info: StreamInfo | None = None
        with self._changed:  # the reader asks whether it is the current one
            self._reader: _Reader | None = self._start(first)
        self.info = replace(self._await_first(wait, say), live=True, frames=None)

    @property
    def skipped(self) -> int:
        """What could not be decoded, of all connections."""
        reader = self._reader
        return self._earlier_skips + (reader.skipped if reader else 0)

    @property
    def silence(self) -> float:
        """Seconds since the last frame came in."""
        return time.monotonic() - self.last_arrival

    @property
    def state(self) -> str:
        """'live', 'frozen', or 'stale'."""
        return "stale" if self.is_stale else "frozen" if self.is_frozen else "live"

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while (frame := self._next()) is not None:
            yield replace(frame, index=index)
            index += 1

    def close(self) -> None:
        """Ends the iteration at once, and the reader as soon as its library lets it."""
        with self._changed:
            self._closed = True
            reader = self._reader
            self._changed.notify_all()
        if reader is not None:
            reader.join(timeout=0.5)

    # What the reader's thread calls.

    def _hand_over(self, reader: _Reader, frame: Frame) -> bool:
        """Takes a frame; False tells the reader to end."""
        with self._changed:
            if self._closed or reader is not self._reader:
                return False
            arrived = time.monotonic()
            self.last_arrival = arrived
            self._info = self._info or reader.info
            self.unread += self._slot is not None
            self._slot = replace(
                frame, arrived=arrived, time=self._clock.time(frame.time, arrived - self._begin)
            )
            self._look(frame)
            if self._clock.lag > self.patience.lag:
                self.events.emit(
                    "lagging",
                    f"{self.name} is {self._clock.lag:.1f} s behind; its backlog is dropped",
                    seconds=round(self._clock.lag, 3),
                )
                self._clock.forget()
                reader.error = SourceError(f"{self.name} fell behind.")
                return False
            self._changed.notify_all()
            return True

    def _ended(self, reader: _Reader) -> None:
        with self._changed:
            if reader in self._left_behind:
                self._left_behind.remove(reader)
            self._changed.notify_all()

    # What the consumer's thread does: it waits, and looks after the reader meanwhile.

    def _await_first(self, wait: bool, say: Callable[[str], None] | None) -> StreamInfo:
        said = False
        while True:
            with self._changed:
                if self._info is not None:
                    return self._info
                self._tend()
                failed, self._failed = self._failed, None
                if failed is not None and (not wait or isinstance(failed, SourceRefused)):
                    self._closed = True
                    raise failed
                if failed is not None and not said:
                    said = True
                    self.events.emit("waiting", f"waiting for {self.name}: {failed.message}", loud=False)
                    if say:
                        say(f"waiting for {self.name}: {failed.message}")
                self._changed.wait(0.05)

    def _next(self) -> Frame | None:
        while True:
            with self._changed:
                if self._closed:
                    return None
                if self._slot is not None:
                    frame, self._slot = self._slot, None
                    self._recovered(frame)
                    return frame
                self._tend()
                self._changed.wait(0.05)

    def _recovered(self, frame: Frame) -> None:
        self._attempt = self._mute = 0
        if self.lost_at is not None:
            seconds = frame.arrived - self.lost_at
            self.recoveries = [*self.recoveries[-99:], seconds]
            self.events.emit(
                "recovered", f"{self.name} is back after {seconds:.1f} s", seconds=round(seconds, 3)
            )
        self.lost_at, self.is_stale = None, False

    def _tend(self) -> None:
        """Marks silence, leaves a silent reader behind, and starts the next one when it is time."""
        now, reader = time.monotonic(), self._reader
        if self._info is not None and not self.is_stale and self.silence > self._stale_after():
            self.is_stale = True
            if self.lost_at is None:
                self.lost_at = self.last_arrival
            self.events.emit("stale", f"{self.name} has been silent for {self.silence:.1f} s")
        if reader is not None and not reader.is_alive():
            self._lose(reader, reader.error or SourceError(f"{self.name} ended."))
        elif reader is not None:
            opened = self.last_arrival > reader.begun
            limit = max(self.patience.silent, 2 * self._stale_after()) if opened else self._opening()
            if now - max(reader.begun, self.last_arrival) > limit:
                self._left_behind.append(reader)
                self._mute += not opened
                self._lose(reader, SourceError(f"{self.name} does not answer.", "Is the address right?"))
        elif now >= self._next_attempt and len(self._left_behind) < MAX_ABANDONED:
            self._attempt += 1
            self.reconnects += self._info is not None
            self._reader = self._start()

    def _lose(self, reader: _Reader, why: SdpsError) -> None:
        self._earlier_skips += reader.skipped
        self._reader, self._failed = None, why
        pause = self.patience.pause(self._attempt)
        self._next_attempt = time.monotonic() + pause
        if self._info is None:  # nothing was lost that had been there
            return
        if self.lost_at is None:
            self.lost_at = self.last_arrival
        # Once per loss is news; each of a night's attempts is not.
        self.events.emit(
            "lost", why.message, loud=self._attempt == 0, attempt=self._attempt, retry_in=round(pause, 3)
        )

    def _opening(self) -> float:
        if self._info is None:
            return self.patience.opening
        return min(self.patience.opening, self.patience.reopening * 2**self._mute)

    def _stale_after(self) -> float:
        """A camera of one frame in two seconds is not stale after two seconds."""
        return max(self.patience.stale, 3 / float(self._info.fps)) if self._info else self.patience.stale

    def _start(self, opened: Source | None = None) -> _Reader:
        reader = _Reader(self, self.connect if opened is None else lambda: opened)
        self._clock.reconnected()
        reader.start()
        return reader

    def _look(self, frame: Frame) -> None:
        """Notices a picture that stands still to the last bit."""
        seconds = self._same.seconds(frame)
        if not self.is_frozen and seconds > self.patience.frozen:
            self.is_frozen = True
            self.events.emit(
                "frozen", f"{self.name} has sent the same picture for {seconds:.0f} s", seconds=seconds
            )
        elif self.is_frozen and seconds == 0:
            self.is_frozen = False
            self.events.emit("moving", f"{self.name} sends new pictures again")
