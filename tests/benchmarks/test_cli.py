"""`sdps-bench` from end to end on real graphs, and what it says to wrong usage."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import onnx
import pytest
import torch
from typer.testing import CliRunner

from sdps.benchmarks import timing
from sdps.benchmarks.bench import Plan, run
from sdps.benchmarks.cli import app, main
from sdps.core.errors import SourceError
from sdps.core.frame import Image
from sdps.core.machine import cpu
from sdps.core.manifest import GraphManifest
from sdps.core.spec import Size
from sdps.export.onnx_export import describe
from sdps.model import SDPSFNet, SDPSFNetConfig, load_checkpoint, save_checkpoint


class Exported(NamedTuple):
    checkpoint: Path
    out: Path
    exit_code: int
    printed: str


Bench = Callable[..., tuple[int, str, str]]
Picture = Callable[[int, int], Image]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A run on a checkpoint without graphs, which exports them; the other tests measure those."""
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(1)
    network = SDPSFNet(SDPSFNetConfig(tau=0, features=8, scale_unet=4, scale_orb=4, cabs=1))
    network.requires_grad_(False).stage_osr.tail.weight.mul_(0.2)  # a mild change, as a trained net's
    save_checkpoint(network, folder / "own.safetensors")
    arguments = (folder / "own.safetensors", "--provider", "cpu", "--size", 64, "--rounds", 1, "--threads", 1)
    result = CliRunner().invoke(
        app, [*map(str, arguments), "--out", str(folder / "out")], env={"COLUMNS": "100"}
    )
    return Exported(folder / "own.safetensors", folder / "out", result.exit_code, result.stdout)


@pytest.fixture
def checkpoint(exported: Exported) -> Path:
    return exported.checkpoint


@pytest.fixture
def graph(exported: Exported) -> Path:
    return exported.out / "own-fp32.onnx"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """bench(*arguments) -> exit code, standard output, standard error."""
    monkeypatch.setattr(timing, "PAUSE_S", 0.0)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sdps-bench", "--threads", "1", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


def manifest_of(graph: Path) -> GraphManifest:
    return GraphManifest.from_metadata({p.key: p.value for p in onnx.load(graph).metadata_props})


def save_pictures(folder: Path, picture: Picture, *names: str, brighter: int = 0) -> Path:
    folder.mkdir()
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), cv2.add(picture(50 + 4 * i, 70), brighter))
    return folder


