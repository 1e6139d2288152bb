"""`--context frame`: tiles with the means of their frame, from the export to the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.means import Means, means_input
from sdps.core.metrics import psnr
from sdps.core.samples import PICTURE, sample
from sdps.export.tile_means import with_tile_means
from sdps.runtime.backends import open_backend
from sdps.runtime.backends.means_rows import ALIGNMENT, MeansRows
from sdps.runtime.backends.ort import OrtBackend
from sdps.runtime.bundled import resolve
from sdps.runtime.context import FrameContext
from sdps.runtime.derainer import Derainer
from sdps.runtime.in_flight import InFlight
from sdps.runtime.picture_sink import encode_picture
from sdps.runtime.picture_source import PictureSource
from sdps.runtime.tiling import restore

from .test_in_flight import LazyCuda


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled network as a graph with tile means, of any size."""
    path = tmp_path_factory.mktemp("means") / "nano-means.onnx"
    onnx.save(with_tile_means(onnx.load(resolve("sdps-nano"))), path)
    return path


@pytest.fixture(scope="module")
def rainy() -> Image:
    """The bundled rainy photograph."""
    return next(iter(PictureSource([sample(PICTURE)]))).image


def run(command: Any, *arguments: str | Path) -> Any:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_from_export_to_picture_the_frames_means_come_nearer_to_the_whole(
    rainy: Image, tmp_path: Path
) -> None:
    from sdps.export.cli import app as export
    from sdps.runtime.cli import app as run_app

    made = run(export, "sdps-nano", "--tile-means", "--size", 128, "--engine", "none", "--out", tmp_path)
    assert made.exit_code == 0, made.output
    graph = tmp_path / "sdps-nano-fp32-128x128-means.onnx"
    assert open_backend(graph, "cpu").manifest.tile_means == 340
    part, picture = tmp_path / "part.png", rainy[:320, 192:576].copy()
    picture[:, 256:] //= 3  # so that the tiles' means are others
    part.write_bytes(encode_picture(picture, ".png"))
    pictures: dict[str, Image] = {}
    for name, options in {
        "whole": ("--model", "sdps-nano"),
        "tile": ("--model", graph, "--context", "tile"),
        "frame": ("--model", graph, "--context", "frame"),
        "default": ("--model", graph),
    }.items():
        out = tmp_path / f"{name}.png"
        common = ("--input", part, "--output", out, "--provider", "cpu", "--tile", 128)
        # The graph of any size takes the picture whole.
        common = common[:-2] if name == "whole" else common
        result = run(run_app, *common, *options)
        assert result.exit_code == 0, result.output
        pictures[name] = next(iter(PictureSource([out]))).image
    near = {name: psnr(pictures[name], pictures["whole"]) for name in ("tile", "frame")}
    assert near["frame"] > near["tile"] + 3
    assert np.array_equal(pictures["default"], pictures["frame"])


@pytest.mark.parametrize("name", ["sdps-nano", "identity"])
def test_a_model_that_takes_no_means_is_one_line_that_says_how_to_make_one(tmp_path: Path, name: str) -> None:
    from sdps.runtime.cli import app

    model = ("--provider", "identity") if name == "identity" else ("--model", name, "--provider", "cpu")
    result = run(
        app, "--input", sample(PICTURE), "--output", tmp_path / "x.png", "--context", "frame", *model
    )
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert "takes no means of the whole frame" in lines[-1]
    assert "sdps-export CHECKPOINT --tile-means" in lines[-1]
    assert not any(line.startswith("Traceback") for line in lines)
    with pytest.raises(UsageError, match="no context 'room'"):
        Derainer.load(provider="identity", context="room")


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_every_backend_gives_and_takes_the_same_means(model: Path, rainy: Image, provider: str) -> None:
    backend, plain = open_backend(model, provider, 1), open_backend("sdps-nano", "cpu", 1)
    tile = np.ascontiguousarray(rainy[None, :64, :96])
    own, means = backend.run_with(tile, None)  # type: ignore[attr-defined]
    assert (means.shape, means.dtype) == ((340,), np.float32)
    assert np.abs(own.astype(int) - plain.run(tile)).max() <= 1
    assert np.array_equal(backend.run(tile), own), "without the context it is the model as it was"
    _, others = backend.run_with(np.ascontiguousarray(rainy[None, 64:, :96]), None)  # type: ignore[attr-defined]
    given, found = backend.run_with(tile, others)  # type: ignore[attr-defined]
    assert np.abs(given.astype(int) - own).max() > 3
    assert np.abs(found - others).max() > 0.01, "it tells the tile's means, not those that it was given"
    own[:], means[:] = 0, 0
    assert np.array_equal(backend.run_with(tile, others)[0], given)  # type: ignore[attr-defined]


