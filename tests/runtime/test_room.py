"""Tiles that fit the free memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sdps.core.manifest import GraphManifest
from sdps.runtime.bundled import resolve
from sdps.runtime.graph_file import read_graph
from sdps.runtime.room import LARGEST_TILE, SMALLEST_TILE, bytes_per_pixel, tile_side

GIB = 1 << 30


def nano() -> GraphManifest:
    return read_graph(resolve("sdps-nano"))[1]


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
