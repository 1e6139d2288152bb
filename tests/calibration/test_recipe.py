"""Equalisation, rounding and the whole recipe: what each must not change, and what it must better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from sdps.calibration.drift import Pair, Verifier
from sdps.calibration.equalise import equalise, find_links
from sdps.calibration.layers import Layer, find_layers, prepare, weights_of
from sdps.calibration.observe import observe, observe_cached
from sdps.calibration.qdq import fp16_scale
from sdps.calibration.recipe import Calibrated, Options, calibrate
from sdps.calibration.rounding import as_matrix, columns, fake_quantise, from_matrix, nearest, round_layer
from sdps.calibration.session import open_session, restore
from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.pictures import read_picture
from sdps.core.samples import PICTURE, sample
from sdps.export.graph_macs import macs_by_node
from sdps.export.islands import fp32_islands
from sdps.runtime.bundled import resolve


def test_equalisation_changes_weights_and_no_result(
    model: onnx.ModelProto, layers: list[Layer], scenes: list[Image]
) -> None:
    links = find_links(prepare(model), layers)
    assert len(links) > 5
    evened = equalise(prepare(model), layers, scenes[:4])
    first = links[0].first.weight
    assert not np.allclose(weights_of(model)[first], weights_of(evened)[first])
    plain, other = (restore(open_session(m), scenes[9]) for m in (model, evened))
    assert np.abs(plain.astype(int) - other).max() <= 1


@pytest.mark.filterwarnings("error")
def test_a_link_that_nothing_passes_is_left_alone() -> None:
    """Negative values before a ReLU: no channel has a range to be brought to, and NumPy none to average."""
    text = """<ir_version: 8, opset_import: ["": 18]> g (uint8[1,8,8,2] image) => (float[1,2,8,8] z)
      <float[2,2,1,1] a = {-1,-2,-3,-4}, float[2,2,1,1] b = {1,2,3,4}>
      { c = Cast<to = 1>(image) x = Transpose<perm = [0,3,1,2]>(c)
        y = Conv(x, a) h = Relu(y) z = Conv(h, b) }"""
    model = onnx.parser.parse_model(text)
    layers = [Layer("y", "x", "a", False, 1), Layer("z", "h", "b", False, 1)]
    evened = equalise(model, layers, [np.full((8, 8, 2), 9, np.uint8)])
    assert np.array_equal(weights_of(evened)["a"], weights_of(model)["a"])


def test_links_stop_where_two_read() -> None:
    """A residual's source keeps its scale: its other reader would see another tensor."""
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[1,2,8,8] x) => (float[1,2,8,8] z)
      <float[2,2,1,1] a = {1,2,3,4}, float[2,2,1,1] b = {1,2,3,4}>
      { y = Conv(x, a) h = Relu(y) w = Conv(h, b) z = Add(w, y) }"""
    model = onnx.parser.parse_model(text)
    layers = [Layer("y", "x", "a", False, 1), Layer("w", "h", "b", False, 1)]
    assert find_links(model, layers) == []


def test_a_kernel_larger_than_any_patch_is_rounded_to_nearest() -> None:
    rng = np.random.default_rng(2)
    weight = rng.normal(0, 1, (4, 4, 32, 32)).astype(np.float32)
    patch = rng.normal(0, 1, (1, 4, 18, 18)).astype(np.float32)
    layer = Layer("y", "x", "w", False, 1)
    rounded = round_layer(layer, weight, [patch], fp16_scale(0.02))
    values, scales = nearest(layer, weight)
    assert np.array_equal(rounded.weight, values)
    assert np.array_equal(rounded.scales, scales)
    assert not rounded.bias_shift.any()


def test_compensated_rounding_betters_nearest_on_correlated_inputs() -> None:
    rng = np.random.default_rng(2)
    mix = rng.normal(0, 1, (12, 12))
    patch = np.einsum("ij,jhw->ihw", mix, rng.normal(0, 1, (12, 40, 40)))[None].astype(np.float32)
    weight = rng.normal(0, 1, (8, 12, 3, 3)).astype(np.float32)
    layer = Layer("y", "x", "w", False, 1)
    # A fine activation step leaves the weights' rounding as the only error.
    scale = fp16_scale(np.abs(patch).max() / 127 / 64)
    plain, compensated = (round_layer(layer, weight, [patch], scale * 64, c) for c in (False, True))
    assert compensated.error < plain.error
    assert np.abs(compensated.weight.astype(int) - plain.weight).max() <= 3


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_mean_the_convolution(transposed: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    shape = (4, 6, 2, 2) if transposed else (6, 4, 3, 3)
    weight = rng.normal(0, 1, shape).astype(np.float32)
    patch = rng.normal(0, 1, (1, 4, 7, 9)).astype(np.float32)
    layer = Layer("y", "x", "w", transposed, 1)
    product = columns(layer, weight, [patch]) @ as_matrix(layer, weight).T
    x, w = torch.from_numpy(patch), torch.from_numpy(weight)
    if transposed:
        exact = torch.nn.functional.conv_transpose2d(x, w, stride=2)[0].numpy()  # [6,14,18]
        exact = exact.reshape(6, 7, 2, 9, 2).transpose(1, 3, 0, 2, 4).reshape(63, 24)
    else:
        exact = torch.nn.functional.conv2d(x, w)[0].numpy().reshape(6, -1).T
    assert np.allclose(product, exact, atol=1e-4)
    integers = rng.integers(-127, 128, as_matrix(layer, weight).shape).astype(np.int8)
    assert np.array_equal(as_matrix(layer, from_matrix(layer, integers, shape)), integers)


def test_bias_shift_is_the_mean_error() -> None:
    rng = np.random.default_rng(4)
    patch = rng.gamma(2.0, 1.0, (1, 3, 30, 30)).astype(np.float32)
    weight = rng.normal(0, 1, (5, 3, 1, 1)).astype(np.float32)
    result = round_layer(Layer("y", "x", "w", False, 1), weight, [patch], 0.125, compensate=False)
    stored = result.weight * result.scales[:, None, None, None]
    error = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], patch)
    error -= np.einsum("oi,nihw->nohw", stored[:, :, 0, 0], fake_quantise(patch, 0.125))
    assert np.allclose(result.bias_shift, error.mean((0, 2, 3)), atol=1e-4)


def test_the_recipe_betters_plain_minmax_on_a_trained_network(tmp_path: Path) -> None:
    model = onnx.load(resolve("sdps-nano"))
    layers = find_layers(model, macs_by_node(model), fp32_islands(model))
    picture = read_picture(sample(PICTURE))
    tops = range(0, picture.shape[0] - 96, 96)
    crops = [
        np.ascontiguousarray(picture[top : top + 96, left : left + 96]) for top in tops for left in (60, 300)
    ]
    verifier = Verifier(model, [Pair(crop, None, "a") for crop in crops[1::4]])
    plain = Options("minmax", equalise=False, compensate=False, correct_bias=False)
    names = [layer.name for layer in layers]
    ours, theirs = (
        verifier.measure(calibrate(model, layers, crops[::2], options, tmp_path / "s").graph(names))
        for options in (Options(), plain)
    )
    assert ours.noise < 0.95 * theirs.noise


def test_no_layer_in_int8_is_no_drift(calibrated: Calibrated, verifier: Verifier) -> None:
    assert verifier.measure(calibrated.graph([])).noise < 0.01
    with pytest.raises(UsageError, match="no calibrator"):
        Options("guess")


def test_statistics_are_taken_from_the_cache(
    model: onnx.ModelProto, layers: list[Layer], scenes: list[Image], tmp_path: Path
) -> None:
    sources = [layer.source for layer in layers[:3]]
    file = tmp_path / "statistics.npz"
    first = observe_cached(file, model, sources, scenes[:2])
    # Other pictures would give others: these come from the file.
    again = observe_cached(file, model, sources, scenes[5:6])
    fresh = observe(model, sources, scenes[5:6])
    for name in sources:
        assert np.array_equal(first[name].histogram.counts, again[name].histogram.counts)
        assert np.array_equal(first[name].patches, again[name].patches)
        assert first[name].histogram.largest == again[name].histogram.largest
    assert any(not np.array_equal(first[n].histogram.counts, fresh[n].histogram.counts) for n in sources)
