"""The memory that is free, by every limit there is."""

from __future__ import annotations

from pathlib import Path

from sdps.core.free_memory import free_memory, memory

GIB = 1 << 30


def system(root: Path, **files: str) -> Path:
    """A root folder with /proc and /sys files: '__' stands for '/', '_d_' for '.'."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_d_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n"


def test_this_machine_has_some_memory_and_not_more_than_all() -> None:
    total = next(int(x.split()[1]) for x in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in x)
    assert 16 << 20 < free_memory() <= total << 10


def test_without_a_limit_it_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    root = system(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/user\n", sys__fs__cgroup__user="")
    assert free_memory(root) == 8 * GIB
    assert free_memory(tmp_path / "nothing") == 2 * GIB


def test_a_control_group_counts_and_so_does_the_one_above(tmp_path: Path) -> None:
    group = "sys__fs__cgroup__pod__box__memory_d_"
    above = "sys__fs__cgroup__pod__memory_d_"
    files = {
        f"{group}max": str(2 * GIB),
        f"{group}current": str(GIB),
        f"{group}stat": f"anon 5\ninactive_file {GIB // 2}\n",  # a cache the kernel would give up
        f"{above}max": "max\n",
        f"{above}current": str(GIB),
    }
    root = system(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/pod/box\n", **files)
    assert free_memory(root) == GIB + GIB // 2
    # sdps-doctor tells what sdps-run goes by.
    assert (memory(root).total_gb, memory(root).available_gb) == (2.1, 1.6)
    system(root, **{f"{above}max": str(GIB + GIB // 4)})
    assert free_memory(root) == GIB // 4


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    group = "sys__fs__cgroup__memory__"
    root = system(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="7:cpu,memory:/docker/abc\n3:pids:/x\n",  # the host's path, as in a container
        **{f"{group}memory_d_limit_in_bytes": str(GIB), f"{group}memory_d_usage_in_bytes": str(GIB // 4)},
    )
    assert free_memory(root) == GIB - GIB // 4
    system(root, **{f"{group}memory_d_limit_in_bytes": str((1 << 63) - 4096)})
    assert free_memory(root) == 8 * GIB
