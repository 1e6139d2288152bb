"""Kills recordings at random moments, and says how much of each is lost.

    python -m tests.soak.kills [--times 20] [--suffix .mp4]

A live source of 25 frames/s is recorded; a frame counts as written when the sink has taken it.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

from tests.runtime.test_faults_files import playable, recording, wait_for

RATE = 25


def main() -> None:
    """Runs the kills and prints the seconds lost as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--suffix", default=".mp4")
    given = parser.parse_args()
    lost = []
    for _ in range(given.times):
        with tempfile.TemporaryDirectory() as folder:
            with recording(Path(folder) / f"out{given.suffix}") as process:
                target = random.randint(30, 120)
                wait_for(process, target)
                process.kill()
                rest, _errors = process.communicate()
            written = max([target, *(int(line) for line in rest.split() if line.isdecimal())])
            lost.append(round((written - playable(next(Path(folder).iterdir()))) / RATE, 2))
    figures = {"recordings": given.times, "suffix": given.suffix, "most_lost_s": max(lost), "lost_s": lost}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
