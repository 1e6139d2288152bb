"""What is seen of a build: its messages, and how far it is."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

SHOWN = 5  # messages in one error; the first ones tell the cause
LAST_WORDS = 200
"""Verbose messages kept for a failed build's log; a build makes tens of thousands."""
NOISE = ("deprecated", "timing cache", "INT64", "int64", "Empty initializer")
"""Warnings about TensorRT's own API and about shape arithmetic, which no user can act on."""

log = logging.getLogger(__name__)


def matters(warning: str) -> bool:
    """Whether a builder's warning is worth a user's time; all of them are in the log."""
    return not any(word in warning for word in NOISE)


def join(messages: list[str]) -> str:
    """The first few messages in one line."""
    more = f"; and {len(messages) - SHOWN} more" if len(messages) > SHOWN else ""
    return "; ".join(messages[:SHOWN]) + more


def make_logger(trt: Any) -> Any:
    """A logger of the module's own class that keeps what matters.

    Its attributes: `errors` and `warnings` without repetitions, `lines` (everything from INFO up)
    and `last_words` (the latest verbose ones).
    """

    class Messages(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.lines: list[str] = []
            self.last_words: deque[str] = deque(maxlen=LAST_WORDS)

        def log(self, severity: Any, message: str) -> None:
            if severity == trt.ILogger.VERBOSE:
                self.last_words.append(message)
                return
            log.debug("%s: %s", severity, message)
            self.lines.append(f"{severity.name:8} {message.strip()}")
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))
            elif severity == trt.ILogger.WARNING and message not in self.warnings:
                self.warnings.append(message)

        def summary(self) -> str:
            return join(self.errors) or "it does not say why."

        def text(self, failed: bool) -> str:
            """The log file's content."""
            tail = ["", "What it was doing when it failed:", *self.last_words] if failed else []
            return "\n".join([*self.lines, *tail, ""])

    return Messages()


def make_monitor(trt: Any) -> Any:
    """A progress monitor that keeps the outermost phase's state, and stops the build when told."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self.state = ("", 0, 0)
            self._outer: list[tuple[str, int]] = []

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self._outer.append((phase, steps))
                self.state = (phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            for name, steps in self._outer:
                if name == phase:
                    self.state = (phase, step + 1, steps)
            return not self.cancelled

        def phase_finish(self, phase: str) -> None:
            self._outer = [entry for entry in self._outer if entry[0] != phase]

    return Monitor()
