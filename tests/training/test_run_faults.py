"""Runs that meet bad pictures, another process, a full disk or a rate that is too high."""

from __future__ import annotations

import json
import math
import os
import resource
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sdps.core.errors import SdpsError, SourceError, TrainingError, UsageError
from sdps.core.frame import Image
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.training.cli import app
from sdps.training.data import PhotoSource
from sdps.training.datasets import Pair
from sdps.training.loop import Ending, train
from sdps.training.pictures import choose, hold_out_scenes, load_folder
from sdps.training.recipe import Recipe
from sdps.training.run_folder import RunFolder
from sdps.training.trainer import Trainer
from sdps.training.validation import Group, Validate, on_photos, overall

NET = SDPSFNetConfig(tau=0, features=4, scale_unet=4, scale_orb=4, cabs=1, psf_channels=8)
QUICK = Recipe(steps=3, phases=((0.0, 16, 1),), warmup=1, seed=3)


def scenes(count: int, side: int = 40) -> list[Image]:
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in range(count)]
    return [cv2.resize(one, (side + 20, side)) for one in coarse]


SOURCE = PhotoSource(scenes(2))


def save(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def save_pairs(folder: Path, pictures: list[Image]) -> None:
    for i, picture in enumerate(pictures):
        save(folder / "input" / f"{i}.png", picture)
        save(folder / "target" / f"{i}.png", picture)


def fine(network: SDPSFNet) -> list[Group]:
    return [Group("set", 20.0, 30.0, 0.9, 1.0)]


def begin(recipe: Recipe = QUICK) -> Trainer:
    torch.manual_seed(recipe.seed)
    return Trainer(SDPSFNet(NET), SOURCE, recipe)


def run(out: Path, validate: Validate = fine, recipe: Recipe = QUICK, every: float = 1e-9) -> Ending:
    return train(begin(recipe), RunFolder(out, SOURCE), validate, every)


def steps(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_validation_pictures_that_cannot_be_scored_are_named_and_left_out(tmp_path: Path) -> None:
    save_pairs(tmp_path / "train", scenes(2))
    save_pairs(tmp_path / "val", [*scenes(3)[2:], scenes(4)[3], scenes(1, 8)[0]])
    cut = tmp_path / "val" / "input" / "1.png"
    save(cut.with_suffix(".jpg"), scenes(4)[3])
    cut.unlink()
    cut = cut.with_suffix(".jpg")
    cut.write_bytes(cut.read_bytes()[:-200])  # the head is good, the picture is not
    said: list[str] = []
    source, validate = choose(tmp_path, None, 16, said.append)
    assert source.count == 2
    assert len(said) == 2
    assert "2.png is smaller than 11 pixels" in said[0] and "1.jpg is not a readable" in said[1]
    assert len(validate(SDPSFNet(NET).eval())) == 1


def test_a_validation_that_fails_does_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(network: SDPSFNet) -> list[Group]:
        assert (tmp_path / "last.pt").is_file()
        raise SourceError("0.png cannot be read.", "Give a picture file.")

    ending = run(tmp_path, gone)
    assert (ending.finished, ending.step, ending.best) == (True, 3, -math.inf)
    assert "step 1: the validation failed, and training goes on: 0.png" in capsys.readouterr().err
    assert "failed" in (tmp_path / "log.jsonl").read_text()


def test_a_run_that_is_killed_while_it_validates_does_so_when_it_goes_on(tmp_path: Path) -> None:
    def killed(network: SDPSFNet) -> list[Group]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, killed)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 1
    ending = run(tmp_path)
    assert (ending.here, ending.best) == (2, 30.0)
    assert steps(tmp_path) == [1, 2, 3]


def test_a_run_goes_on_with_the_same_beginning_only(tmp_path: Path) -> None:
    begun = {"precision": "fp32", "from": "random weights"}
    RunFolder(tmp_path, SOURCE, begun=begun).save(begin(), {"best": 1.0})
    assert RunFolder(tmp_path, SOURCE, begun=begun).load(begin()) == {"best": 1.0}
    for option, value in (("precision", "bf16"), ("from", "sha256:00")):
        with pytest.raises(UsageError, match=f"another --{option} "):
            RunFolder(tmp_path, SOURCE, begun={**begun, option: value}).load(begin())
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    del state["begun"]  # as earlier versions saved it
    torch.save(state, tmp_path / "last.pt")
    assert RunFolder(tmp_path, SOURCE, begun=begun).load(begin()) == {"best": 1.0}


def test_one_process_at_a_time_trains_in_a_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path, SOURCE).alone():
        with pytest.raises(UsageError, match="Another process trains in"):
            run(tmp_path)
        with RunFolder(tmp_path, SOURCE).alone(first=False):
            pass
    assert run(tmp_path).finished
    (tmp_path / "file").write_text("")
    with pytest.raises(SdpsError, match="cannot be written to"):
        run(tmp_path / "file" / "run")


