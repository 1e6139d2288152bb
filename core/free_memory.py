"""How much memory there is and how much of it is free for this process, by every limit there is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from sdps.core.machine import ROOT, control_groups, text

VERSIONS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, use, and the line of memory.stat with what can be reclaimed: control groups of version 2 and 1."""


@dataclass(frozen=True)
class Memory:
    """In GB (1e9 bytes): all within the limit of the container, and what this process can still take."""

    total_gb: float
    available_gb: float


def memory(root: Path = ROOT) -> Memory:
    """The memory of this machine or container; a total of 0 where none can be told."""
    total = min([_total(root), *(limit for limit, _ in _groups(root))])
    return Memory(round(total / 1e9, 1), round(free_memory(root) / 1e9, 1))


def free_memory(root: Path = ROOT) -> int:
    """Bytes that this process can still take: the least of what the machine, its control groups (of
    both versions) and its own limit of addresses leave. Where nothing can be told, 2 GiB.

    Args:
        root: Where /proc and /sys are; another one for tests.
    """
    limits = [_rows(root).get("MemAvailable"), *(room for _, room in _groups(root)), _address_room(root)]
    return min((limit for limit in limits if limit is not None), default=2 << 30)


def _total(root: Path) -> int:
    """Of the whole machine: as /proc tells, else (macOS) as the C library does; 0 on Windows."""
    if (told := _rows(root).get("MemTotal")) or root != ROOT or not hasattr(os, "sysconf"):
        return told or 0
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0


def _rows(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    found = re.findall(r"^(\w+):\s*(\d+) kB", text(root / "proc/meminfo"), re.MULTILINE)
    return {key: int(value) << 10 for key, value in found}


def _groups(root: Path) -> list[tuple[int, int]]:
    """Limit and room (limit - use + what can be reclaimed) of each control group that has a limit."""
    found = []
    for folder in control_groups(root, "memory"):
        for limit_name, use_name, reclaimable in VERSIONS:
            limit, used = _number(folder / limit_name), _number(folder / use_name)
            if limit is not None and used is not None and limit < 1 << 60:  # version 1 says 'none' so
                found.append((limit, max(0, limit - used + _stat(folder / "memory.stat", reclaimable))))
    return found


def _address_room(root: Path) -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    used = re.search(r"^VmSize:\s*(\d+) kB", text(root / "proc/self/status"), re.MULTILINE)
    return max(0, limit - (int(used[1]) << 10 if used else 0))


def _number(path: Path) -> int | None:
    found = text(path).strip()
    return int(found) if found.isdigit() else None  # 'max' is no limit


def _stat(path: Path, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", text(path), re.MULTILINE)
    return int(found[1]) if found else 0
