"""A run's diary: events as JSON lines, and a health file that is rewritten every second."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sdps.core.errors import SinkError, UsageError
from sdps.runtime.events import Event
from sdps.runtime.redact import redacted

LOG, HEALTH = "--log", "--health"
PERIOD = 1.0
"""Seconds between two health files."""


def report_path(option: str, name: str | None) -> Path | None:
    """The file that a report of the run is to be written to; None stays None.

    Raises:
        UsageError: it has no name, or is a folder; or a health file would take a device's place.
    """
    if name is None:
        return None
    path = Path(name)
    if not name or path.is_dir():
        raise UsageError(f"{option} {name!r} is no file.", "Give the name of one.")
    if option == HEALTH and path.exists() and not path.is_file():
        raise UsageError(f"{path} is no file, and cannot be replaced each second.", "Give the name of one.")
    return path


def refuse_taken(reports: dict[str, Path | None], others: Iterable[tuple[str, Path]]) -> None:
    """Raises a UsageError where a report would be written over one of the `others`, or another report.

    Args:
        reports: Files by option.
        others: What each is, and where.
    """
    taken = list(others)
    for option, path in reports.items():
        if path is None:
            continue
        for what, other in taken:
            if os.path.realpath(path) == os.path.realpath(other) or (
                path.exists() and other.exists() and path.samefile(other)
            ):
                raise UsageError(f"{option} {path} is {what} itself.", "Choose another file.")
        taken.append((option, path))


class JsonLog:
    """One JSON object per line: when, what kind, a sentence, figures. Appends to an existing file.

    A full disk silences the log and nothing else. Bytes of a path that are no UTF-8 are written as \\udcXX.

    Raises:
        SinkError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise SinkError(
                f"The log {path} cannot be written: {error.strerror}.", "Choose another file."
            ) from None
        self._lock = threading.Lock()

    def event(self, event: Event) -> None:
        """Notes an event."""
        self.write(event.kind, event.text, at=event.at, **event.values)

    def write(self, kind: str, text: str, at: float | None = None, **values: Any) -> None:
        """Notes one line; `at` on the monotonic clock, which alone orders lines when a clock is set."""
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "monotonic": round(time.monotonic() if at is None else at, 3),
            "kind": kind,
            "text": redacted(text),
            **values,
        }
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._file.close()


class HealthFile:
    """A small JSON file for a supervisor, rewritten whole every second: old or new, never half.

    A supervisor that finds `updated` (Unix time, seconds) older than a few seconds knows that the
    process is gone. A file that cannot be written is left as it is and tried again.
    """

    def __init__(self, path: Path, figures: Callable[[], dict[str, Any]]) -> None:
        self.path, self._figures = path, figures
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sdps-health", daemon=True)
        try:
            self.write()
        except OSError as error:
            raise SinkError(
                f"The health file {path} cannot be written: {error.strerror}.", "Choose another file."
            ) from None
        self._thread.start()

    def write(self) -> None:
        """Writes it now. Raises OSError."""
        value = {"updated": round(time.time(), 3), "pid": os.getpid(), **self._figures()}
        try:
            self._temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
            self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _work(self) -> None:
        while not self._end.wait(PERIOD):
            with contextlib.suppress(OSError):
                self.write()

    def close(self) -> None:
        """Writes the last state."""
        self._end.set()
        self._thread.join(timeout=1)
        with contextlib.suppress(OSError):
            self.write()
