"""How much memory is free for this process, and how large a tile it holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdps.core.manifest import GraphManifest

SHARE = 0.5
"""Of the free memory that a tile may take: other processes grow too, and frames wait in queues."""
SMALLEST_TILE, LARGEST_TILE = 256, 1024
"""Tiles of 128 lose a decibel and more, as the network takes means over what it sees; from 256 on
hardly any (docs/tiling.md)."""
MAPS = 22
"""Full-resolution maps of the widest kind in FP32 that an engine holds at its peak: measured 16 to 25
in ONNX Runtime, 6 to 13 in OpenVINO with one picture and 13 to 16 with two in flight, for the bundled
models and the paper's network (docs/tiling.md)."""
PAPER_WIDTHS = 40 + 16


def bytes_per_pixel(config: Mapping[str, Any]) -> int:
    """About the memory that a network's feature maps take at their peak, per pixel of the picture.

    FP16 graphs count as FP32, since CPUs compute them so.

    Args:
        config: The network's widths, as a graph's description has them; of an unknown one the paper's.
    """
    widths = [config.get(key) for key in ("features", "scale_orb")]
    known = [width for width in widths if isinstance(width, int)]
    return MAPS * 4 * (sum(known) if len(known) == len(widths) else PAPER_WIDTHS)


def tile_side(manifest: GraphManifest, free: int | None = None) -> int:
    """The side of square tiles that fit the memory that is free now, a multiple of 32.

    Args:
        manifest: Of the graph.
        free: Bytes; None to ask the system.
    """
    free = free_memory() if free is None else free
    side = math.isqrt(int(SHARE * free) // bytes_per_pixel(manifest.config))
    return max(SMALLEST_TILE, min(LARGEST_TILE, side)) // 32 * 32


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still take: the least of what the machine, its control groups (of
    both versions) and its own limit of addresses leave. Where nothing can be told, 2 GiB.

    Args:
        root: Where /proc and /sys are; another one for tests.
    """
    limits = [_available(root), _cgroup_room(root), _address_room(root)]
    return min((limit for limit in limits if limit is not None), default=2 << 30)


def _available(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def _cgroup_room(root: Path) -> int | None:
    """Of this process's control group and all above it, the least of limit - use + what can be reclaimed."""
    rooms = []
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the path may be the host's; its own group is then the mount itself.
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(base):
                break
            limit, used = _number(folder / names[0]), _number(folder / names[1])
            if limit is not None and used is not None and limit < 1 << 60:  # version 1 says 'none' so
                rooms.append(max(0, limit - used + _stat(folder / "memory.stat", names[2])))
    return min(rooms, default=None)


def _address_room(root: Path) -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    used = next(
        (int(line.split()[1]) << 10 for line in _lines(root / "proc/self/status") if "VmSize" in line), 0
    )
    return max(0, limit - used)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None  # 'max' is no limit


def _stat(path: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _lines(path) if line.split()[:1] == [name]), 0)
