"""Fine-tuning for INT8: the same loop, an ordinary checkpoint, and an export that takes its ranges."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from sdps.calibration.fake_quant import is_range, steps_of
from sdps.calibration.layers import picture_facing
from sdps.calibration.trained import ORIGINAL, TrainedRanges
from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.export.cli import app as export_app
from sdps.export.module_map import Mapped, map_checkpoint
from sdps.model import SDPSFNet, SDPSFNetConfig, load_checkpoint, save_checkpoint
from sdps.model.deploy import normalise
from sdps.training.cli import app
from sdps.training.data import PhotoSource
from sdps.training.lift import lifted
from sdps.training.loop import Ending, train
from sdps.training.qat import begin, load_original
from sdps.training.recipe import Recipe
from sdps.training.run_folder import RunFolder
from sdps.training.trainer import Trainer
from sdps.training.validation import Validate, on_photos

NET = SDPSFNetConfig(tau=0, features=4, scale_unet=2, scale_orb=2, cabs=1, reduction=2, psf_channels=8)
SHORT = Recipe(steps=4, phases=((0.0, 32, 2),), warmup=1, rate=1e-3, average=0.5, seed=3, int8_share=0.8)
OFTEN = 1e-9


@pytest.fixture(scope="module")
def photos() -> list[Image]:
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (96, 80)) for _ in range(3)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network; one channel of many tensors is louder than the others."""
    torch.manual_seed(1)
    network = SDPSFNet(NET)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.weight.shape[0] >= 4 and module.weight.shape[2] == 3:
                module.weight[0].mul_(4.0)
    path = tmp_path_factory.mktemp("weights") / "loud.safetensors"
    save_checkpoint(network, path)
    return path


@pytest.fixture(scope="module", autouse=True)
def few_patches() -> Iterator[None]:
    """Layers of these random networks are ranked on a few patches only."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sdps.training.lift.MOST", 8)
        yield


@pytest.fixture(scope="module")
def mapped(weights: Path) -> Mapped:
    """Traced once for all tests."""
    return map_checkpoint(load_checkpoint(weights), weights)


@pytest.fixture(scope="module")
def first(weights: Path, mapped: Mapped, photos: list[Image]) -> SDPSFNet:
    """As a run begins: calibrated and rounded once for all tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sdps.training.qat.map_checkpoint", lambda *_: mapped)
        return begin(load_checkpoint(weights), weights, PhotoSource(photos), SHORT)


class Runs:
    """Runs on one beginning."""

    def __init__(self, weights: Path, first: SDPSFNet, photos: list[Image]) -> None:
        self.weights, self.first, self.photos = weights, first, photos

    def trainer(self, recipe: Recipe = SHORT, network: SDPSFNet | None = None) -> Trainer:
        network = copy.deepcopy(self.first) if network is None else network
        original = load_original(self.weights)
        return Trainer(network, PhotoSource(self.photos), recipe, teacher=original)

    def __call__(self, out: Path, validate: Validate | None = None, recipe: Recipe = SHORT) -> Ending:
        folder = RunFolder(out, PhotoSource(self.photos), load_original(self.weights))
        validate = validate or on_photos(self.photos[:1], ("heavy",))
        return train(self.trainer(recipe), folder, validate, every=OFTEN)


@pytest.fixture(scope="module")
def runs(weights: Path, first: SDPSFNet, photos: list[Image]) -> Runs:
    return Runs(weights, first, photos)


