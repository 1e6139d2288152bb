"""Padding and tiles: any size, no seams, and the same as PyTorch on the padded picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.metrics import psnr
from sdps.core.spec import ShapeRange, Size
from sdps.export.tile_means import with_tile_means
from sdps.model import SDPSFNet, SDPSFNetConfig, psfnet
from sdps.model.deploy import DeployNet
from sdps.runtime import tiling
from sdps.runtime.backends import open_backend
from sdps.runtime.backends.identity import IdentityBackend
from sdps.runtime.bundled import resolve
from sdps.runtime.context import FrameContext
from sdps.runtime.derainer import Derainer
from sdps.runtime.grid import Grid, pad
from sdps.runtime.tiling import MAX_PIXELS, begin, default_overlap, receptive_radius, restore

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


def seam(whole: Image, tiled: Image, columns: list[int]) -> float:
    """How much more the picture changes across the tiles' edges than elsewhere: 1 is 'as everywhere'.

    Measured on what the tiles changed, so that the picture's own edges do not count.
    """
    change = np.abs(np.diff(tiled.astype(float) - whole.astype(float), axis=1)).mean((0, 2))
    at = np.zeros(len(change), bool)
    at[[column - 1 for column in columns]] = True
    return float(change[at].mean() / change[~at].mean())


def test_tiles_of_the_bundled_network_fade_without_a_seam(tmp_path: Path) -> None:
    image = pictures()[0][:256, :384]
    onnx.save(with_tile_means(onnx.load(resolve("sdps-nano"))), tmp_path / "means.onnx")
    backend = open_backend(tmp_path / "means.onnx", threads=1)
    whole = restore(backend, image)
    edges = [96, 128, 192, 224, 256, 288]  # where tiles of 128 with 32 overlap begin and end
    faded = restore(backend, image, tile=128, overlap=32)
    assert seam(whole, faded, edges) < 1.3
    with_context = restore(backend, image, 128, 32, FrameContext())
    assert seam(whole, with_context, edges) < 1.6  # of the little that is left, over 40 dB
    assert psnr(with_context, whole) > psnr(faded, whole) + 3
    butted = restore(backend, image, tile=128, overlap=0)
    assert seam(whole, butted, [128, 256]) > 5, "the measure finds a seam where there is one"


@given(height=st.integers(1, 300), width=st.integers(1, 300), overlap=st.sampled_from([0, 5, 16, 20]))
def test_tiles_share_the_whole_area_among_them(height: int, width: int, overlap: int) -> None:
    grid = Grid(np.zeros((height, width, 3), np.uint8), Size(40, 40), overlap)
    shares = list(grid.shares())
    assert len(shares) == len(list(grid.parts()))
    assert min(shares) > 0
    assert abs(sum(shares) - 1) < 1e-5


def pictures() -> list[Image]:
    """The bundled rainy photograph."""
    import cv2

    from sdps.core.samples import PICTURE, sample

    bgr = cv2.imdecode(np.frombuffer(sample(PICTURE).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    return [np.ascontiguousarray(bgr[:, :, ::-1])]


@pytest.mark.parametrize(("tau", "cabs"), [(0, 1), (1, 2)])
def test_the_receptive_radius_is_what_gradients_reach(
    tau: int, cabs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SDPSFNetConfig(tau=tau, features=4, scale_unet=4, scale_orb=4, cabs=cabs)
    torch.manual_seed(0)
    network = SDPSFNet(config).eval().double()  # the farthest influence is below 1e-38
    # Means see everything, so they are taken for constants here.
    monkeypatch.setattr(psfnet, "spatial_mean", lambda x: x.new_full((*x.shape[:2], 1, 1), 0.1))
    manifest = replace(IdentityBackend().manifest, config=asdict(config))
    radius = receptive_radius(manifest)
    side = 2 * (radius // 4 + 8) * 4
    x = torch.zeros(1, 3, side, 32, dtype=torch.float64, requires_grad=True)
    network(x)[-1][0, :, side // 2, 16].sum().backward()
    assert x.grad is not None
    reached = x.grad[0].abs().sum((0, 2)).nonzero().flatten()
    far = max(side // 2 - int(reached.min()), int(reached.max()) - side // 2)
    assert radius - 8 <= far <= radius


def test_the_overlap_follows_the_network() -> None:
    manifest = IdentityBackend().manifest
    nano = replace(manifest, config={"tau": 0, "cabs": 2})
    paper = replace(manifest, config={"tau": 3, "cabs": 8})
    assert (receptive_radius(nano), default_overlap(nano)) == (101, 32)
    assert (receptive_radius(paper), default_overlap(paper)) == (380, 96)


def test_the_papers_protocol_is_a_regular_grid_averaged_uniformly() -> None:
    class Stamping(Counting):
        """Adds its number to each tile."""

        def run(self, batch: Image) -> Image:
            return super().run(batch) + np.uint8(10 * len(self.sizes))

    backend = Stamping()
    out = restore(backend, np.zeros((128, 320, 3), np.uint8), tile=128, overlap=64)[0, :, 0]
    assert backend.sizes == [(128, 128)] * 4
    assert [int(level) for level in out[32::64]] == [10, 15, 25, 35, 40]
    assert len(set(out[64:128].tolist())) == 1, "an average, no ramp"


class Engine(Counting):
    """Takes sizes of two profiles, and two pictures at a time, as an engine does."""

    depth = 2
    limits = (
        ShapeRange(Size(64, 64), Size(64, 96), Size(96, 128)),
        ShapeRange(Size(16, 200), Size(16, 200), Size(32, 240)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Image] = []
        self.most = 0

    def submit(self, batch: Image) -> int:
        self.waiting.append(self.run(batch))
        self.most = max(self.most, len(self.waiting))
        return id(self.waiting[-1])

    def result(self, ticket: int) -> Image:
        assert id(self.waiting[0]) == ticket, "in order"
        return self.waiting.pop(0)


@pytest.mark.parametrize(
    ("size", "tile", "given"),
    [
        ((80, 100), None, (80, 100)),  # fits
        ((10, 10), None, (16, 200)),  # smaller than the smallest: the fewest pixels
        ((20, 210), None, (20, 212)),  # another profile's
        ((300, 300), None, (96, 128)),  # larger than the largest: tiles
        ((40, 300), None, (64, 128)),
        ((300, 300), 64, (64, 64)),
        ((300, 300), 512, (96, 128)),  # a tile that it does not take
    ],
)
def test_an_engine_is_given_sizes_that_it_takes(
    size: tuple[int, int], tile: int | None, given: tuple[int, int]
) -> None:
    backend, image = Engine(), noise(*size)
    assert np.array_equal(restore(backend, image, tile), image)
    assert set(backend.sizes) == {given}


def test_tiles_and_pictures_are_in_flight_as_deep_as_the_engine_allows() -> None:
    backend = Engine()
    restore(backend, noise(300, 300))
    assert backend.most == 2
    derainer, images = Derainer(backend), [noise(80, 96 + i) for i in range(2)]
    waiting = [derainer.begin(image) for image in images]
    assert len(backend.waiting) == derainer.depth == 2
    assert all(np.array_equal(wait(), image) for wait, image in zip(waiting, images, strict=True))
    assert np.array_equal(begin(backend, images[0])(), images[0])


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
    ("tile", "overlap", "says"), [(30, 4, "multiple of 4"), (32, 17, "at most half"), (32, -1, "overlap")]
)
def test_tiles_that_do_not_fit(tile: int, overlap: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        restore(IdentityBackend(), noise(100, 100), tile, overlap)


def test_a_stream_is_tiled_or_not_once_for_each_size(
    graph_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that others take meanwhile does not change the size that an engine was compiled for."""
    sides = iter([512, 64])
    monkeypatch.setattr(tiling, "tile_side", lambda manifest: next(sides))
    with Derainer.load(graph_path(), "cpu", threads=1) as derainer:
        picture = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
        whole = derainer(picture)
        assert np.array_equal(derainer(picture), whole)
        assert derainer(picture[:1, :1]).shape == (1, 1, 3)
        assert next(sides, None) is None
