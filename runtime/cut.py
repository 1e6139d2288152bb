"""A part of a source: from a moment, for a time, every so-manyth frame."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from sdps.core.errors import UsageError
from sdps.core.frame import Frame
from sdps.runtime.events import Events
from sdps.runtime.file_clock import GRACE
from sdps.runtime.stream import Source

LATEST, RAREST = 1e9, 1_000_000
"""The latest start, in seconds, and the largest `every`; what is beyond overflows in FFmpeg."""
SLOWEST = Fraction(1, 1000)
"""Frames per second that encoders take."""


class Cut:
    """Frames of `source` from `start` on, for `duration` seconds; of these every `every`th.

    The times begin at 0 again, and the sound and subtitles that a sink copies begin at `start`. Of
    pictures, which have no times, only `every` is meant.

    Raises:
        UsageError: the figures make no sense, or cut pictures by time.
    """

    def __init__(
        self, source: Source, start: float = 0.0, duration: float | None = None, every: int = 1
    ) -> None:
        timed = start > 0 or duration is not None
        wrong = ""
        if not 0 <= start < math.inf or not (duration is None or duration > 0) or every < 1:
            wrong = "--start is at least 0, --duration more than 0, and --every at least 1."
        elif start > LATEST or every > RAREST:
            wrong = f"--start is at most {LATEST:.0f}, and --every at most {RAREST}."
        elif timed and source.info.kind == "pictures":
            wrong = "Pictures have no times."
        if wrong:
            source.close()
            raise UsageError(wrong, "Leave --start and --duration away, or correct them.")
        self.source, self.start, self.duration, self.every = source, start, duration, every
        self._full = False  # the source had more than was asked for
        info = source.info
        frames = info.frames
        if frames is not None and timed:
            left = max(0.0, frames / float(info.fps) - start)
            frames = round(min(left, duration if duration is not None else left) * info.fps)
        if frames is not None:
            frames = -(-frames // every)
        self.info = replace(
            info,
            frames=frames,
            fps=max(info.fps / every, SLOWEST),
            offset=info.offset + start,
            duration=math.inf if duration is None else duration,
        )

    @property
    def skipped(self) -> int:
        """What could not be read."""
        return self.source.skipped

    @property
    def missing(self) -> float:
        """Seconds of the part that the file says it has, and has not. To be asked when all was read."""
        missing = 0.0 if self._full else getattr(self.source, "missing", 0.0)
        if not missing or self.duration is None:
            return missing
        asked = self.start + self.duration - getattr(self.source, "ended", 0.0)
        # As little as `VideoSource.missing` lets pass, too.
        return min(missing, asked) if asked > 0.05 * self.duration + 2 / float(self.source.info.fps) else 0.0

    @property
    def events(self) -> Events:
        """The source's own."""
        return getattr(self.source, "events", None) or Events()

    def __getattr__(self, name: str) -> Any:
        """What else a source tells of itself: its state, its silence, its reconnects."""
        if name == "source":  # before it is there, as when being copied
            raise AttributeError(name)
        return getattr(self.source, name)

    def __iter__(self) -> Iterator[Frame]:
        seek = getattr(self.source, "seek", None)
        if self.start > 0 and seek is not None:
            seek(self.start)
        index = found = 0
        grace = GRACE if self.info.kind == "video" else 0.0
        for frame in self.source:
            if frame.time < self.start - grace:
                continue
            if self.duration is not None and frame.time >= self.start + self.duration - grace:
                self._full = True
                return
            if found % self.every == 0:
                time = max(0.0, frame.time - self.start)
                yield replace(frame, index=index, time=time, duration=self._lasting(frame))
                index += 1
            found += 1

    def _lasting(self, frame: Frame) -> float:
        """Seconds until the next frame that is taken, or until the film ends."""
        rest = getattr(self.source, "length", 0.0) - frame.time
        lasting = frame.duration * self.every
        return max(frame.duration, min(lasting, rest)) if rest > 0 else lasting

    def close(self) -> None:
        self.source.close()