class Counting(OrtBackend):
    """Counts tiles, by whether they were given means."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "cpu", 1)
        self.own = self.given = 0

    def run_with(self, batch: Image, means: Means | None) -> tuple[Image, Means]:
        self.own, self.given = self.own + (means is None), self.given + (means is not None)
        return super().run_with(batch, means)

    def passes(self) -> tuple[int, int]:
        """Tiles since the last call."""
        counted, self.own, self.given = (self.own, self.given), 0, 0
        return counted


def test_a_video_needs_one_pass_but_for_its_first_frame_and_another_scene(model: Path, rainy: Image) -> None:
    backend = Counting(model)
    derainer = Derainer(backend, 64, 16, "frame", video=True)
    scene, dark = np.ascontiguousarray(rainy[:64, :160]), np.ascontiguousarray(rainy[:64, :160] // 4)
    tiles = 3
    first = derainer(scene)
    assert backend.passes() == (tiles, tiles)
    moved = derainer(np.roll(scene, 2, 1))
    assert backend.passes() == (0, tiles)
    assert psnr(np.roll(moved, -2, 1)[:, 8:-8], first[:, 8:-8]) > 30
    cut = derainer(dark)
    assert backend.passes() == (tiles, 2 * tiles)
    pictures = Derainer(Counting(model), 64, 16, "frame")
    assert np.array_equal(cut, pictures(dark)), "nothing of the other scene is left"
    derainer(np.ascontiguousarray(rainy[:128, :160]))
    assert backend.passes() == (3 * tiles, 3 * tiles), "frames of another size have other means"
    assert np.array_equal(pictures(dark), pictures(dark)), "pictures know nothing of each other"


def test_a_frame_that_runs_whole_has_no_use_for_a_context(model: Path, rainy: Image) -> None:
    backend = Counting(model)
    image = np.ascontiguousarray(rainy[:64, :96])
    restored = restore(backend, image, tile=96, context=FrameContext())
    assert np.array_equal(restored, backend.run(image[None])[0])
    assert backend.passes() == (0, 0)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (64, 96), (128, 128), (61, 90), (8, 400)])
def test_means_in_rows_below_the_picture_arrive(height: int, width: int) -> None:
    """Through frames in flight, to an engine that adds the means that it is given to those of the picture."""
    count, cuda = 340, LazyCuda(False, 0)
    rows = MeansRows(count)

    def enqueue(source: int, target: int, shape: tuple[int, ...], stream: int) -> None:
        picture, begin = rows.picture(shape), rows.offset(rows.picture(shape))
        assert picture == (1, height, width, 3)
        assert begin % ALIGNMENT == 0

        def work() -> None:
            read, written = cuda.memory[source], cuda.memory[target]
            size = height * width * 3
            written[:size] = 255 - read[:size]
            fed = read[begin : begin + 4 * (count + 1)].view(np.float32)
            written[begin : begin + 4 * count] = (fed[:count] + fed[count]).view(np.uint8)

        cuda.give(cuda.streams[stream], work)

    flight = InFlight(cuda, enqueue, 2, graphs=True)
    rng = np.random.default_rng(height)
    for _ in range(4):
        image = rng.integers(0, 256, (1, height, width, 3), np.uint8)
        means = rng.normal(size=count).astype(np.float32)
        tickets = [flight.submit(rows.pack(image, given)) for given in (means, None)]
        (restored, told), (_, own) = [rows.unpack(flight.result(ticket)) for ticket in tickets]
        assert np.array_equal(restored, 255 - image)
        assert np.array_equal(told, means + 1)
        assert not own.any()
    assert np.array_equal(MeansRows(0).pack(image, None), image)
    assert means_input(2).ravel().tolist() == [0, 0, 0]
