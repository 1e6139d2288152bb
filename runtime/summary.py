"""What a run did, in figures that stay small however long it runs."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

KEPT = 20_000
"""Frames whose times are kept, the newest: eleven minutes at 30 frames/s, half a megabyte."""


@dataclass
class Summary:
    """What a run did. Times in seconds.

    Attributes:
        read, written: Frames from the source and to the sink.
        dropped: Frames of a live source that a newer one overtook.
        skipped: What could not be decoded, or was no picture.
        passed: Frames that went through as they came, by reason (see `Doubt` and `Guard`).
        stale: Times that the source fell silent.
        reconnects: Attempts to open the source again.
        restarts: Times that the model was opened anew.
        seconds: How long it ran.
        complete: Whether it came to the source's end.
        signal: The number of the signal that stopped it, or 0.
        in_flight: The most frames that were in the model at a time.
        inference: Time per frame from the model's beginning until its result was taken, of the newest frames.
        latency: Time from decoding (or the camera's driver) to the sink's acceptance, of the newest.
        recoveries: Time from a source's last frame before a loss to the first one after.
        failed_sinks: Outputs that were given up, with the reason.
    """

    read: int = 0
    written: int = 0
    dropped: int = 0
    skipped: int = 0
    passed: Counter[str] = field(default_factory=Counter)
    stale: int = 0
    reconnects: int = 0
    restarts: int = 0
    seconds: float = 0.0
    complete: bool = True
    signal: int = 0
    in_flight: int = 1
    inference: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    latency: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    recoveries: list[float] = field(default_factory=list)
    failed_sinks: list[str] = field(default_factory=list)

    @property
    def fps(self) -> float:
        """Frames written per second, all included."""
        return self.written / self.seconds if self.seconds else 0.0

    def latency_ms(self, percent: float) -> float:
        """A percentile of the time in the network per frame, in milliseconds; 0 without frames."""
        return percentile_ms(self.inference, percent)

    def through_ms(self, percent: float) -> float:
        """A percentile of the time from the source to the sink, in milliseconds; 0 without frames."""
        return percentile_ms(self.latency, percent)

    def figures(self) -> dict[str, Any]:
        """Everything for a log: plain numbers and texts."""
        percents = (50, 95, 99)
        return {
            "read": self.read,
            "written": self.written,
            "dropped": {"late": self.dropped, "unreadable": self.skipped},
            "passed_through": dict(self.passed),
            "stale": self.stale,
            "reconnects": self.reconnects,
            "model_restarts": self.restarts,
            "failed_sinks": list(self.failed_sinks),
            "seconds": round(self.seconds, 3),
            "fps": round(self.fps, 2),
            "complete": self.complete,
            "in_flight": self.in_flight,
            "model_ms": {f"p{p}": round(self.latency_ms(p), 2) for p in percents},
            "latency_ms": {f"p{p}": round(self.through_ms(p), 2) for p in percents},
            "recovery_s": {f"p{p}": round(_percentile(self.recoveries, p), 3) for p in percents},
        }


def percentile_ms(seconds: Iterable[float], percent: float) -> float:
    """A percentile in milliseconds; 0 of nothing."""
    return 1000 * _percentile(seconds, percent)


def _percentile(values: Iterable[float], percent: float) -> float:
    kept = list(values)  # in one step: another thread may be adding to it
    return float(np.percentile(kept, percent)) if kept else 0.0
