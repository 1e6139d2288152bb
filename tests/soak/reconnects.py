"""Kills and restarts a real RTSP server many times, and says what became of the stream.

    python -m tests.soak.reconnects [--cycles 50] [--hang]

Prints how long after each return of the server the first frame came, whether a frame came twice or
out of order, and memory, threads and descriptors after the first cycles and at the end. Needs what
the tests of the server need (see tests/runtime/rtsp_server.py). Five seconds a cycle.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from tests.runtime.live import RtspServer, Run

from sdps.runtime.sources import open_source

WARM = 20
"""Cycles after which memory has found its level."""


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
    given = parser.parse_args()
    backs: list[float] = []
    warm: dict[str, Any] = {}
    with RtspServer() as server, Run(open_source(server.uri)) as run:
        for cycle in range(given.cycles):
            run.frames(10)
            if given.hang:
                server.signal(signal.SIGSTOP)
                run.event("stale", after=cycle)
                server.signal(signal.SIGCONT)
                ready = time.monotonic()
            else:
                server.kill()
                run.event("lost", after=len([e for e in run.seen if e.kind == "lost"]))
                time.sleep(random.uniform(0.2, 2.0))
                ready = server.start()
            run.event("recovered", after=cycle, timeout=30)
            run.until(lambda since=ready: run.pipeline._written_at[-1] > since)  # type: ignore[misc]
            backs.append(next(t for t in list(run.pipeline._written_at) if t > ready) - ready)
            if cycle + 1 == min(WARM, given.cycles):
                warm = usage()
        run.frames(10)
        end, numbers, summary = usage(), list(run.sink.numbers), run.pipeline.summary
    figures = {
        "cycles": given.cycles,
        "first_frame_back_s": {f"p{p}": round(float(np.percentile(backs, p)), 2) for p in (50, 95, 100)},
        "frames": len(numbers),
        "twice": len(numbers) - len(set(numbers)),
        "out_of_order": sum(a > b for a, b in itertools.pairwise(numbers)),
        "stale": summary.stale,
        "attempts": summary.reconnects,
        "warm": warm,
        "end": end,
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
