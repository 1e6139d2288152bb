"""Parity: what is measured, what is refused, and that a broken graph is found."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper

from sdps.core.errors import ExportError, ParityError
from sdps.core.frame import Image
from sdps.core.pictures import read_picture
from sdps.core.samples import PICTURE, sample
from sdps.core.spec import Size
from sdps.export.parity import (
    Bounds,
    drift_between,
    fit,
    measure_drift,
    require,
    sizes_to_check,
)
from sdps.model import SDPSFNet
from sdps.model.deploy import DeployNet, pad_to_stride

GraphMaker = Callable[..., ModelProto]
ODD = Size(61, 90)


@pytest.fixture(scope="module")
def rain() -> Image:
    return fit(read_picture(sample(PICTURE)), Size(128, 192))


def test_fp32_graphs_restore_what_pytorch_restores(
    graph: GraphMaker, tiny_network: SDPSFNet, rain: Image
) -> None:
    fixed = measure_drift(tiny_network, graph("fp32"), rain, "rain", ODD)
    dynamic = measure_drift(tiny_network, graph("fp32", "dynamic"), rain, "rain", None)
    assert [d.label for d in fixed] == ["rain 61x90"]
    assert len(dynamic) == 2  # and again at half the size
    require(fixed + dynamic, Bounds.of("fp32"))


def test_fp16_is_measured_as_it_is_and_as_a_gpu_rounds(
    graph: GraphMaker, tiny_network: SDPSFNet, rain: Image
) -> None:
    drifts = measure_drift(tiny_network, graph("fp16"), rain, "rain", ODD)
    require(drifts, Bounds.of("fp16"))
    assert drifts[1].label.endswith("(FP16 rounding)")
    assert drifts[1].mean_levels > 0
    with pytest.raises(ParityError, match="no file was written"):
        require(drifts, Bounds.of("fp16", min_psnr_db=200))


def test_an_odd_size_equals_pytorch_on_the_padded_picture(
    graph: GraphMaker, tiny_network: SDPSFNet, rain: Image, run_graph: Callable[..., Image]
) -> None:
    picture = fit(rain, ODD)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    padded = pad_to_stride(x).permute(0, 2, 3, 1).to(torch.uint8)  # reflected outside the network
    assert padded.shape == (1, 64, 92, 3)
    expected = DeployNet(tiny_network)(padded)[0, :61, :90].numpy()
    assert drift_between("", expected, run_graph(graph("fp32"), picture)).max_levels <= 1


def test_a_vanishing_psf_divides_by_the_guard_and_not_by_zero(
    graph: GraphMaker, run_graph: Callable[..., Image], rain: Image
) -> None:
    # With these weights zero, each PSF is zero: 0 / (0 + 1e-8). The tracer's optimiser would drop the 1e-8.
    model = graph("fp32")
    for weight in model.graph.initializer:
        if weight.name.endswith("attention.reduce2.weight"):
            weight.CopyFrom(numpy_helper.from_array(np.zeros(list(weight.dims), np.float32), weight.name))
    restored = run_graph(model, fit(rain, ODD))
    assert np.ptp(restored) > 50


def test_nan_inside_the_graph_is_found(graph: GraphMaker, tiny_network: SDPSFNet, rain: Image) -> None:
    model = graph("fp32")
    weight = next(t for t in model.graph.initializer if t.name.endswith("stage_osr.tail.weight"))
    broken = np.full(list(weight.dims), np.nan, np.float32)
    weight.CopyFrom(numpy_helper.from_array(broken, weight.name))
    with pytest.raises(ParityError, match="one flat colour"):
        measure_drift(tiny_network, model, rain, "rain", ODD)


def test_other_weights_are_found(graph: GraphMaker, tiny_network: SDPSFNet, rain: Image) -> None:
    model = graph("fp32")
    for weight in model.graph.initializer:
        if weight.name.endswith("stage_osr.tail.weight"):
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.5, weight.name))
    with pytest.raises(ParityError, match="differs from PyTorch"):
        require(measure_drift(tiny_network, model, rain, "rain", ODD), Bounds.of("fp32"))


def test_a_graph_of_another_interface_is_refused(
    graph: GraphMaker, tiny_network: SDPSFNet, rain: Image
) -> None:
    with pytest.raises(ExportError, match="The graph's input is"):
        measure_drift(tiny_network, graph("fp32"), rain, "rain", Size(64, 96))
    model = graph("fp32")
    model.graph.node[-1].output[0] = model.graph.output[0].name = "picture"
    onnx.checker.check_model(model)
    with pytest.raises(ExportError, match="The graph's output is"):
        measure_drift(tiny_network, model, rain, "rain", ODD)


def test_drift_is_in_levels_and_decibels() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    grey = np.full((4, 4, 3), 2, np.uint8)
    assert drift_between("", black, black).psnr == "exact"
    assert drift_between("", black, black).to_manifest()["psnr_db"] == "exact"
    drift = drift_between("", grey, black)
    assert (drift.max_levels, drift.mean_levels) == (2, 2.0)
    assert drift.psnr_db == pytest.approx(20 * math.log10(255 / 2))
    assert drift.within(Bounds(40, 2))
    assert not drift.within(Bounds(40, 1))
    assert not drift.within(Bounds(43))
    light = drift_between("", np.full((4, 4, 3), 3, np.uint8), black)
    assert not light.within(Bounds.of("fp32"))
    assert light.within(Bounds.of("fp32", min_psnr_db=38))  # which stands for all the bounds


@pytest.mark.parametrize("size", [Size(61, 90), Size(720, 1280), Size(300, 40)])
def test_pictures_are_cropped_and_not_distorted(rain: Image, size: Size) -> None:
    fitted = fit(rain, size)
    assert fitted.shape == (size.height, size.width, 3)
    # A square scaled to cover a wide frame shows its middle rows, all of its width.
    ramp = np.repeat(np.arange(100, dtype=np.uint8)[:, None, None], 100, 1).repeat(3, 2)
    middle = fit(ramp, Size(50, 100))[:, 0, 0].astype(int)
    assert (middle[0], middle[-1]) == (25, 74)


def test_dynamic_graphs_are_compared_at_two_sizes() -> None:
    sizes = sizes_to_check(np.zeros((1080, 1920, 3), np.uint8), None)
    assert sizes == [Size(216, 384), Size(108, 192)]
    assert sizes_to_check(np.zeros((10, 20, 3), np.uint8), ODD) == [ODD]
