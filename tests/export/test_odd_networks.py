"""Networks whose shapes ONNX does not infer, that hold at one size only, or that give no picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image as Pictures
from torch import nn
from typer.testing import CliRunner

from sdps.core.errors import ExportError
from sdps.core.spec import Size
from sdps.export.arch import ArchChoice, load_arch
from sdps.export.cli import app
from sdps.export.graph_macs import macs_by_node, measured_macs
from sdps.export.inspection import Requirement, inspect_file
from sdps.export.job import network_macs

NETWORKS = '''
import torch
from torch import nn
from torch.nn import functional as F

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
    def forward(self, x):
        return x + self.last(F.relu(self.first(x)))

class Padding(Plain):
    """Pads to windows of 8 by itself, as NAFNet and SwinIR do."""
    def forward(self, x):
        h, w = x.shape[2:]
        y = F.pad(x, (0, (8 - w % 8) % 8, 0, (8 - h % 8) % 8))
        return (x + super().forward(y)[:, :, :h, :w]) / 2

class OneSize(Plain):
    def forward(self, x):
        y = F.relu(self.first(x))
        return x + self.last(y.reshape(y.shape[0], 8, int(x.shape[2]), int(x.shape[3])))

class NoPicture(Plain):
    def forward(self, x):
        return torch.log(super().forward(x) - 1e3)

class Noisy(Plain):
    def forward(self, x):
        return super().forward(x) + torch.randn_like(x) * 1e-6

class Sevens(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 7, stride=7), nn.ConvTranspose2d(8, 3, 7, stride=7)
    def forward(self, x):
        return x + self.up(F.relu(self.down(x)))

class Strip(Plain):
    """Weighs rows by a convolution over one dimension, and adds one over three."""
    def __init__(self):
        super().__init__()
        self.rows, self.cube = nn.Conv1d(8, 8, 3, padding=1), nn.Conv3d(1, 1, 3, padding=1)
    def forward(self, x):
        y = F.relu(self.first(x))
        y = y * torch.sigmoid(self.rows(F.relu(y.mean(3)))).unsqueeze(3)
        return x + self.last(y) + 0.1 * self.cube(x.unsqueeze(1)).squeeze(1)
'''


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """odd('Plain'): what names that network, with random weights, on the command line."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "odd.py").write_text(NETWORKS)
    namespace: dict[str, Any] = {}
    exec(NETWORKS, namespace)

    def arguments(name: str) -> list[str]:
        torch.manual_seed(0)
        network: nn.Module = namespace[name]()
        torch.save(network.state_dict(), folder / f"{name}.pth")
        return ["--arch", f"{folder}/odd.py:{name}", f"{folder}/{name}.pth", "--engine", "none"]

    return arguments


def export(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Any, code: int = 1) -> str:
    """The one line that it failed with."""
    assert result.exit_code == code, result.output
    line, *more = result.stderr.strip().splitlines()
    assert not more, result.stderr
    assert line.startswith("error: ")
    return str(line)


@pytest.fixture(scope="module")
def padding(odd: Callable[[str], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP16 graph of a network that pads by itself, exported with all that is said of it."""
    out = tmp_path_factory.mktemp("padding")
    result = export(*odd("Padding"), "--fp16", "--dynamic", "--explain", "--out", out)
    assert result.exit_code == 0, result.output
    assert "FP16: 2 convolutions. FP32" in result.stdout  # no share, which cannot be counted
    assert "cannot be told, as the graph computes shapes" in result.stdout
    return out / "Padding-fp16-dynamic.onnx"


def test_what_cannot_be_counted_is_left_out_and_stops_nothing(padding: Path) -> None:
    model = onnx.load(padding)
    with pytest.raises(ExportError, match="cannot be inferred"):
        macs_by_node(model)
    assert list(measured_macs(model).values()) == [256 * 256 * 8 * 27] * 2


def test_a_share_that_cannot_be_told_is_not_there(padding: Path) -> None:
    found = inspect_file(padding)
    Requirement.parse("fp16").check(found)
    with pytest.raises(ExportError, match="cannot be told"):
        Requirement.parse("fp16:0.5").check(found)


def test_a_graph_that_does_not_run_at_every_size_is_one_line(
    odd: Callable[[str], list[str]], tmp_path: Path
) -> None:
    line = refused(export(*odd("OneSize"), "--dynamic", "--quiet", "--out", tmp_path / "out"))
    assert "took a size for a constant" in line
    assert "--size" in line
    assert not list(tmp_path.glob("out/*"))


def test_an_operator_that_the_reference_lacks_is_one_line(
    odd: Callable[[str], list[str]], tmp_path: Path
) -> None:
    line = refused(export(*odd("Noisy"), "--bf16", "--size", "64", "--quiet", "--out", tmp_path))
    assert "cannot be compared with PyTorch. ONNX Runtime does not load" in line
    assert line.endswith("Export with --precision fp16 or fp32.")


def test_a_checkpoint_that_gives_no_picture_is_no_exact_graph(
    odd: Callable[[str], list[str]], tmp_path: Path
) -> None:
    line = refused(export(*odd("NoPicture"), "--size", "64", "--quiet", "--out", tmp_path))
    assert "PyTorch itself makes one flat colour" in line
    assert "checkpoint" in line
    flat = tmp_path / "flat.png"
    Pictures.new("RGB", (64, 64), (200, 30, 40)).save(flat)  # of which nobody can expect another
    result = export(*odd("Plain"), "--size", "64", "--picture", flat, "--quiet", "--out", tmp_path)
    assert result.exit_code == 0, result.output


def test_macs_are_stated_at_the_reference_size_whatever_the_stride(odd: Callable[[str], list[str]]) -> None:
    arguments = odd("Sevens")
    network = load_arch(ArchChoice(arguments[1], stride=28), Path(arguments[2])).network
    of_a_place = 2 * 3 * 8 * 49
    assert network_macs(network, Size(252, 252)) == 36 * 36 * of_a_place
    assert network_macs(network) == pytest.approx(
        256 * 256 / 49 * of_a_place, abs=1
    )  # 280x280 is what it takes


@pytest.mark.parametrize(("name", "left"), [("Padding", 0), ("Strip", 2)])
def test_such_networks_can_be_int8(
    odd: Callable[[str], list[str]],
    name: str,
    left: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SDPS_HOME", str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        low = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Pictures.fromarray(low).resize((96, 80), Pictures.Resampling.BICUBIC).save(
            tmp_path / f"pictures/{i}.png"
        )
    budget = ("--min-psnr", "20", "--max-mean-shift", "20", "--int8-rest", "fp32")
    calib = ("--calib", tmp_path / "pictures", "--calib-size", "64", "--calib-crops", "8")
    result = export(*odd(name), "--int8", *calib, *budget, "--size", "61x90", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    model = onnx.load(tmp_path / f"out/{name}-int8-61x90.onnx")
    told = json.loads({entry.key: entry.value for entry in model.metadata_props}["sdps.int8"])
    assert (told["integer_convolutions"], told["float_convolutions"]) == (2, left)
