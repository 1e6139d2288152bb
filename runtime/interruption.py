"""What Ctrl-C, SIGTERM and SIGHUP do to a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""Windows has no SIGHUP, which comes where a terminal or an SSH session is closed."""


class Interruption:
    """Takes these signals while it is entered, if that is in the main thread.

    The first asks to stop. The second breaks off an output that waits, but not the ending, in which films are
    finished; a third breaks that off, too.

    Args:
        stop: Asks the run to stop; called with the signal's number.
        stuck: Whether the run waits for an output, and whether that hangs: the first breaks off such a one.
    """

    def __init__(self, stop: Callable[[int], None], stuck: Callable[[], tuple[bool, bool]]) -> None:
        self.stop, self.stuck, self.count = stop, stuck, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for name in NAMES:
            number = getattr(signal, name, None)
            # What nohup has set stays.
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                self._before[number] = signal.signal(number, self._ask)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            self.stop(number)
        waits, hangs = self.stuck()
        if self.count > 2 or (waits and (hangs or self.count == 2)):
            raise KeyboardInterrupt
