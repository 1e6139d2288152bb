"""Memory that is free, by every limit there is, and tiles that fit it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sdps.core.manifest import GraphManifest
from sdps.runtime.bundled import resolve
from sdps.runtime.graph_file import read_graph
from sdps.runtime.room import LARGEST_TILE, SMALLEST_TILE, bytes_per_pixel, free_memory, tile_side

GIB = 1 << 30


def nano() -> GraphManifest:
    return read_graph(resolve("sdps-nano"))[1]


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


def test_tiles_grow_with_memory_between_two_bounds() -> None:
    sides = [tile_side(nano(), free) for free in (0, GIB // 4, GIB // 2, GIB, 64 * GIB)]
    assert sides[0] == SMALLEST_TILE
    assert sides == sorted(sides)
    assert sides[-1] == LARGEST_TILE
    assert all(side % 32 == 0 for side in sides)
    full = GraphManifest(
        "full", "", "SDPSFNet", {"features": 40, "scale_orb": 16}, "fp32", "dynamic", (), (), ""
    )
    assert bytes_per_pixel(full.config) > 4 * bytes_per_pixel(nano().config)
    assert bytes_per_pixel({"features": [32, 64]}) == bytes_per_pixel({}) == bytes_per_pixel(full.config)


CODE = """
import resource, numpy, sys
from sdps import Derainer
derainer = Derainer.load("sdps-nano", sys.argv[1], threads=1)
picture = numpy.zeros((600, 700, 3), "uint8")
derainer(picture[:128, :128])
used = next(int(x.split()[1]) << 10 for x in open("/proc/self/status") if x.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + (350 << 20),) * 2)
assert derainer(picture).shape == picture.shape
print(derainer._tiles[picture.shape])
"""


@pytest.mark.parametrize("provider", ["openvino", "cpu"])
def test_fault_35_under_a_limit_the_tiles_shrink_before_anything_fails(provider: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, provider], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert SMALLEST_TILE <= int(done.stdout) < 600


FLAT = """
import resource, numpy
from sdps.runtime.backends.identity import IdentityBackend
from sdps.runtime.tiling import restore
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
picture = numpy.random.default_rng(0).integers(0, 256, (2160, 3840, 3), dtype=numpy.uint8)
restore(IdentityBackend(), picture[:512, :512], 256)
before = peak()
assert numpy.array_equal(restore(IdentityBackend(), picture, 512), picture)
print((peak() - before) / picture.nbytes)
"""


def test_a_4k_picture_takes_a_few_times_its_own_bytes() -> None:
    """The result, one band of tiles in float, and nothing that grows with the number of tiles."""
    done = subprocess.run([sys.executable, "-c", FLAT], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 4.5


SIZES = """
import numpy
from sdps.runtime.backends import open_backend
backend, random = open_backend("sdps-nano", "cpu", 1), numpy.random.default_rng(0)
rss = lambda: next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith("VmRSS")) / 1024
at = {}
for i in range(141):
    if i in (40, 140):
        at[i] = rss()
    height, width = 4 * random.integers(8, 30, 2)
    backend.run(numpy.zeros((1, height, width, 3), "uint8"))
print(at[140] - at[40])
"""


def test_changing_sizes_do_not_make_onnx_runtime_grow() -> None:
    done = subprocess.run([sys.executable, "-c", SIZES], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 12