@pytest.mark.parametrize("option", ["--teacher", "--from"])
def test_a_run_that_cannot_begin_leaves_no_folder(option: str, tmp_path: Path) -> None:
    for i, picture in enumerate(scenes(12)):
        save(tmp_path / "photos" / f"{i}.png", picture)
    arguments = ["--photos", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), "--preset", "nano"]
    wrong = [option, str(tmp_path / "photos" / "0.png")]
    result = CliRunner().invoke(app, [*arguments, *wrong, "--patch", "32", "--batch", "2"])
    assert result.exit_code == 1 and "not a PyTorch file" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused_before_the_calibration(tmp_path: Path) -> None:
    for i, picture in enumerate(scenes(12)):
        save(tmp_path / "photos" / f"{i}.png", picture)
    arguments = ["--qat", "sdps-nano", "--photos", str(tmp_path / "photos"), "--out", str(tmp_path)]
    with RunFolder(tmp_path, SOURCE).alone():
        result = CliRunner().invoke(app, [*arguments, "--patch", "32", "--batch", "2"])
    assert result.exit_code == 2
    assert "Another process trains in" in result.stderr
    assert "calibrating" not in result.stderr


def test_a_full_disk_leaves_what_was_saved(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, SOURCE)
    folder.save(begin(), {})
    before = (tmp_path / "last.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(SdpsError, match=r"last\.pt cannot be written"):
            folder.save(begin(), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob(".*tmp*"))


def test_a_diverged_run_stops_and_keeps_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdps.training.loop.PATIENCE", 4)
    with pytest.raises(
        TrainingError, match=r"diverged: after step \d+, 4 steps in a row.*lower --rate"
    ) as told:
        run(tmp_path, recipe=replace(QUICK, steps=10**6, rate=1e30))
    good = int(str(told.value).split("after step ")[1].split(",")[0])
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == good


def test_what_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    network = SDPSFNet(NET).eval()
    with torch.no_grad():
        network.stage_osr.tail.weight.fill_(math.nan)
    groups = on_photos(scenes(1), ("heavy",))(network)
    assert math.isnan(groups[0].after)
    assert overall(groups) == overall([]) == -math.inf
    ending = run(tmp_path, lambda network: groups)
    assert ending.best == -math.inf and not (tmp_path / "best.safetensors").exists()


def test_pictures_that_are_restored_exactly_do_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([math.inf, 30.0, 20.0])
    monkeypatch.setattr(
        "sdps.training.validation._restored",
        lambda *_: type("Quality", (), {"psnr": next(values), "ssim": 1.0}),
    )
    (group,) = on_photos(scenes(3), ("heavy",))(SDPSFNet(NET).eval())
    assert group.after == 25.0 and not math.isnan(group.worst)
    assert overall([group, replace(group, after=math.inf)]) == 25.0


def test_no_scene_is_on_both_sides(tmp_path: Path) -> None:
    """Two scenes with ten rains each, as ten files each or as one."""
    two = scenes(2)
    save_pairs(tmp_path, [picture for picture in two for _ in range(10)])
    said: list[str] = []
    source, _ = choose(tmp_path, None, 16, said.append)
    assert source.count == 10 and said == []
    names = [tmp_path / "input" / f"{i}.png" for i in range(20)]
    pairs = [Pair(path.name, path, names[10 * (i // 10)]) for i, path in enumerate(names)]
    train_on, held_out = hold_out_scenes(pairs, 2, said.append)
    assert (train_on, held_out) == (pairs[10:], pairs[:10])


def test_of_many_scenes_about_as_many_as_are_looked_at_are_held_out(tmp_path: Path) -> None:
    save_pairs(tmp_path, scenes(60))
    files = [tmp_path / "input" / f"{i}.png" for i in range(60)]
    pairs = [Pair(f"{i}-{rain}", files[i], files[i]) for i in range(60) for rain in range(14)]
    train_on, held_out = hold_out_scenes(pairs, 2, lambda text: None, most=10)
    assert (len(held_out), len(train_on)) == (10 * 14, 50 * 14)


def test_without_doubles_every_tenth_is_held_out_as_ever(tmp_path: Path) -> None:
    save_pairs(tmp_path, scenes(12))
    (tmp_path / "target" / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    pairs = [
        Pair(f"{i}", tmp_path / "input" / f"{i}.png", tmp_path / "target" / f"{i}.png") for i in range(12)
    ]
    train_on, held_out = hold_out_scenes(pairs, 10, lambda text: None)
    assert held_out == [pairs[0], pairs[10]] and len(train_on) == 10


def test_the_test_part_is_never_looked_at(tmp_path: Path) -> None:
    save_pairs(tmp_path / "train", scenes(12))
    save_pairs(tmp_path / "test", scenes(1))
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_bytes(b"no picture")
    said: list[str] = []
    source, validate = choose(tmp_path, None, 16, said.append)
    assert source.count == 10 and said == []
    assert validate(SDPSFNet(NET).eval())[0].before == math.inf


def test_a_part_that_is_not_understood_is_named(tmp_path: Path) -> None:
    save_pairs(tmp_path / "test", scenes(1))
    with pytest.raises(UsageError, match="holds test pictures only"):
        choose(tmp_path, None, 16, print)
    save(tmp_path / "train" / "wet" / "0.png", scenes(1)[0])
    with pytest.raises(UsageError, match="train holds no pairs that are understood"):
        choose(tmp_path, None, 16, print)


def test_hidden_files_are_no_photographs(tmp_path: Path) -> None:
    save(tmp_path / "0.png", scenes(1)[0])
    (tmp_path / "._0.png").write_bytes(b"a Mac's")
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"")
    said: list[str] = []
    assert len(load_folder(tmp_path, 16, said.append)) == 1
    assert len(said) == 1 and "not a readable picture" in said[0]
