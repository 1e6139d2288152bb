"""Several exits of one network, and for each frame the best one that is in time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdps.core.artifact import sha256_of
from sdps.core.errors import ModelError, UsageError
from sdps.core.family import FamilyManifest
from sdps.core.frame import Image
from sdps.runtime.backends import Backend, open_backend
from sdps.runtime.derainer import Derainer
from sdps.runtime.tiling import Begun

MEMORY = 0.2
"""Weight of the newest frame in the moving latency: a fifth, so that it follows within ten frames."""
HEADROOM = 0.85
"""A deeper exit is taken only if it should need no more than this part of the target ..."""
PATIENCE = 10
"""... for so many frames in a row; too slow an exit is left at once."""
MOST_PATIENCE = 640
"""Frames between attempts at an exit that has proved too slow time and again."""


TARGET_MS = 40.0
"""A frame of 25 per second."""


def parse_exit(exit: str | None, latency_target_ms: float | None) -> tuple[int | None, float | None]:
    """The exit and the latency target that `--exit` and `--latency-target` ask for.

    Raises:
        UsageError: neither a number nor 'auto', or a target without 'auto'.
    """
    if exit == "auto":
        return None, TARGET_MS if latency_target_ms is None else latency_target_ms
    if latency_target_ms is not None:
        raise UsageError("--latency-target goes with --exit auto.")
    if exit is not None and not exit.isdecimal():
        raise UsageError(f"--exit takes a number or 'auto', not {exit!r}.")
    return (None if exit is None else int(exit)), None


class ExitChooser:
    """Decides which exit the next frame takes; knows no clock, so it can be reasoned about.

    An exit that was not tried lately is expected to be as much slower than the current one as it has more
    multiply-accumulates. Where that proves too hopeful, the next attempt waits twice as long.

    Args:
        macs: Exit to multiply-accumulates.
        target_ms: Latency to stay under, in milliseconds.
    """

    def __init__(self, macs: Mapping[int, float], target_ms: float) -> None:
        self.exits = sorted(macs)
        self.macs, self.target_ms = dict(macs), target_ms
        self.current = self.exits[0]  # the first frame is in time if any is
        self.latency_ms: float | None = None
        self._promising = 0  # frames in a row for which the next exit seemed in time
        self._patience, self._since_rise = PATIENCE, 0
        self._pixels = 0
        self._warm: set[int] = set()  # exits that have seen a picture of this size

    def expected_ms(self, exit: int) -> float:
        """Moving latency of an exit: measured of the current one, extrapolated of the others."""
        return (self.latency_ms or 0.0) * self.macs[exit] / self.macs[self.current]

    def measured(self, milliseconds: float, pixels: int) -> None:
        """Takes in how long the current exit needed for a frame, and chooses the next frame's exit."""
        if pixels != self._pixels:  # another picture size: what was measured does not hold
            self._pixels, self.latency_ms, self._promising = pixels, None, 0
            self._warm.clear()
        if self.current not in self._warm:  # an engine's first frame of a size is compiled for, or allocates
            self._warm.add(self.current)
            return
        before = milliseconds if self.latency_ms is None else self.latency_ms
        self.latency_ms = (1 - MEMORY) * before + MEMORY * milliseconds
        self._since_rise += 1
        at = self.exits.index(self.current)
        if self.latency_ms > self.target_ms:
            if at and self._since_rise <= PATIENCE:  # it was too much right away
                self._patience = min(2 * self._patience, MOST_PATIENCE)
            fitting = [exit for exit in self.exits[:at] if self.expected_ms(exit) <= self.target_ms]
            self._move(max(fitting, default=self.exits[0]))
            return
        if self._since_rise == 10 * self._patience:
            self._patience = PATIENCE
        if at + 1 == len(self.exits):
            return
        deeper = self.exits[at + 1]
        in_time = self.expected_ms(deeper) <= HEADROOM * self.target_ms
        self._promising = self._promising + 1 if in_time else 0
        if self._promising >= self._patience:
            self._move(deeper)
            self._since_rise = 0

    def _move(self, exit: int) -> None:
        if exit != self.current:
            self.latency_ms = self.expected_ms(exit)
            self.current, self._promising = exit, 0


