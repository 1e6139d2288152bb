"""How frames go from thread to thread: nobody waits for longer than it takes to hear that the run ends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

EVERY = 0.1
"""Seconds after which those who wait look up."""


def put(target: queue.Queue[Any], item: Any, ended: threading.Event) -> bool:
    """Waits for room; False if the run ended before there was any."""
    while not ended.is_set():
        try:
            target.put(item, timeout=EVERY)
            return True
        except queue.Full:
            continue
    return False


def get(origin: queue.Queue[Any], ended: threading.Event, idle: Callable[[], None] | None = None) -> Any:
    """Waits for an item and calls `idle` meanwhile; None if the run ended before there was any."""
    while not ended.is_set():
        try:
            return origin.get(timeout=EVERY)
        except queue.Empty:
            if idle:
                idle()
    return None


def offer_newest(target: queue.Queue[Any], item: Any) -> int:
    """Puts an item in the place of the oldest where there is no room; how many it took the place of."""
    overtaken = 0
    while True:
        try:
            target.put_nowait(item)
            return overtaken
        except queue.Full:
            try:
                target.get_nowait()
                overtaken += 1
            except queue.Empty:
                continue


def drain(*queues: queue.Queue[Any]) -> None:
    """Throws away what waits."""
    for waiting in queues:
        while not waiting.empty():
            waiting.get_nowait()
