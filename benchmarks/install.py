"""What the CPU install weighs, and how long it takes to import: `python -m sdps.benchmarks.install`.

Counts the files of sdps and of everything that its extra `cpu` brings, as the packages list them, in
the environment that it runs in; byte code is not counted (pip writes it, and --no-compile does not).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

TIMES = 7
STATEMENTS = (
    "import sdps",
    "from sdps.runtime import Derainer, Pipeline, open_sink, open_source",
)


def closure(extra: str = "cpu") -> dict[str, Distribution]:
    """The distributions of sdps with that extra ('' for none), and what they need in turn, by name."""
    found: dict[str, Distribution] = {}
    names = ["sdps"]
    while names:
        name = names.pop()
        if name in found:
            continue
        found[name] = distribution(name)
        for text in found[name].requires or []:
            wanted, _, marker = text.partition(";")
            if "extra" in marker and not (name == "sdps" and f'extra == "{extra}"' in marker):
                continue
            if "platform_system" in marker or "sys_platform" in marker or "python_version" in marker:
                continue
            match = re.match(r"[\w.-]+", wanted)
            if match:
                names.append(re.sub(r"[-_.]+", "-", match.group()).lower())
    return found


def megabytes(package: Distribution) -> float:
    """The size of a package's files on the disk, in 10^6 bytes, without byte code."""
    paths = [Path(str(file.locate())) for file in package.files or [] if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def import_seconds(statement: str) -> float:
    """CPU seconds of an import, the least of some, each in a fresh interpreter, less its own start.

    On an idle machine that is how long it takes; on a busy one the clock would measure the others.
    """

    def least(code: str) -> float:
        seconds = []
        for _ in range(TIMES):
            before = os.times()
            subprocess.run([sys.executable, "-c", code], check=True)
            after = os.times()
            children = (after.children_user, after.children_system)
            seconds.append(sum(children) - before.children_user - before.children_system)
        return min(seconds)

    return max(0.0, least(statement) - least("pass"))


def main() -> None:
    """Prints both."""
    sizes = {name: megabytes(package) for name, package in closure().items()}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        if size >= 1:
            print(f"{name:28}{size:8.1f} MB")
    print(f"{'everything':28}{sum(sizes.values()):8.1f} MB")
    print(f"{'without the engines':28}{sum(sizes[name] for name in closure('')):8.1f} MB")
    for statement in STATEMENTS:
        print(f"{statement}: {import_seconds(statement):.2f} s of CPU")


if __name__ == "__main__":
    main()
