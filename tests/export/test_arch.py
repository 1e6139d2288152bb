"""Networks that are not SD-PSFNet: the same graph, parity, engine, runtime and bench for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from sdps.core.errors import CheckpointError, EngineError, ExportError, UsageError
from sdps.core.frame import Image
from sdps.core.samples import PICTURE, sample
from sdps.core.sidecar import check_sidecar
from sdps.core.spec import ShapeRange, Size
from sdps.export.arch import ArchChoice, import_spandrel, load_arch
from sdps.export.arguments import sizes_of
from sdps.export.cli import app
from sdps.export.job import ExportJob, run_job
from sdps.model.deploy import DeployNet
from sdps.runtime.backends import open_backend
from sdps.runtime.tiling import restore

needs_spandrel = pytest.mark.skipif(find_spec("spandrel") is None, reason="spandrel is not installed")

HINET = '''
import torch
from torch import nn

class Block(nn.Module):
    """Half instance normalisation, as in HINet (arXiv 2105.06086)."""
    def __init__(self, c):
        super().__init__()
        self.one, self.two = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.norm = nn.InstanceNorm2d(c // 2, affine=True)
    def forward(self, x):
        a, b = self.one(x).chunk(2, dim=1)
        return x + self.two(torch.cat([self.norm(a), b], dim=1).relu())

class HINet(nn.Module):
    def __init__(self, width=8, depth=3):
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.downs = nn.ModuleList(nn.Conv2d(width, width, 4, 2, 1) for _ in range(depth))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(width, width, 2, 2) for _ in range(depth))
        self.tail = nn.Conv2d(width, 3, 3, padding=1)
    def forward(self, x):
        y, skips = self.head(x), []
        for down, block in zip(self.downs, self.blocks):
            skips.append(y)
            y = block(down(y))
        for up in self.ups:
            y = up(y) + skips.pop()
        return [x, x + self.tail(y)]  # two stages, the better one last

class Counting(HINet):
    def forward(self, x):
        if x.mean().item() > 0.5:
            return [x, x]
        return super().forward(x)

class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 3, 2, 2)
    def forward(self, x):
        return self.up(x)
'''


@pytest.fixture(scope="module")
def hinet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """hinet.py, and random weights of its HINet, wrapped as a training script would."""
    folder = tmp_path_factory.mktemp("hinet")
    (folder / "hinet.py").write_text(HINET)
    namespace: dict[str, Any] = {}
    exec(HINET, namespace)
    torch.manual_seed(0)
    network = namespace["HINet"](width=8, depth=3)
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, folder / "hinet.pth")
    return folder / "hinet.py", folder / "hinet.pth"


def choice(name: str, **more: Any) -> ArchChoice:
    return ArchChoice(name, **more)


def export(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_sizes_of_the_engine_fit_the_networks_stride(hinet: tuple[Path, Path], tmp_path: Path) -> None:
    """Cameras' are brought up to it; a range that was given is refused before anything is traced."""
    file, weights = hinet
    cameras = sizes_of(None, False, None, "100x148,98x150,40x40")
    assert cameras.profiles(8) == [ShapeRange.fixed(Size(40, 40)), ShapeRange.fixed(Size(104, 152))]
    said: list[str] = []
    asked = ShapeRange(Size(64, 64), Size(64, 68), Size(96, 96))
    arch = choice(f"{file}:HINet")
    job = ExportJob(weights, "hinet", "fp32", None, sample(PICTURE), arch, engine_range=asked)
    with pytest.raises(EngineError, match=r"takes multiples of 8, not 64x68\. Use 64x72"):
        run_job(job, said.append)
    assert said == ["Loading the checkpoint"]