class AnytimeDerainer(Derainer):
    """A `Derainer` that holds several exits of one network.

    >>> derainer = AnytimeDerainer.open(Path("nano-exits.json"), latency_target_ms=40)

    With a latency target each frame takes the deepest exit that keeps the moving latency under it; without
    one every frame takes the same exit. Not thread-safe, like a `Derainer`.

    Args:
        backends: Exit to backend, opened.
        macs: Exit to multiply-accumulates.
        exit: The exit for every frame, from 0; None for the deepest, or for a choice by the target.
        latency_target_ms: Milliseconds for one frame, its tiles included.
        tile, overlap, context, video: As for `Derainer`.

    Raises:
        UsageError: there is no such exit, or both an exit and a target are given.
    """

    def __init__(
        self,
        backends: Mapping[int, Backend],
        macs: Mapping[int, float],
        exit: int | None = None,
        latency_target_ms: float | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        context: str | None = None,
        video: bool = False,
    ) -> None:
        if exit is not None and exit not in backends:
            raise UsageError(f"There is no exit {exit} in this family.", f"It has {_list(backends)}.")
        if exit is not None and latency_target_ms is not None:
            raise UsageError("An exit and a latency target do not go together.", "Give one of them.")
        if latency_target_ms is not None and latency_target_ms <= 0:
            raise UsageError("A latency target is more than 0 ms.")
        self.backends = dict(backends)
        self.chooser = None if latency_target_ms is None else ExitChooser(macs, latency_target_ms)
        self.exit = max(backends) if exit is None else exit
        if self.chooser:
            self.exit = self.chooser.current
        self.used: Counter[int] = Counter()
        super().__init__(self.backends[self.exit], tile, overlap, context, video)

    @classmethod
    def open(
        cls,
        path: Path,
        provider: str = "auto",
        tile: int | None = None,
        overlap: int | None = None,
        threads: int = 0,
        exit: int | None = None,
        latency_target_ms: float | None = None,
        strict: bool = True,
        context: str | None = None,
        video: bool = False,
    ) -> AnytimeDerainer:
        """Opens the graphs of a family that `sdps-export --exits all` wrote: all, or the one of `exit`.

        Raises:
            ModelError: the description or a graph is damaged, or a graph is not the one described.
            UsageError: as for the class. And what `open_backend` raises.
        """
        family = FamilyManifest.read(path)
        members = {member.exit: member for member in family.members}
        wanted = [exit] if exit is not None else list(members) if latency_target_ms else [max(members)]
        if not set(wanted) <= set(members):
            raise UsageError(f"There is no exit {exit} in {path.name}.", f"It has {_list(members)}.")
        backends: dict[int, Backend] = {}
        try:
            for number in wanted:
                file = path.parent / members[number].file
                if not file.is_file() or sha256_of(file) != members[number].sha256:
                    raise ModelError(
                        f"{file} is missing, or not the graph that {path.name} describes.",
                        "Export the family again, or copy the whole folder.",
                    )
                backends[number] = open_backend(file, provider, threads, strict)
            macs = {number: members[number].macs for number in wanted}
            return cls(backends, macs, exit, latency_target_ms, tile, overlap, context, video)
        except BaseException:
            for backend in backends.values():
                backend.close()
            raise

    @property
    def depth(self) -> int:
        """One: each picture's time decides the next one's exit."""
        return 1

    def one_at_a_time(self) -> bool:
        changed = [backend.one_at_a_time() for backend in self.backends.values()]
        return any(changed)

    def begin(self, rgb: Any) -> Begun:
        restored = self(rgb)
        return Begun(lambda: restored, done=True)

    def __call__(self, rgb: Any) -> Image:
        start = time.perf_counter()
        restored = super().__call__(rgb)
        self.used[self.exit] += 1
        if self.chooser:
            self.chooser.measured(1e3 * (time.perf_counter() - start), restored.shape[0] * restored.shape[1])
            self.exit = self.chooser.current
            self.backend = self.backends[self.exit]
        return restored

    def usage(self) -> str:
        """'exit 0: 12 frames, exit 1: 30 frames'."""
        return ", ".join(f"exit {exit}: {count} frames" for exit, count in sorted(self.used.items()))

    def close(self) -> None:
        for backend in self.backends.values():
            backend.close()


def _list(exits: Mapping[int, object]) -> str:
    return ", ".join(map(str, sorted(exits)))
