"""`sdps-export --int8`, from a checkpoint and a folder of pictures to files or to a reason."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from sdps.calibration.qdq import integer_convolutions
from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest
from sdps.export.cli import app
from sdps.export.graph_macs import macs_by_node
from sdps.export.layers import graph_layers, shares, summarise
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.model.checkpoint import to_published


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    network = SDPSFNet(SDPSFNetConfig(tau=0, features=8, scale_unet=4, scale_orb=4, cabs=1))
    with torch.no_grad():
        network.stage_osr.tail.weight.mul_(0.2)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save({"state_dict": to_published(network)}, path)
    return path


@pytest.fixture
def folder(scenes: list[Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDPS_HOME", str(tmp_path / "home"))
    path = tmp_path / "pictures"
    path.mkdir()
    for i, scene in enumerate(scenes):
        cv2.imwrite(str(path / f"{i}.png"), np.tile(scene, (2, 2, 1)))
    return path


def export(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_to_files(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "an out"
    stem = "random-int8-61x90"
    (out / f".{stem}.int8.killed.tmp").mkdir(parents=True)  # by a run that could not clean up
    shutil.copy(folder / "0.png", folder / "00.png")
    (folder / "0.png").rename(folder / os.fsdecode(b"\xff\xfe.png"))  # as old archives have them
    options = ("--int8", "--calib", folder, "--calib-size", "64", "--calib-crops", "12", "--size", "61x90")
    limits = ("--min-psnr", "25", "--max-mean-shift", "3", "--engine", "none")
    result = export(checkpoint, "--out", out, *options, *limits)
    assert result.exit_code == 0, result.output
    assert {p.name for p in out.iterdir()} == {f"{stem}.onnx", f"{stem}.int8"}
    assert {p.name for p in (out / f"{stem}.int8").iterdir()} == {"report.json", "report.md", "pareto.png"}
    model = onnx.load(out / f"{stem}.onnx")
    onnx.checker.check_model(model, full_check=True)
    manifest = GraphManifest.from_metadata({e.key: e.value for e in model.metadata_props})
    report = json.loads((out / f"{stem}.int8" / "report.json").read_text())
    assert manifest.precision == "int8"
    assert manifest.rewrites
    assert manifest.int8["calibration_set"]["sha256"] == report["calibration_set"]["sha256"]
    assert len(report["calibration_set"]["calibrate"]) == 12
    found = integer_convolutions(model, macs_by_node(model))
    assert manifest.int8["integer_convolutions"] == len(found.names) > 10
    of_precision = shares(summarise(graph_layers(model)))  # what --require goes by
    assert of_precision["int8"].count == len(found.names)
    assert manifest.int8["int8_macs_share"] == pytest.approx(found.macs_share, abs=1e-3)
    assert "multiply-accumulates are INT8" in result.stderr
    assert "in the worst tile" in result.stderr  # there is no ground truth
    assert all(note in result.stderr for note in report["notes"])
    assert report["chosen"]["worst_tile_psnr_to_fp32_db"] <= report["chosen"]["psnr_to_fp32_db"]
    assert len(report["points"]) == 1  # as it is delivered, with FP16, and not beside it with FP32
    assert "| 0 | - | - |" in (out / f"{stem}.int8" / "report.md").read_text()  # no truth, no loss
    assert f"sdps-run --model '{out}/{stem}.onnx'" in result.stderr
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("bound", ["--max-drift", "--max-tile-drift", "--max-mean-shift"])
def test_a_bound_that_bounds_nothing_is_refused(checkpoint: Path, folder: Path, bound: str) -> None:
    result = export(checkpoint, "--int8", "--calib", folder, bound, "inf")
    assert result.exit_code == 2
    assert f"{bound} inf is no bound" in result.stderr


@pytest.mark.parametrize("option", ["--no-rewrite", "--explain"])
def test_what_int8_does_not_do_is_refused(checkpoint: Path, folder: Path, option: str) -> None:
    result = export(checkpoint, "--int8", "--calib", folder, option)
    assert result.exit_code == 2
    assert f"{option} does not go with INT8" in result.stderr


def test_what_is_in_the_reports_way_is_found_before_the_work(
    checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "random-int8-256x256.int8").write_text("not a folder")
    result = export(checkpoint, "--out", out, "--int8", "--calib", "no such set", "--engine", "none")
    assert result.exit_code == 1
    assert "random-int8-256x256.int8 is in the way" in result.stderr
    assert [path.name for path in out.iterdir()] == ["random-int8-256x256.int8"]


def test_a_cache_that_cannot_be_written_is_named(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    result = export(
        checkpoint, "--out", tmp_path / "out", "--int8", "--calib", "no such set", "--engine", "none"
    )
    assert result.exit_code == 1
    assert str(tmp_path / "home" / "int8") in result.stderr
    assert "SDPS_HOME" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_impossible_budget_writes_nothing(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--int8", "--calib", folder, "--calib-size", "64", "--engine", "none", "--quiet")
    result = export(checkpoint, "--out", out, *options, "--max-mean-shift", "0.0001")
    assert result.exit_code == 1
    assert "misses the drift budget" in result.stderr
    assert "Lower --min-psnr or widen --max-mean-shift" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_a_graph_with_next_to_nothing_in_int8_is_not_written(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    # In this network some layers change nothing; what is left of them is more than the real bound.
    monkeypatch.setattr("sdps.export.int8_job.LEAST_INT8", 0.98)
    options = ("--int8", "--calib", folder, "--calib-size", "64", "--engine", "none", "--quiet")
    result = export(checkpoint, "--out", out, *options, "--int8-rest", "fp32", "--max-mean-shift", "0.000001")
    assert result.exit_code == 1
    assert "No choice of INT8 layers keeps the drift budget. The nearest, " in result.stderr
    assert not out.exists()


def test_nan_weights_are_named_before_any_file(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    key = next(k for k in state if k.endswith("tail.weight"))
    state[key][0, 0, 0, 0] = float("inf")
    torch.save({"state_dict": state}, tmp_path / "bad.pth")
    result = export(tmp_path / "bad.pth", "--out", out, "--int8", "--calib", folder, "--calib-size", "64")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(out.glob("*"))