@pytest.fixture(scope="module")
def done(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done")
    assert runs(out).finished
    return out


def test_weights_and_ranges_both_learn(runs: Runs) -> None:
    trainer = runs.trainer()
    before = {key: value.detach().clone() for key, value in trainer.network.named_parameters()}
    trainer.advance()
    after = dict(trainer.network.named_parameters())
    still = {key for key, value in before.items() if torch.equal(value, after[key]) and "unused" not in key}
    # The attention of a random network can be shut, and then its ranges have no gradient; deep in it
    # others have one that is too small for a step to show.
    deaf = {key for key, value in after.items() if value.grad is None or not value.grad.any()}
    assert not {key for key in deaf if is_range(key) and "attention" not in key}
    assert len([key for key in still if is_range(key)]) < len([key for key in after if is_range(key)]) / 2
    assert not {key for key in still if ".weight" in key}, "a folded layer's weights learn as well"


def test_it_comes_nearer_to_the_fp32_network_than_calibration_did(runs: Runs) -> None:
    original = load_original(runs.weights)
    rainy = normalise(PhotoSource(runs.photos).patches(64, 6, seed=99).step(0)[0])

    def error(network: SDPSFNet) -> float:
        with torch.inference_mode():
            return float(((network(rainy)[-1] - original(rainy)[-1]) ** 2).mean())

    recipe = replace(SHORT, steps=30, rate=3e-4, average=0.9, drift=1.0, phases=((0.0, 48, 4),))
    trainer = runs.trainer(recipe)
    calibrated = error(runs.first.eval())
    for _ in range(30):
        trainer.advance()
    assert error(trainer.averaged()) < 0.95 * calibrated


def test_a_stopped_run_goes_on_to_the_very_same_weights_and_ranges(
    runs: Runs, done: Path, tmp_path: Path
) -> None:
    def interrupted(network: SDPSFNet) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return on_photos(runs.photos[:1], ("heavy",))(network)

    assert runs(tmp_path, interrupted).step < SHORT.steps
    assert runs(tmp_path).finished
    one, other = (load_file(path / "last.safetensors") for path in (tmp_path, done))
    assert all(torch.equal(one[key], other[key]) for key in other)
    assert TrainedRanges.read(tmp_path / "last.safetensors") == TrainedRanges.read(done / "last.safetensors")


def test_it_leaves_an_ordinary_checkpoint_with_ranges(
    runs: Runs, weights: Path, done: Path, tmp_path: Path
) -> None:
    ranges = TrainedRanges.read(done / "best.safetensors")
    other = tmp_path / "best.ckpt"
    other.write_bytes((done / "best.safetensors").read_bytes())
    assert TrainedRanges.read(other) == ranges  # a file is what it holds, whatever it is called
    assert ranges is not None
    assert ranges.steps.keys() == steps_of(runs.first).keys()
    assert ranges.steps != steps_of(runs.first)
    assert load_checkpoint(done / "best.safetensors").config == NET
    last, best = (load_file(done / f"{name}.safetensors") for name in ("last", "best"))
    assert all(torch.equal(last[key], best[key]) for key in last), "nearest to the teacher, not by PSNR"
    assert load_file(done / ORIGINAL).keys() == load_file(done / "best.safetensors").keys()
    kept, given = load_file(done / ORIGINAL), load_file(weights)
    assert all(torch.equal(kept[key], given[key]) for key in given)


def test_the_costliest_layers_stay_in_floating_point(
    weights: Path, mapped: Mapped, photos: list[Image], first: SDPSFNet
) -> None:
    macs: dict[tuple[str, ...], int] = {}
    for site, layer in zip(mapped.sites, mapped.layers, strict=True):
        macs[site.modules] = macs.get(site.modules, 0) + layer.macs
    total, rounded = sum(mapped.macs.values()), steps_of(first).keys()
    left = {site.modules for site in mapped.sites if site.key in rounded}
    facing = picture_facing(mapped.model, mapped.layers)
    assert not {site.modules for site in mapped.sites if site.layer in facing} & left
    share = sum(macs[modules] for modules in left) / total
    assert 0.8 <= share < 0.8 + min(macs[modules] for modules in left) / total, "as much as there is room for"

    # A range that is far too narrow makes a layer costly, wherever it stands.
    network, steps = load_checkpoint(weights), {site.key: 0.05 for site in mapped.sites}
    bulk = [site for site in mapped.sites if not site.part and site.layer not in facing]
    spoilt = next(site for site in bulk if macs[site.modules] < 0.05 * total)
    steps[spoilt.key] = 1e-4
    assert spoilt.layer in lifted(network, mapped, steps, PhotoSource(photos), SHORT)
    assert steps_of(network) == {}, "it stays as it is"
    with pytest.raises(UsageError, match="cannot be INT8"):
        lifted(network, mapped, steps, PhotoSource(photos), replace(SHORT, int8_share=1.0))


def test_the_command_goes_on_with_its_layers(
    weights: Path,
    mapped: Mapped,
    photos: list[Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On nothing but the same; which layers it rounds is not measured again, on whatever machine."""
    monkeypatch.setattr("sdps.training.qat.map_checkpoint", lambda *_: mapped)  # traced already
    for i, photo in enumerate(photos):
        target = tmp_path / "photos" / f"{i}.png"
        target.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(target), photo)
    out = tmp_path / "run"

    def run(*more: str) -> tuple[int, str]:
        arguments = ["--photos", str(tmp_path / "photos"), "--out", str(out), "--patch", "32", "--batch", "2"]
        given = ["--qat", str(weights), *arguments, "--steps", "2", "--int8-share", "0.8"]
        result = CliRunner().invoke(app, [*given, *more])
        return result.exit_code, result.stderr

    code, said = run()
    assert code == 0, said
    assert "Tracing and calibrating" in said
    first = TrainedRanges.read(out / "last.safetensors")
    monkeypatch.setattr("sdps.training.qat.lifted", None)
    code, said = run()
    assert code == 0, said
    assert "calibrating" not in said
    assert TrainedRanges.read(out / "last.safetensors") == first
    code, said = run("--int8-share", "0.5")
    assert code == 2
    assert "int8_share 0.8 to 0.5" in said
    code, said = run("--int8-share", "1", "--out", str(tmp_path / "other"))
    assert code == 2
    assert "cannot be INT8" in said


def test_what_runs_began_with_before_there_was_an_option(runs: Runs, tmp_path: Path) -> None:
    """What a stored recipe lacks had its default, and may not be another now."""
    trainer = runs.trainer()
    state = trainer.state()
    del state["recipe"]["int8_share"]
    with pytest.raises(UsageError, match=r"int8_share 0\.0 to 0\.8"):
        trainer.restore(state)


def test_validation_sees_the_rounding(runs: Runs) -> None:
    picture = torch.rand(1, 3, 32, 32)
    rounding = runs.trainer().averaged()
    plain = load_checkpoint(runs.weights)
    with torch.inference_mode():
        assert not torch.equal(rounding(picture)[-1], plain(picture)[-1])
    assert steps_of(rounding) == steps_of(runs.first)


def test_export_takes_the_ranges_and_says_so(
    done: Path, photos: list[Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDPS_HOME", str(tmp_path / "home"))
    for i, photo in enumerate(photos):
        for j in range(2):
            target = tmp_path / "pictures" / f"{i}{j}.png"
            target.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(target), np.ascontiguousarray(np.rot90(photo, 2 * j)))
    arguments = [
        *("--int8", "--calib", str(tmp_path / "pictures"), "--calib-size", "64", "--calib-crops", "4"),
        *("--dynamic", "--engine", "none", "--int8-rest", "fp32", "--out", str(tmp_path / "out")),
        *("--min-psnr", "5", "--max-mean-shift", "100"),
    ]
    result = CliRunner().invoke(export_app, [str(done / "best.safetensors"), *arguments])
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "out").glob("*.int8/report.json")
    report = json.loads(path.read_text())
    assert report["settings"]["ranges"].startswith("trained")
    assert any("trained for INT8" in note for note in report["notes"])
    assert 0.8 <= report["chosen"]["int8_macs_share"] < 1
    names = {row["layer"].rpartition("network.")[2]: row["why"] for row in report["kept"]}
    facing = {name for name, why in names.items() if "picture" in why}
    assert facing >= {
        *("stage_in.shallow.conv_in.weight", "stage_in.sam.conv_image.weight", "stage_osr.tail.weight"),
        *("stage_in.sam.conv_attention.weight", "stage_osr.shallow.conv_in.weight"),
    }
    costly = names.keys() - facing
    assert costly
    assert all("cost most for their work" in names[name] for name in costly)

    # A bound that all of them miss by a little is kept without some.
    near = str(report["chosen"]["psnr_to_fp32_db"] + 0.3)
    given = [*arguments[:-4], "--min-psnr", near, "--max-mean-shift", "100", "--name", "near"]
    result = CliRunner().invoke(export_app, [str(done / "best.safetensors"), *given])
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "out").glob("near*.int8/report.json")
    searched = json.loads(path.read_text())
    assert 0 < searched["chosen"]["int8_macs_share"] < report["chosen"]["int8_macs_share"]
    assert searched["chosen"]["psnr_to_fp32_db"] >= float(near)
    lifted_now = {row["why"] for row in searched["kept"]} - {row["why"] for row in report["kept"]}
    assert [why for why in lifted_now if "the other layers lose less" in why] and len(lifted_now) == 1
    assert "lifted out of INT8" in result.stderr and any("lifted out" in note for note in searched["notes"])

    alone = tmp_path / "alone" / "best.safetensors"
    alone.parent.mkdir()
    alone.write_bytes((done / "best.safetensors").read_bytes())
    result = CliRunner().invoke(export_app, [str(alone), *arguments])
    assert result.exit_code == 2
    assert "not beside it" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--preset", "nano"), "brings its own network"),
        (("--from", "sdps-nano"), "brings its own network"),
        (("--precision", "bf16"), "trains in FP32"),
        (("--int8-share", "0"), "--int8-share"),
    ],
)
def test_what_does_not_go_with_it_is_refused(weights: Path, arguments: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(app, ["--qat", str(weights), *arguments])
    assert result.exit_code == 2
    assert told in result.stderr


def test_the_share_in_int8_is_of_fine_tuning_only() -> None:
    result = CliRunner().invoke(app, ["--preset", "nano", "--int8-share", "0.9"])
    assert result.exit_code == 2
    assert "is of --qat only" in result.stderr


def test_fine_tuned_weights_are_no_original(done: Path) -> None:
    with pytest.raises(UsageError, match="fine-tuned for INT8 already"):
        load_original(done / "best.safetensors")


def test_a_run_goes_on_with_the_same_weights_and_kind_only(runs: Runs, done: Path, tmp_path: Path) -> None:
    source = PhotoSource(runs.photos)
    other = RunFolder(done, source, SDPSFNet(NET))
    with pytest.raises(UsageError, match="fine-tunes other weights"):
        other.load(runs.trainer())
    with pytest.raises(UsageError, match="rounds other layers"):
        RunFolder(done, source).load(runs.trainer(network=SDPSFNet(NET)))
    plain = tmp_path / "plain"
    RunFolder(plain, source).save(Trainer(SDPSFNet(NET), source, SHORT), {})
    with pytest.raises(UsageError, match="no fine-tuning for INT8"):
        RunFolder(plain, source, load_original(runs.weights)).rounded()
