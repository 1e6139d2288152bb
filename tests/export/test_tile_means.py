"""Graphs with tile means: the same network, whose means over the picture can be given to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from sdps import __version__
from sdps.core.errors import ExportError
from sdps.core.frame import Image
from sdps.core.manifest import INPUT, OUTPUT, GraphManifest
from sdps.core.means import MEANS_INPUT, MEANS_OUTPUT, Means, means_input
from sdps.core.pictures import decode_picture
from sdps.core.samples import PICTURE, sample
from sdps.core.spec import ShapeRange, Size
from sdps.export.engine import build_engine
from sdps.export.engine_options import RTX
from sdps.export.onnx_export import describe, manifest_of
from sdps.export.parity import onnx_session
from sdps.export.precision import to_fp16
from sdps.export.tile_means import with_tile_means
from sdps.runtime.backends.trt import build_command
from sdps.runtime.bundled import resolve

RADIUS = 101
"""How far the bundled network's convolutions carry (`tiling.receptive_radius`)."""


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def plain(request: pytest.FixtureRequest) -> ModelProto:
    """The bundled network, any size: trained, so its means matter."""
    model = onnx.load(resolve("sdps-nano"))
    if request.param == "fp16":
        manifest = replace(manifest_of(model), precision="fp16")
        model = to_fp16(model)
        describe(model, manifest)
    return model


def run(model: ModelProto, image: Image, means: Means | None = None) -> tuple[Image, Means]:
    fed = means_input(manifest_of(model).tile_means, means)
    restored, found = onnx_session(model).run([OUTPUT, MEANS_OUTPUT], {INPUT: image[None], MEANS_INPUT: fed})
    return restored[0], found.reshape(-1)


def test_with_the_frames_means_a_tile_is_the_frame(
    plain: ModelProto, run_graph: Callable[..., Image]
) -> None:
    """To the rounding, wherever the tile's edge is out of reach: so there is no mean that is not given."""
    model = with_tile_means(plain)
    onnx.checker.check_model(model, full_check=True)
    frame = decode_picture(sample(PICTURE).read_bytes())[200:240, :320].copy()
    frame[:, 200:] //= 3  # so that the tile's means are others
    whole, means = run(model, frame)
    assert np.array_equal(whole, run_graph(plain, frame)), "nothing given, nothing changed"
    tile = np.ascontiguousarray(frame[:, :160])
    own, others = run(model, tile)
    given, _ = run(model, tile, means)
    inside = slice(0, 160 - RADIUS)
    assert np.abs(given[:, inside].astype(int) - whole[:, inside]).max() <= 1
    assert np.abs(own[:, inside].astype(int) - whole[:, inside]).max() > 3
    same, found = run(model, tile, others)
    assert np.array_equal(same, own), "given its own means it is as it was"
    assert np.allclose(found, others, atol=1e-5)


def test_what_the_graph_says_of_it(plain: ModelProto) -> None:
    model = with_tile_means(plain)
    count = manifest_of(model).tile_means
    assert (count, manifest_of(plain).tile_means) == (340, 0)
    assert replace(manifest_of(model), tile_means=0) == manifest_of(plain)
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes[MEANS_INPUT] == [1, count + 1, 1, 1]
    assert shapes[MEANS_OUTPUT][1:] == [count, 1, 1]


def test_rtx_builds_it(plain: ModelProto, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    shapes = ShapeRange(*(Size.parse(text) for text in ("64x64", "64x96", "128x192")))
    data = with_tile_means(plain).SerializeToString()
    sidecar = build_engine(data, tmp_path / "nano.engine", RTX, shapes)
    assert GraphManifest.from_metadata(sidecar.manifest).tile_means == 340
    assert build_command(sidecar).endswith("--tile-means --engine rtx")


def foreign(nodes: str) -> ModelProto:
    """Somebody else's network, from the pictures `x` [n,3,h,w] to `y`."""
    text = f"""
    <ir_version: 10, opset_import: ["" : 18]>
    other (uint8[n, h, w, 3] image) => (uint8[n, h, w, 3] restored)
    <int64[2] axes = {{2, 3}}, int64[4] wide = {{0, 3, 1, 1}}>
    {{
      levels = Cast <to = 1> (image)
      x = Transpose <perm = [0, 3, 1, 2]> (levels)
      {nodes}
      last = Transpose <perm = [0, 2, 3, 1]> (y)
      restored = Cast <to = 2> (last)
    }}"""
    model = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text), data_prop=True)
    zeros, ones = (0.0,) * 3, (1.0,) * 3
    describe(model, GraphManifest("other", "0" * 64, "x", {}, "fp32", "dynamic", zeros, ones, __version__))
    return model


def test_means_without_their_axes(picture: Callable[..., Image]) -> None:
    flat = "m = ReduceMean <keepdims = 0> (x, axes) mean = Reshape (m, wide) y = Max (x, mean)"
    model = with_tile_means(foreign(flat))
    onnx.checker.check_model(model, full_check=True)
    image = picture(32, 48)
    restored, means = run(model, image)
    assert np.allclose(means, image.mean((0, 1)), atol=0.01)
    assert np.array_equal(restored, np.maximum(image, means.astype(np.uint8)))
    given = np.array([200, 0, 77], np.float32)
    assert np.array_equal(run(model, image, given)[0], np.maximum(image, given.astype(np.uint8)))


def test_a_network_without_means_is_refused() -> None:
    with pytest.raises(ExportError, match="takes no means"):
        with_tile_means(foreign("y = Relu (x)"))
