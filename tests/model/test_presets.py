"""The ladder of the paper's ablation and the other presets: built, trained, saved, recognised."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sdps.benchmarks import ladder
from sdps.benchmarks.ladder import NAMES, paces, rungs
from sdps.core.errors import UsageError
from sdps.core.spec import Size
from sdps.model import SDPSFNet, SDPSFNetConfig, load_checkpoint, save_checkpoint
from sdps.model.ablations import ABLATIONS, ablation_of
from sdps.model.checkpoint import to_published
from sdps.model.presets import LADDER, NETWORKS, network_config
from sdps.training.losses import StageLoss

NARROW = {"features": 8, "scale_unet": 4, "scale_orb": 4, "cabs": 1}


def narrow(name: str, tau: int = 1) -> SDPSFNetConfig:
    """A rung at widths that run in milliseconds."""
    return replace(LADDER[name], tau=tau, **NARROW)


@pytest.mark.parametrize("name", LADDER)
def test_every_rung_trains(name: str) -> None:
    torch.manual_seed(0)
    network = SDPSFNet(narrow(name))
    x, clean = torch.rand(2, 3, 16, 20), torch.rand(2, 3, 16, 20)
    outputs = network(x)
    assert [output.shape for output in outputs] == [x.shape] * 3
    StageLoss()(outputs, clean).backward()
    idle = {key for key, value in network.named_parameters() if value.grad is None}
    # The last rung has two up-samplings that nothing uses, as the authors' checkpoints do.
    assert all(key.startswith("stage_osr.unused_up") for key in idle)


@pytest.mark.parametrize("layout", ["published.pth", "ours.safetensors"])
@pytest.mark.parametrize("name", LADDER)
def test_a_rung_is_known_by_its_weights(name: str, layout: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = SDPSFNet(narrow(name)).eval()
    if layout.startswith("ours"):
        save_checkpoint(network, tmp_path / layout)
    else:
        torch.save(to_published(network), tmp_path / layout)
    loaded = load_checkpoint(tmp_path / layout)
    assert loaded.config == network.config
    x = torch.rand(1, 3, 16, 16)
    for a, b in zip(network(x), loaded(x), strict=True):
        assert torch.equal(a, b)


def test_without_a_middle_stage_two_rungs_are_one_network() -> None:
    keys = [SDPSFNet(narrow(name, tau=0)).state_dict().keys() for name in ("gates", "hierarchical")]
    assert keys[0] == keys[1] and ablation_of(keys[1]) == "gates"


def test_every_rung_but_the_baseline_differs_from_the_one_below() -> None:
    networks = [SDPSFNet(narrow(name)) for name in LADDER]
    keys = [set(network.state_dict()) for network in networks]
    assert all(a != b for a, b in pairwise(keys[:5]))
    assert keys[4] == keys[5]  # 1 and 40 channels: other shapes, the same parts
    assert "gate" not in " ".join(keys[0])


def test_the_table_has_the_papers_parameters_and_macs() -> None:
    assert (*LADDER, "tau0", "tau1", "tau2", "tau3", "nano", "small") == NAMES
    rows = {row.name: row for row in rungs(("psf40", "tau0", "nano", "small"))}
    assert rows["psf40"].parameters == 9_629_577 and rows["tau0"].parameters == 3_641_841
    assert rows["psf40"].macs / 1e9 == pytest.approx(211.34, abs=0.005)
    assert rows["nano"].macs < 2.7e9 and rows["small"].macs < 25e9


def test_the_ladders_latency_is_measured_side_by_side(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ladder, "NETWORKS", {name: narrow(name, tau=0) for name in LADDER})
    monkeypatch.setattr(ladder, "NAMES", ("gates", "psf40"))
    monkeypatch.setattr(ladder, "SIZE", Size(61, 90))  # as other tests trace the second
    out = tmp_path / "ladder.json"
    command = ["--latency", "--rounds", "6", "--provider", "cpu", "--threads", "1", "--out", str(out)]
    result = CliRunner().invoke(ladder.app, command)
    assert result.exit_code == 0, result.output
    assert "round 6 of 6" in result.stderr and "p50, ms" in result.stdout
    kept = json.loads(out.read_text())["presets"]
    assert all(len(pace["samples_ns"]) == 6 and pace["latency"]["p50_ms"] > 0 for pace in kept.values())
    assert kept["psf40"]["speed"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert kept["gates"]["speed"]["median"] != 1.0
    assert CliRunner().invoke(ladder.app, ["--out", str(out)]).exit_code == 2


def test_names() -> None:
    assert network_config("psf40") == network_config("paper") == SDPSFNetConfig()
    assert set(ABLATIONS) < set(NETWORKS)
    with pytest.raises(UsageError, match=r"no preset 'tau9'.*nano"):
        network_config("tau9")
    with pytest.raises(UsageError, match="no ablation"):
        SDPSFNet(SDPSFNetConfig(ablation="psf"))


def test_a_wrong_provider_is_refused_before_anything_is_exported() -> None:
    said: list[str] = []
    with pytest.raises(UsageError, match="no provider 'nothing'"):
        paces(("nano",), provider="nothing", say=said.append)
    with pytest.raises(UsageError, match="not a checkpoint"):  # a graph is what is timed
        paces(("nano",), provider="torch", say=said.append)
    with pytest.raises(UsageError, match="runs no graph"):
        paces(("nano",), provider="identity", say=said.append)
    assert not said
