"""Small real networks and graphs that many tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from filelock import FileLock

from sdps import __version__
from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest
from sdps.export.onnx_export import describe, export_graph
from sdps.export.precision import to_fp16
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.model.deploy import MEAN, STD

# Small networks on cores that others use too: two threads waiting for each other take ten times as long.
torch.set_num_threads(1)

SLOW = (
    "test_int8_export.py",
    "test_qat.py",
    "test_precision.py",
    "test_rewrite.py",
    "test_engine.py",
    "test_qdq.py",
)
"""Files of a minute or more; a worker that began one of them last would keep all others waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow files first; the Makefile keeps xdist from ordering them by their number of tests."""
    items.sort(key=lambda item: item.path.name not in SLOW)


TINY = SDPSFNetConfig(tau=1, features=8, scale_unet=4, scale_orb=4, cabs=1)


def _shared(base: pytest.TempPathFactory) -> Path:
    """A folder of all processes that share the tests."""
    folder = base.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Each kind of network is traced once for all tests: tracing takes most of their time."""
    folder = _shared(tmp_path_factory) / "traces"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sdps.export.tracing.folder", lambda: folder)
        yield folder


@pytest.fixture(scope="session")
def tiny_network() -> SDPSFNet:
    """A random network, small enough to run in milliseconds, that changes the picture mildly."""
    torch.manual_seed(0)
    network = SDPSFNet(TINY).eval().requires_grad_(False)
    # The last residual stays small, as in a trained net, so outputs are not clipped everywhere.
    network.stage_osr.tail.weight.mul_(0.2)
    return network


@pytest.fixture(scope="session")
def graph_path(tiny_network: SDPSFNet, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """graph_path('fp32', '64x96') or ('fp16', 'dynamic'): the tiny network as an ONNX file, made once."""
    folder = _shared(tmp_path_factory)

    def make(precision: str = "fp32", size: str = "dynamic") -> Path:
        path = folder / f"tiny-{precision}-{size}.onnx"
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                config = dict(TINY.__dict__)
                manifest = GraphManifest(
                    "tiny", "0" * 64, "SDPSFNet", config, precision, size, MEAN, STD, __version__
                )
                if precision == "fp16":
                    model = to_fp16(onnx.load(make("fp32", size)))
                    describe(model, manifest)
                else:
                    model = export_graph(tiny_network, manifest)
                onnx.save(model, path)
        return path

    return make


@pytest.fixture
def picture() -> Callable[[int, int], Image]:
    """picture(height, width): a smooth, colourful test picture with some texture, the same every time."""

    def make(height: int, width: int) -> Image:
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        waves = [128 + 90 * np.sin(x / 17 + i) * np.cos(y / (11 + 3 * i)) for i in range(3)]
        noise = np.random.default_rng(7).normal(0, 8, (height, width, 3))
        return np.clip(np.stack(waves, 2) + noise, 0, 255).astype(np.uint8)

    return make
