"""Padding and tiles: any size, no seams, and the same as PyTorch on the padded picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.spec import Size
from sdps.model import SDPSFNet
from sdps.model.deploy import DeployNet
from sdps.runtime.backends import open_backend
from sdps.runtime.backends.identity import IdentityBackend
from sdps.runtime.tiling import MAX_PIXELS, pad, restore

MakePicture = Callable[[int, int], Image]


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Counting(IdentityBackend):
    """Remembers the sizes that the graph was asked for."""

    def __init__(self, size: str = "dynamic") -> None:
        super().__init__(size)
        self.sizes: list[tuple[int, ...]] = []

    def run(self, batch: Image) -> Image:
        self.sizes.append(batch.shape[1:3])
        return super().run(batch)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    tile=st.sampled_from([16, 40, 64]),
    overlap=st.integers(0, 7),
)
def test_tiles_of_a_dynamic_graph_join_without_a_trace(
    height: int, width: int, tile: int, overlap: int
) -> None:
    image, backend = noise(height, width), Counting()
    assert np.array_equal(restore(backend, image, tile, overlap), image)
    assert all(h % 4 == 0 and w % 4 == 0 and h <= tile and w <= tile for h, w in backend.sizes)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 120), width=st.integers(1, 120))
def test_a_fixed_graph_takes_pictures_of_any_size(height: int, width: int) -> None:
    image, backend = noise(height, width), Counting("48x61")
    assert np.array_equal(restore(backend, image), image)
    assert set(backend.sizes) == {(48, 61)}


def test_a_whole_picture_is_run_once_and_equals_pytorch_on_the_padded_one(
    graph_path: Callable[..., Path], tiny_network: SDPSFNet, picture: MakePicture
) -> None:
    image = picture(61, 90)
    backend = open_backend(graph_path("fp32", "dynamic"), "cpu")
    restored = restore(backend, image)
    with torch.inference_mode():
        expected = DeployNet(tiny_network)(torch.from_numpy(pad(image, Size(64, 92)))[None])[0, :61, :90]
    assert np.abs(restored.astype(int) - expected.numpy().astype(int)).max() <= 1


def test_tiles_of_a_real_network_show_no_seam(graph_path: Callable[..., Path], picture: MakePicture) -> None:
    image = picture(160, 224)
    backend = open_backend(graph_path("fp32", "dynamic"), "cpu")
    whole = restore(backend, image).astype(int)
    tiled = restore(backend, image, tile=96, overlap=32).astype(int)
    change = np.abs(np.diff(tiled - whole, axis=1)).mean((0, 2))
    # A seam would be a column where the difference jumps, much more than it does elsewhere.
    assert change.max() < 4 * np.median(change) + 1.5


def test_reflection_goes_to_and_fro_in_a_tiny_picture() -> None:
    line = np.arange(3, dtype=np.uint8)[None, :, None].repeat(3, 2)
    assert pad(line, Size(1, 9))[0, :, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert pad(noise(1, 1), Size(8, 8)).shape == (8, 8, 3)


def test_a_huge_picture_is_tiled_unasked() -> None:
    backend = Counting()
    image = np.zeros((1100, MAX_PIXELS // 1000, 3), np.uint8)
    assert restore(backend, image).shape == image.shape
    assert len(backend.sizes) > 1


@pytest.mark.parametrize(
    ("tile", "overlap", "says"), [(30, 4, "multiple of 4"), (32, 16, "less than half"), (32, -1, "overlap")]
)
def test_tiles_that_do_not_fit(tile: int, overlap: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        restore(IdentityBackend(), noise(100, 100), tile, overlap)