def test_given_graphs_are_measured_on_the_providers_asked_for(
    bench: Bench, checkpoint: Path, graph: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, printed, said = bench(
        checkpoint, "--graph", graph, "--provider", "cpu", "--provider", "openvino",
        "--size", "64x96", "--rounds", 3, "--out", out,
    )  # fmt: skip
    assert code == 0, said
    report = json.loads((out / "report.json").read_text())
    rows = report["measurements"]
    assert [row["contender"] for row in rows] == [
        "PyTorch FP32",
        f"{graph.stem} on onnxruntime",
        f"{graph.stem} on openvino",
    ]
    assert {len(row["samples_ns"]) for row in rows} == {3}
    assert all((row["summary"]["psnr_db"] or math.inf) > 60 for row in rows[1:])  # null: equal pictures
    assert (report["size"], report["timing"]["threads"], report["config"]["tau"]) == ("64x96", 1, 0)
    parameters = sum(p.numel() for p in load_checkpoint(checkpoint).parameters())
    assert sum(stage["parameters"] for stage in report["stages"]) == parameters
    assert f"{graph.stem} on openvino" in printed
    assert "restores the same picture" in printed
    assert (out / "report.md").read_text().count("| PyTorch FP32 on CPU |") == 1
    assert str(out / "report.md") in said


def test_it_says_what_an_int8_graph_is_really_computed_in(bench: Bench, tmp_path: Path) -> None:
    code, printed, said = bench(
        "sdps-nano", "--graph", "sdps-nano-int8", "--provider", "cpu", "--provider", "openvino",
        "--size", "64x64", "--rounds", 1, "--threads", 2, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, said
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["measurements"]
    reference, slow, fast = (row["arithmetic"] for row in rows)
    assert reference == ""
    assert slow.startswith("0 of the graph's ")
    several = cpu().usable > 1
    assert [len(row["ahead_ns"]) for row in rows] == [0, 0, int(several)]
    assert ("(2)" in printed) == several, "OpenVINO has two pictures of a file in flight"
    count = fast.split()[0]
    assert fast == f"{count} of the graph's {count} INT8 convolutions in integers"
    assert "rounded alike" in " ".join(printed.split())


def test_without_graphs_it_exports_fp32_and_fp16_itself(exported: Exported) -> None:
    assert exported.exit_code == 0, exported.printed
    names = sorted(path.name for path in exported.out.iterdir())
    assert names == ["own-fp16.onnx", "own-fp32.onnx", "report.json", "report.md"]
    full, half = (manifest_of(exported.out / name) for name in ("own-fp32.onnx", "own-fp16.onnx"))
    assert (half.precision, half.size, half.name) == ("fp16", "dynamic", "own")
    assert replace(half, precision="fp32") == full
    report = json.loads((exported.out / "report.json").read_text())
    assert report["measurements"][1]["macs"] == full.macs > 1e9
    assert not any("other weights" in note for note in report["notes"])
    assert any("computed in FP32 on a CPU" in note for note in report["notes"])
    assert "own-fp16 on onnxruntime" in exported.printed


def test_own_pictures_with_ground_truth(
    bench: Bench, checkpoint: Path, graph: Path, picture: Picture, tmp_path: Path
) -> None:
    rainy = save_pictures(tmp_path / "rainy", picture, "1.png", "2.png", brighter=12)
    clean = save_pictures(tmp_path / "clean", picture, "1.png", "2.png")
    code, printed, said = bench(
        checkpoint, "--graph", graph, "--provider", "cpu", "--size", "32x48",
        "--rounds", 1, "--pictures", rainy, "--truth", clean, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    drift = report["measurements"][1]["drift"]
    assert [row["picture"] for row in drift["pictures"]] == ["1.png", "2.png"]
    assert 24 < report["input_truth"]["psnr_db"] < 30
    assert all(row["truth"] for row in report["measurements"])
    assert "Against ground truth" in printed


def test_a_bad_later_picture_is_found_before_anything_is_timed(
    checkpoint: Path, graph: Path, picture: Picture, tmp_path: Path
) -> None:
    rainy = save_pictures(tmp_path / "rainy", picture, "1.png", "2.png", brighter=12)
    clean = save_pictures(tmp_path / "clean", picture, "1.png", "2.png")
    (rainy / "._1.png").write_bytes(b"a Mac's")
    plan = Plan(str(checkpoint), (str(graph),), ("cpu",), Size(32, 32), 1, pictures=rainy, truth=clean)
    steps: list[str] = []
    for content in ((rainy / "2.png").read_bytes()[:-200], (rainy / "1.png").read_bytes()):
        (rainy / "2.png").write_bytes(content)
        with pytest.raises(SourceError, match=r"2\.png"):
            run(plan, lambda step, done, total: steps.append(step))
    assert set(steps) == {"reading the pictures"}


def test_a_fixed_graph_decides_the_size(
    bench: Bench, checkpoint: Path, graph: Path, picture: Picture, tmp_path: Path
) -> None:
    rainy = save_pictures(tmp_path / "rainy", picture, "1.png")
    model, manifest = onnx.load(graph), manifest_of(graph)
    describe(model, replace(manifest, size="32x48", weights_sha256="0" * 64))
    onnx.save(model, tmp_path / "fixed.onnx")
    common = (checkpoint, "--graph", tmp_path / "fixed.onnx", "--provider", "cpu", "--rounds", 1)
    code, printed, said = bench(*common, "--pictures", rainy)
    assert code == 0, said
    assert "Latency at 32x48" in printed
    assert "cut to their middle 32x48" in printed
    assert "fixed was exported from other weights" in printed
    code, _, said = bench(*common, "--size", "64x64")
    assert code == 2
    assert "--size 32x48" in said


def test_quiet_prints_the_verdict_and_nothing_else(bench: Bench, checkpoint: Path, graph: Path) -> None:
    code, printed, said = bench(
        checkpoint, "--graph", graph, "--provider", "cpu", "--size", 64, "--rounds", 1, "-q"
    )
    assert (code, said) == (0, "")
    (line,) = printed.splitlines()
    assert line.startswith(f"{graph.stem} on onnxruntime: ")


def test_wrong_usage_is_one_line_and_exit_2(
    bench: Bench, checkpoint: Path, graph: Path, picture: Picture, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    rainy = save_pictures(tmp_path / "rainy", picture, "1.png")
    clean = save_pictures(tmp_path / "clean", picture, "other.png")
    wrong = {
        "no checkpoint": ("nowhere.pth",),
        "nowhere.onnx": (checkpoint, "--graph", "nowhere.onnx"),
        "HEIGHTxWIDTH": (checkpoint, "--size", "big"),
        "holds no pictures": (checkpoint, "--pictures", empty),
        "no folder": (checkpoint, "--pictures", tmp_path / "none"),
        "no ground truth": (checkpoint, "--pictures", rainy, "--truth", clean),
        "without pictures": (checkpoint, "--truth", clean),
        "called": (checkpoint, "--graph", graph, "--graph", graph),
        "frobnicate": (checkpoint, "--graph", graph, "--provider", "frobnicate"),
    }
    for says, arguments in wrong.items():
        code, printed, said = bench(*arguments)
        assert (code, printed) == (2, ""), (says, said)
        assert says in said
        assert len(said.splitlines()) == 1


def test_a_file_that_is_no_checkpoint_fails_with_one_line(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    code, printed, said = bench(tmp_path / "a.safetensors", "--rounds", 1)
    assert (code, printed) == (1, "")
    assert "a.safetensors" in said
    assert len(said.splitlines()) == 1


def test_an_unwritable_folder_is_found_out_first(bench: Bench, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, said = bench(checkpoint, "--out", tmp_path / "file" / "out")
    assert code == 1
    assert "folder" in said


def test_the_command_line_loads_no_heavy_package() -> None:
    code = "import sys, sdps.benchmarks.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "onnx", "onnxruntime", "openvino"} & set(done.stdout.split())
