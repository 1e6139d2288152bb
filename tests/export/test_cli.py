"""`sdps-export` from a checkpoint in the authors' layout to files, and its ways to fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

from sdps.core.artifact import sha256_of
from sdps.core.manifest import GraphManifest
from sdps.core.sidecar import check_sidecar
from sdps.export import tracing
from sdps.export.cli import app
from sdps.model import zoo
from sdps.model.download import KnownFile


def export(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_from_the_authors_layout_to_graph_and_engine(published_pth: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    result = export(
        published_pth, "--out", tmp_path, "--fp16", "--size", "61x90", "--engine", "rtx", "--name", "tau0"
    )
    assert result.exit_code == 0, result.output
    stem = "tau0-fp16-61x90"
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}{s}" for s in (".onnx", ".engine", ".engine.json", ".engine.log")
    }
    for said in (f"{stem}.onnx", f"{stem}.engine", "pass", "FP16 rounding"):
        assert said in result.stdout
    assert f"sdps-run --model {tmp_path}" in result.stderr
    model = onnx.load(tmp_path / f"{stem}.onnx")
    onnx.checker.check_model(model, full_check=True)
    manifest = GraphManifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    assert manifest.weights_sha256 == sha256_of(published_pth)
    assert (manifest.config["tau"], manifest.config["features"], manifest.precision) == (0, 8, "fp16")
    assert manifest.drift["psnr_db"] > 45
    assert manifest.macs > 1e9
    sidecar = check_sidecar(tmp_path / f"{stem}.engine")
    assert sidecar.graph_sha256 == sha256_of(tmp_path / f"{stem}.onnx")


def test_files_of_published_weights_are_called_as_they_were_asked_for(
    published_pth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not as the authors' file in the cache: the README's next command names the graph."""
    cached = tmp_path / "home" / "weights" / "Random-sota.pth"
    cached.parent.mkdir(parents=True)
    shutil.copy(published_pth, cached)
    tracing.folder().mkdir(parents=True, exist_ok=True)  # the next test exports the same network
    (tmp_path / "home" / "traces").symlink_to(tracing.folder())
    monkeypatch.setenv("SDPS_HOME", str(tmp_path / "home"))
    known = KnownFile(cached.name, cached.stat().st_size, sha256_of(cached))
    monkeypatch.setitem(zoo.PUBLISHED, "rain100h", known)
    result = export("Rain100H", "--fp16", "--size", "32", "--out", tmp_path / "models", "--engine", "none")
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["rain100h-fp16-32x32.onnx"]
    assert zoo.model_name(str(cached)) == "Random-sota"


def test_past_the_bound_no_file_is_left(published_pth: Path, tmp_path: Path) -> None:
    options = ("--fp16", "--size", "32", "--min-psnr", "200", "--engine", "none", "--quiet")
    result = export(published_pth, "--out", tmp_path / "new" / "folder", *options)
    assert result.exit_code == 1
    assert not result.stdout
    assert "at least 200 dB" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_garbage_is_one_line(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pth"
    garbage.write_bytes(bytes(range(256)) * 10)
    result = export(garbage, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--fp16", "--int8"), "do not go together"),
        (("--precision", "fp32", "--fp16"), "do not go together"),
        (("--size", "64x64", "--dynamic"), "do not go together"),
        (("--int8",), "pictures to calibrate on"),
        (("--precision", "int8"), "--calib"),
        (("--fp16", "--calib", "photos"), "go with --int8"),
        (("--max-drift", "0.1"), "go with --int8"),
        (("--precision", "fp8"), "no precision"),
        (("--engine", "cuda"), "no engine"),
        (("--size", "wide"), "HEIGHTxWIDTH"),
        (("--engine-sizes", "64,128,256"), "needs --dynamic"),
        (("--dynamic", "--engine-sizes", "64,128"), "MIN,OPT,MAX"),
        (("--dynamic", "--engine-sizes", "64,256,128"), "rising order"),
        (("--name", "a/b"), "no name for files"),
        (("--picture", "none.jpg"), "none.jpg cannot be read"),
        (("--picture", __file__), "not a readable picture"),
        (("--workspace", "0"), "workspace"),
        (("--size", ""), "--size is empty"),
        (("--int8", "--calib", ""), "--calib is empty"),
        (("--require", ""), "--require is empty"),
        (("--min-psnr", "nan"), "--min-psnr nan is no number"),
        (("--int8", "--calib", "photos", "--max-drift", "nan"), "--max-drift nan is no number"),
    ],
)
def test_wrong_usage_exits_2(
    published_pth: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    result = export(published_pth, "--out", tmp_path, *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    result = export("no-such-model", "--out", tmp_path)
    assert result.exit_code == 2
    assert "bundled name (" in result.stderr


def test_help_and_version_need_no_torch() -> None:
    code = (
        "import sys; from sdps.export.cli import app\n"
        "try: app([sys.argv[1]])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'cv2'} & set(sys.modules)"
    )
    for flag, said in (("--help", "--min-psnr"), ("--version", "sdps-export")):
        done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True, check=True)
        assert said in done.stdout
