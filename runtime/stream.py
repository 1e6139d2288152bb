"""What sources and sinks have in common: the description of a stream, and their two protocols."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from sdps.core.errors import SourceError
from sdps.core.frame import Frame
from sdps.runtime.color import ColorSpec

VIDEO_CLOCK = Fraction(1, 90_000)


@dataclass(frozen=True)
class StreamInfo:
    """What is known of a stream before its first frame.

    Attributes:
        kind: 'video', 'camera' or 'pictures'.
        width, height: Pixels, after rotation; of the first picture where sizes differ.
        fps: Nominal frames per second.
        frames: Number of frames, or None if unknown (a camera).
        live: Frames come when they come; late ones are worthless.
        inputs: The file or files that are read; the sound of a video is copied from there, and none
            of them is ever written over.
        time_base: Unit of the presentation times.
        color: Matrix and range of the frames as they were coded.
        aspect: Sample aspect ratio, width over height of a pixel.
        notes: What a user should hear, one line each.
        offset: Moment of the file's own clock, in seconds, at which frames have the time 0: where the file
            begins (films from a broadcast hardly begin at 0), and what is left out (--start).
        duration: Seconds that were asked for (--duration), and after which its sound ends, too.
    """

    kind: str
    width: int
    height: int
    fps: Fraction = Fraction(25)
    frames: int | None = None
    live: bool = False
    inputs: tuple[Path, ...] = ()
    time_base: Fraction = VIDEO_CLOCK
    color: ColorSpec = field(default_factory=ColorSpec)
    aspect: Fraction = Fraction(1)
    notes: list[str] = field(default_factory=list)
    offset: float = 0.0
    duration: float = math.inf


class SourceRefused(SourceError):  # noqa: N818 - it reads as what it is
    """The server or device does not let this user in; asking again would lock them out."""


class Source(Protocol):
    """Frames, one after the other. `skipped` counts what could not be read; why is in `info.notes`.

    A source that has more to tell has `events`, an `Events`; one that is lost and comes back has what
    `LiveSource` tells of itself (`state`, `silence`, `is_stale`, `reconnects`, `recoveries`); a file may
    have `seek` and `missing` (`VideoSource`).
    """

    info: StreamInfo

    @property
    def skipped(self) -> int: ...

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """Frees the device or file; a blocked iteration ends."""
        ...


class Sink(Protocol):
    """Takes frames. `close(complete=False)` keeps what was written so far playable.

    A sink that has something to tell has `events`, an `Events`; one that may wait within `write`, as a
    window does, has `stop`, which ends that.
    """

    place: str

    def write(self, rainy: Frame, clean: Frame) -> bool:
        """Takes a frame and the rainy one that it came from; False asks to stop."""
        ...

    def idle(self) -> bool:
        """Called about ten times a second while no frame is ready; False asks to stop."""
        ...

    def close(self, complete: bool = True) -> None:
        """Finishes the output. `complete` is False after an interruption."""
        ...

    def discard(self) -> None:
        """Removes what was written: the work failed."""
        ...
