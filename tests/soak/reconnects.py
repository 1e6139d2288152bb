"""Kills and restarts a real RTSP server many times, and says what became of the stream.

    python -m tests.soak.reconnects [--cycles 50] [--hang | --mixed] [--minutes 30] [--log usage.jsonl]

Prints how long after each return of the server the first frame came, whether a frame came twice or
out of order, and memory, threads and descriptors after the first cycles, at the end, and at most
while it ran. Needs what the tests of the server need (see tests/runtime/rtsp_server.py). Five
seconds a cycle.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import signal
import threading
import time
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tests.runtime.live import Collector, RtspServer, Run

from sdps.core.frame import Frame
from sdps.runtime.sources import open_source

WARM = 20
"""Cycles after which memory has found its level."""


class Numbers(Collector):
    """Only the numbers, eight bytes each: what the watcher keeps must not look like a leak."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: Any = array("q")

    def write(self, rainy: Frame, clean: Frame) -> bool:
        super().write(rainy, clean)
        self.marked.clear()
        return True


def usage() -> dict[str, Any]:
    """Of this process: resident memory in MB, threads, descriptors."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        "threads": threading.active_count(),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }


def main() -> None:
    """Runs the cycles and prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--hang", action="store_true", help="stop and continue it, instead of killing it")
    parser.add_argument("--mixed", action="store_true", help="one after the other")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no cycle begins after these")
    parser.add_argument("--log", type=Path, help="memory, threads and descriptors after each cycle")
    given = parser.parse_args()
    backs: dict[str, list[float]] = {"killed": [], "hung": []}
    used: list[dict[str, Any]] = []
    begin = time.monotonic()
    with RtspServer() as server, Run(open_source(server.uri), Numbers()) as run:
        while len(used) < given.cycles and time.monotonic() - begin < 60 * given.minutes:
            run.frames(10)
            hang = given.hang or (given.mixed and len(used) % 2 == 1)
            before = Counter(event.kind for event in run.seen)
            if hang:
                server.signal(signal.SIGSTOP)
                run.event("stale", after=before["stale"])
                server.signal(signal.SIGCONT)
                ready = time.monotonic()
            else:
                server.kill()
                run.event("lost", after=before["lost"])
                time.sleep(random.uniform(0.2, 2.0))
                ready = server.start()
            run.event("recovered", after=before["recovered"], timeout=30)
            run.until(lambda since=ready: run.pipeline._written_at[-1] > since)  # type: ignore[misc]
            back = next(t for t in list(run.pipeline._written_at) if t > ready) - ready
            backs["hung" if hang else "killed"].append(back)
            used.append({"minute": round((time.monotonic() - begin) / 60, 2), **usage()})
            if given.log:
                with given.log.open("a") as log:
                    log.write(json.dumps(used[-1] | {"back_s": round(back, 2), "hung": hang}) + "\n")
        run.frames(10)
        numbers, summary = list(run.sink.numbers), run.pipeline.summary
    figures = {
        "cycles": {way: len(seconds) for way, seconds in backs.items()},
        "first_frame_back_s": {
            way: {f"p{p}": round(float(np.percentile(seconds, p)), 2) for p in (50, 95, 100)}
            for way, seconds in backs.items()
            if seconds
        },
        "frames": len(numbers),
        "twice": len(numbers) - len(set(numbers)),
        "out_of_order": sum(a > b for a, b in itertools.pairwise(numbers)),
        "stale": summary.stale,
        "attempts": summary.reconnects,
        "warm": used[min(WARM, len(used)) - 1],
        "end": used[-1],
        "most": {key: max(each[key] for each in used) for key in ("mb", "threads", "descriptors")},
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
