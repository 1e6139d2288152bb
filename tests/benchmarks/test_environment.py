"""The fingerprint changes with what makes runs unlike, and with nothing else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sdps.benchmarks.environment import Environment
from sdps.core.version import __version__


def test_capture_knows_this_machine() -> None:
    found = Environment.capture()
    assert 1 <= found.cores <= len(os.sched_getaffinity(0))
    assert found.cpu
    assert found.memory_gb > 0.1
    assert found.libraries["sdps"] == __version__
    assert {"torch", "numpy"} <= found.libraries.keys()


def test_fewer_usable_cores_are_seen() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert Environment.capture().cores == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_the_quota_and_the_limit_of_a_container_are_seen(tmp_path: Path) -> None:
    for name, text in {
        "proc/self/cgroup": "0::/\n",
        "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\n",
        "sys/fs/cgroup/cpu.max": "100000 100000\n",
        "sys/fs/cgroup/memory.max": "2000000000\n",
        "sys/fs/cgroup/memory.current": "500000000\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = Environment.capture(tmp_path)
    assert (found.cores, found.memory_gb) == (1, 2.0)


def test_what_windows_lacks_is_done_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "getloadavg")
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.delattr(os, "sched_getaffinity")
    found = Environment.capture(tmp_path)  # no /proc either
    assert (found.memory_gb, found.load, found.busy) == (0.0, 0.0, False)


def test_load_and_time_do_not_make_machines_unlike() -> None:
    found = Environment.capture()
    assert replace(found, load=99.0, time="2000-01-01T00:00:00Z").fingerprint == found.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"cores": 999},
        {"cpu": "other"},
        {"libraries": {"torch": "0"}},
        {"power": "15W"},
        {"gpu": "H200, 1"},
        {"python": "2.7"},
    ],
)
def test_what_matters_makes_them_unlike(change: dict[str, object]) -> None:
    found = Environment.capture()
    assert replace(found, **change).fingerprint != found.fingerprint  # type: ignore[arg-type]


def test_busy_is_relative_to_the_cores() -> None:
    found = replace(Environment.capture(), cores=4)
    assert replace(found, load=2.5).busy
    assert not replace(found, load=1.5).busy
