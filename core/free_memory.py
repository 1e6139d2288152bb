"""How much memory is free for this process."""

from __future__ import annotations

from pathlib import Path


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
