"""The pieces of an INT8 job that need no whole export."""

from __future__ import annotations

from pathlib import Path

import cv2
import onnx
import pytest
import torch
from torch import Tensor, nn

from sdps import __version__
from sdps.calibration.frames import build_set
from sdps.calibration.recipe import Calibrated
from sdps.core.errors import ParityError, UsageError
from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest
from sdps.export.int8_job import _nearest_way, _prepare, quantise_network
from sdps.export.int8_request import parse_int8
from sdps.export.onnx_export import manifest_of
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.model.deploy import MEAN, STD


class HalfGate(nn.Module):
    """Its gain follows from sums over the upper and the lower half; the tracer makes H / 2 a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        middle = int(x.size(2) / 2)
        h = self.first(x).relu()
        upper, lower = (part.sum((2, 3), keepdim=True) for part in (h[:, :, :middle], h[:, :, middle:]))
        return x + self.last(h * (upper / (lower + 1e-3)))


def test_a_network_whose_graph_holds_at_one_size_only_is_refused(
    scenes: list[Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, scene in enumerate(scenes):
        cv2.imwrite(str(tmp_path / f"{i}.png"), scene)
    monkeypatch.setenv("SDPS_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    network = HalfGate().eval().requires_grad_(False)
    manifest = GraphManifest("half", "0" * 64, "HalfGate", {}, "int8", "64x64", MEAN, STD, __version__)
    job = parse_int8({"calib": str(tmp_path), "crop_side": 64, "rest": "fp32"}, 20.0)
    with pytest.raises(ParityError, match="traced at any size"):
        quantise_network(network, manifest, job, ("scene", scenes[0]))


def test_of_two_calibrators_the_one_that_drifts_less_is_taken(
    scenes: list[Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, scene in enumerate(scenes):
        cv2.imwrite(str(tmp_path / f"{i}.png"), scene)
    monkeypatch.setenv("SDPS_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    network = SDPSFNet(SDPSFNetConfig(tau=0, features=8, scale_unet=4, scale_orb=4, cabs=1)).eval()
    manifest = GraphManifest("tiny", "0" * 64, "SDPSFNet", {}, "int8", "dynamic", MEAN, STD, __version__)

    def begin(psnr: float, **options: str) -> tuple[str, float, float, list[str]]:
        """The calibrator taken, what it uses of the budget with all in INT8 and where a search begins."""
        asked = {"calib": str(tmp_path), "crop_side": 64, "crops": 8, "rest": "fp32", **options}
        ready = _prepare(
            network, manifest, parse_int8(asked, psnr), ("scene", scenes[0]), lambda *_: None, None
        )
        search, taken, notes = _nearest_way(ready, "tiny", lambda *_: None)
        return taken.calibrator, search.all_int8().used, search.none_facing().used, notes

    alone = {name: begin(90.0, calibrator=name)[2] for name in ("worst-mse", "mse")}
    taken, whole, used, (note,) = begin(90.0)
    assert used == min(alone.values()) == alone[taken] and whole > 1
    (other,) = alone.keys() - {taken}
    assert (
        f"Calibrated with {taken}, which uses {used:.0%}" in note and f"({other} {alone[other]:.0%})" in note
    )
    # The first that keeps the budget with all in INT8 is as good as any.
    assert begin(20.0)[0] == "worst-mse" and not begin(20.0)[3]


def test_the_graph_that_is_quantised_still_tells_its_rewrites(
    calibrated: Calibrated, model: onnx.ModelProto
) -> None:
    """A graph of any size is written from it; the description goes through equalisation."""
    assert manifest_of(calibrated.model).rewrites == manifest_of(model).rewrites != {}


def test_bounds_that_need_truth_are_those_that_were_given() -> None:
    assert parse_int8({"calib": "photos", "shift": 0.5}, 42.0).truth_options == ()
    asked = parse_int8({"calib": "photos", "tile_db": 0.4, "loss_db": 0.2}, None)
    assert asked.truth_options == ("--max-drift", "--max-tile-drift")
    with pytest.raises(UsageError, match="--min-psnr nan"):
        parse_int8({"calib": "photos"}, float("nan"))


def test_bounds_that_need_truth_are_refused_without_it(
    model: onnx.ModelProto, scenes: list[Image], tmp_path: Path
) -> None:
    for name in ("input", "target"):
        (tmp_path / name).mkdir()
        for i, scene in enumerate(scenes):
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), scene)
    asked = {"calib": str(tmp_path / "input"), "crop_side": 64, "tile_db": 0.4}
    job = parse_int8(asked, None)
    with pytest.raises(UsageError, match="no ground truth, against which --max-tile-drift would") as caught:
        quantise_network(nn.Identity(), manifest_of(model), job, ("scene", scenes[0]))
    assert "--min-psnr" in caught.value.remedy
    job.check_truth(build_set(str(tmp_path), side=64))
    parse_int8({**asked, "tile_db": None}, None).check_truth(build_set(str(tmp_path / "input"), side=64))
