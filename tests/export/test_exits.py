"""Early exits: cut networks give the whole network's images, and a family is complete or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sdps.core.artifact import sha256_of
from sdps.core.errors import UsageError
from sdps.core.family import FamilyManifest
from sdps.export.cli import app
from sdps.export.job import network_macs
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.model.exits import cut, exits_of
from sdps.runtime.graph_file import read_graph


def export(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("tau", [0, 2])
def test_every_exit_gives_the_whole_networks_image(tau: int) -> None:
    torch.manual_seed(tau)
    network = SDPSFNet(SDPSFNetConfig(tau=tau, features=6, scale_unet=3, scale_orb=2, cabs=1)).eval()
    x = torch.randn(1, 3, 16, 24)
    with torch.inference_mode():
        images = network(x)
        for exit in exits_of(network):
            result = cut(network, exit)(x)
            image = result[-1] if isinstance(result, list) else result
            torch.testing.assert_close(image, images[exit])
    assert cut(network, -1) is network
    with pytest.raises(UsageError, match="no exit"):
        cut(network, tau + 2)


def test_costs_are_those_of_the_facts() -> None:
    network = SDPSFNet()  # the paper's
    whole = network_macs(network)
    shares = [network_macs(cut(network, exit)) / whole for exit in exits_of(network)]
    # 12, 25, 38, 52 and 100 %: a little less, as the hand-over to the next stage is not computed.
    assert [round(share, 2) for share in shares] == [0.12, 0.25, 0.38, 0.51, 1.0]


def test_a_family_under_one_description(published_pth: Path, tmp_path: Path) -> None:
    result = export(published_pth, "--exits", "all", "--size", "61x90", "--out", tmp_path, "--name", "tiny")
    assert result.exit_code == 0, result.output
    path = tmp_path / "tiny-fp32-61x90-exits" / "family.json"
    assert str(path) in result.stdout
    family = FamilyManifest.read(path)
    assert [member.exit for member in family.members] == [0, 1]
    assert 0 < family.members[0].share < family.members[1].share == 1
    for member, exit in zip(family.members, (0, -1), strict=True):
        file = path.parent / member.file
        assert member.sha256 == sha256_of(file)
        manifest = read_graph(file)[1]
        assert (manifest.exit, manifest.macs, manifest.drift) == (exit, member.macs, member.drift)
        assert manifest.rewrites["leaky_relu"] > 10
    assert {p.name for p in path.parent.iterdir()} == {"family.json", "exit0.onnx", "exit1.onnx"}
    # One that is cut short leaves none whose hashes do not fit.
    (path.parent / "exit1.onnx").unlink()
    (path.parent / "exit1.onnx").mkdir()
    result = export(published_pth, "--exits", "all", "--size", "61x90", "--out", tmp_path, "--name", "tiny")
    assert result.exit_code == 1
    assert {p.name for p in path.parent.iterdir()} == {"exit0.onnx", "exit1.onnx"}


def test_a_family_that_fails_leaves_no_folder(published_pth: Path, tmp_path: Path) -> None:
    options = ("--exits", "all", "--fp16", "--size", "61x90", "--out", tmp_path, "--min-psnr", "200")
    result = export(published_pth, *options)
    assert result.exit_code == 1
    assert "at least 200 dB" in result.stderr
    assert not list(tmp_path.iterdir())
    kept = tmp_path / f"{published_pth.stem}-fp16-61x90-exits"
    kept.mkdir()
    export(published_pth, *options)
    assert kept.is_dir()


def test_a_folder_that_cannot_be_made_is_found_before_the_work(published_pth: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny-fp32-61x90-exits").write_text("not a folder")
    result = export(published_pth, "--exits", "all", "--size", "61x90", "--out", tmp_path, "--name", "tiny")
    assert result.exit_code == 1
    assert "Cannot make the folder" in result.stderr
    assert not result.stdout  # nothing was traced and compared


def test_explain_and_one_exit(published_pth: Path, tmp_path: Path) -> None:
    result = export(
        published_pth, "--exit", "0", "--explain", "--size", "61x90", "--out", tmp_path, "--engine", "none"
    )
    assert result.exit_code == 0, result.output
    for said in ("(as traced)", "leaky_relu", "upsampling_chains", "(rewritten)", "→"):
        assert said in result.stdout
    assert read_graph(tmp_path / f"{published_pth.stem}-exit0-fp32-61x90.onnx")[1].exit == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--exit", "2"), "no exit 2"),
        (("--exits", "some"), "takes 'all'"),
        (("--exits", "all", "--exit", "0"), "do not go together"),
        (("--exits", "all", "--int8"), "INT8"),
        (("--exits", "all", "--engine", "rtx"), "graphs only"),
        (("--exits", "all", "--explain"), "--explain does not go with it"),
        (("--exits", "all", "--cameras", "480x640"), "--cameras"),
        (("--exits", "all", "--dynamic", "--engine-sizes", "64,128,256"), "--engine-sizes"),
        (("--exits", "all", "--refit", "some.engine"), "--refit"),
        (("--exits", "all", "--dla", "0"), "--dla"),
        (("--exits", "all", "--targets", "8.6", "--rebuild"), "Leave --targets and --rebuild out"),
        (("--fp16", "--bf16"), "do not go together"),
    ],
)
def test_wrong_usage(published_pth: Path, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    if "rtx" in options:
        pytest.importorskip("tensorrt_rtx")
    result = export(published_pth, "--out", tmp_path, *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not list(tmp_path.iterdir())