@needs_spandrel
def test_what_spandrel_knows_is_exported_and_runs(
    tmp_path: Path, picture: Callable[[int, int], Image]
) -> None:
    import_spandrel()
    from spandrel.architectures.NAFNet import NAFNet

    torch.manual_seed(0)
    network = NAFNet(
        img_channel=3, width=4, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]
    ).eval()
    torch.save({"params": network.state_dict()}, tmp_path / "nafnet.pth")
    options = ("--size", "61x90", "--out", tmp_path, "--engine", "auto")
    result = export("--arch", "spandrel", tmp_path / "nafnet.pth", *options)
    assert result.exit_code == 0, result.output
    stem = tmp_path / "nafnet-fp32-61x90"
    backend = open_backend(stem.with_suffix(".onnx"), "cpu")
    manifest = backend.manifest
    assert (manifest.architecture, manifest.stride, manifest.mean) == (
        "NAFNet (spandrel)",
        4,
        (0.0, 0.0, 0.0),
    )
    assert manifest.config["width"] == 4
    assert manifest.macs > 1e6
    image = picture(61, 90)
    with torch.inference_mode():  # what its authors would do with it, with neither sdps nor spandrel
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        x = nn.functional.pad(x, (0, 2, 0, 3), mode="reflect")
        y = (network(x)[0, :, :61, :90].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(restore(backend, image).astype(int) - y).max() <= 1
    if stem.with_suffix(".engine").exists():  # where TensorRT-RTX is installed
        assert check_sidecar(stem.with_suffix(".engine")).manifest["sdps.architecture"] == "NAFNet (spandrel)"


def test_a_class_of_one_s_own_is_exported_and_runs(
    hinet: tuple[Path, Path], tmp_path: Path, picture: Callable[[int, int], Image]
) -> None:
    source, weights = hinet
    result = export(
        weights, "--arch", f"{source}:HINet", "--arch-args", '{"width": 8}', "--mean", "0.5", "--std", "0.5",
        "--dynamic", "--out", tmp_path, "--engine", "none",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    backend = open_backend(tmp_path / "hinet-fp32-dynamic.onnx", "cpu")
    manifest = backend.manifest
    assert (manifest.architecture, manifest.stride, manifest.std) == ("HINet", 8, (0.5, 0.5, 0.5))
    assert manifest.config == {"width": 8}
    image = picture(70, 45)  # padded to 72x48 by the runtime
    loaded = load_arch(choice(f"{source}:HINet", mean=(0.5,) * 3, std=(0.5,) * 3), weights)
    padded = np.pad(image, ((0, 2), (0, 3), (0, 0)), mode="reflect")
    with torch.inference_mode():
        expected = DeployNet(loaded.network)(torch.from_numpy(padded)[None])[0, :70, :45].numpy()
    restored = restore(backend, image)
    assert np.abs(restored.astype(int) - expected).max() <= 1
    assert not np.array_equal(restored, image)
    with pytest.raises(UsageError, match="multiple of 8"):
        restore(backend, picture(100, 100), tile=20)


def test_the_stride_is_found_or_stated(hinet: tuple[Path, Path]) -> None:
    source, weights = hinet
    assert load_arch(choice(f"{source}:HINet"), weights).network.space.stride == 8
    assert load_arch(choice(f"{source}:HINet", stride=32), weights).network.space.stride == 32
    parsed = ArchChoice.parse("a:B", None, "0.1,0.2,0.3", None, 6, 0)
    assert (parsed.stride, parsed.mean, parsed.std) == (12, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))


def test_one_of_several_outputs_is_picked(hinet: tuple[Path, Path]) -> None:
    source, weights = hinet
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(load_arch(choice(f"{source}:HINet", pick=0), weights).network(x), x)
        assert not torch.equal(load_arch(choice(f"{source}:HINet"), weights).network(x), x)


def test_what_cannot_be_traced_is_one_clear_line(hinet: tuple[Path, Path], tmp_path: Path) -> None:
    source, weights = hinet
    out = tmp_path / "out"
    result = export(
        weights,
        "--arch",
        f"{source}:Counting",
        "--stride",
        "8",
        "--size",
        "32",
        "--out",
        out,
        "--engine",
        "none",
    )
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "could not be traced to ONNX" in result.stderr
    assert not out.exists()


def test_wrong_networks_are_named(hinet: tuple[Path, Path], tmp_path: Path) -> None:
    source, weights = hinet
    for name, args, error, said in (
        (f"{source}:HINet", {"width": 16}, CheckpointError, "does not fit HINet.*size mismatch"),
        (f"{source}:HINet", {"widht": 16}, UsageError, "cannot be made.*widht"),
        (f"{source}:UNet", {}, UsageError, "no class UNet"),
        (f"{tmp_path}/none.py:HINet", {}, UsageError, "There is no file"),
        ("no_such_module:HINet", {}, UsageError, "cannot be imported"),
        ("json:dumps", {}, UsageError, "cannot be made"),
        ("collections:OrderedDict", {}, UsageError, r"no torch\.nn\.Module"),
    ):
        with pytest.raises(error, match=said):
            load_arch(choice(name, args=args), weights)
    torch.save({"up.weight": torch.zeros(3, 3, 2, 2), "up.bias": torch.zeros(3)}, tmp_path / "doubling.pth")
    with pytest.raises(ExportError, match="picture of the same size"):
        load_arch(choice(f"{source}:Doubling", stride=4), tmp_path / "doubling.pth")
    with pytest.raises(ExportError, match="No stride from 4 to 64"):
        load_arch(choice(f"{source}:Doubling"), tmp_path / "doubling.pth")


@needs_spandrel
def test_what_spandrel_does_not_know_points_to_a_class(hinet: tuple[Path, Path]) -> None:
    with pytest.raises(CheckpointError, match="--arch module:Class"):
        load_arch(choice("spandrel"), hinet[1])


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import pathlib; pathlib.Path('payload-ran').touch()",)


@pytest.mark.parametrize("name", ["spandrel", "hinet.py:HINet"])
def test_malicious_pickles_are_refused_unrun(
    hinet: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hinet.py").write_text(HINET)
    torch.save({"state_dict": {"head.weight": torch.zeros(1)}, "extra": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="not loaded"):
        load_arch(choice(name), tmp_path / "evil.pth")
    assert not (tmp_path / "payload-ran").exists()


def test_weights_that_are_not_finite_are_refused(hinet: tuple[Path, Path], tmp_path: Path) -> None:
    source, weights = hinet
    state = torch.load(weights, weights_only=True)["state_dict"]
    state["module.head.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match=r"module\.head\.weight holds NaN"):
        load_arch(choice(f"{source}:HINet"), tmp_path / "nan.pth")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--arch", "nafnet"), "names no network"),
        (("--arch", "a:B", "--arch-args", "{"), "no JSON"),
        (("--arch", "a:B", "--arch-args", "[1]"), "no JSON object"),
        (("--arch", "spandrel", "--arch-args", json.dumps({"dim": 4})), "Leave --arch-args out"),
        (("--arch", "a:B", "--mean", "1,2"), "neither one number nor three"),
        (("--stride", "8"), "go with --arch"),
    ],
)
def test_wrong_options(hinet: tuple[Path, Path], options: tuple[str, ...], said: str) -> None:
    result = export(hinet[1], "--engine", "none", *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_what_wraps_is_told_from_what_the_network_calls_so_itself(tmp_path: Path) -> None:
    """A class that keeps its layers in `net`, saved from DataParallel and from torch.compile."""
    source = tmp_path / "inner.py"
    source.write_text(
        "from torch import nn\n"
        "class Inner(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.net = nn.Conv2d(3, 3, 3, padding=1)\n"
        "    def forward(self, x):\n"
        "        return self.net(x)\n"
    )
    weights = {"net.weight": torch.rand(3, 3, 3, 3), "net.bias": torch.rand(3)}
    for number, prefix in enumerate(("", "module.", "_orig_mod.", "module._orig_mod.", "model.")):
        path = tmp_path / f"{number}.pth"
        torch.save({prefix + key: value for key, value in weights.items()}, path)
        loaded = load_arch(choice(f"{source}:Inner"), path).network.state_dict()
        assert any(torch.equal(value, weights["net.bias"]) for value in loaded.values())


@pytest.mark.parametrize(
    "scale", [("--std", "0"), ("--std", "0.5,-1,0.5"), ("--mean", "inf"), ("--mean", "nan")]
)
def test_a_scale_that_scales_no_picture_is_refused(hinet: tuple[Path, Path], scale: tuple[str, str]) -> None:
    result = export(hinet[1], "--engine", "none", "--arch", f"{hinet[0]}:HINet", *scale)
    assert result.exit_code == 2
    assert f"{scale[0]} '{scale[1]}' scales no picture" in result.stderr
