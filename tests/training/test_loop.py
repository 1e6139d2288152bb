"""Whole runs: stopped, killed, refused, fitted to a time, and by several processes."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from sdps.core.errors import SdpsError, UsageError
from sdps.core.frame import Image
from sdps.core.machine import cpu
from sdps.model import SDPSFNet, SDPSFNetConfig, load_checkpoint
from sdps.training.cli import app, parse_minutes
from sdps.training.data import PhotoSource
from sdps.training.loop import Ending, Stop, train
from sdps.training.pictures import choose, hold_out, load_folder
from sdps.training.recipe import Clock, Recipe
from sdps.training.run_folder import RunFolder
from sdps.training.trainer import Trainer, open_fabric
from sdps.training.validation import Group, Validate, on_photos

torch.set_num_threads(1)  # in spawned processes too: sums in another order are other losses
NET = SDPSFNetConfig(tau=0, features=4, scale_unet=4, scale_orb=4, cabs=1, psf_channels=8)
QUICK = Recipe(steps=6, phases=((0.0, 32, 2), (0.5, 48, 2)), warmup=2, seed=3)
OFTEN = 1e-9
"""Minutes between validations: one after each step."""


def scenes(count: int, side: int = 60) -> list[Image]:
    rng = np.random.default_rng(0)
    return [
        cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (side + 20, side)) for _ in range(count)
    ]


PHOTOS = scenes(3)


def run(out: Path, validate: Validate | None = None, recipe: Recipe = QUICK, **how: float) -> Ending:
    torch.manual_seed(recipe.seed)
    source = PhotoSource(PHOTOS)
    trainer = Trainer(SDPSFNet(NET), source, recipe)
    validate = validate or on_photos(PHOTOS[:1], ("heavy",))
    return train(trainer, RunFolder(out, source), validate, **{"every": OFTEN, **how})


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("straight")
    assert run(out).finished
    return out


def same_weights(a: Path, b: Path) -> bool:
    left, right = load_file(a / "last.safetensors"), load_file(b / "last.safetensors")
    return all(torch.equal(left[key], right[key]) for key in left)


def log(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_best_and_last_weights_its_log_and_curves(straight: Path) -> None:
    steps = [entry["step"] for entry in log(straight)]
    assert steps[-1] == QUICK.steps and steps == sorted(steps)
    psnr = [entry["heavy"][1] for entry in log(straight)]  # type: ignore[index]
    best = load_checkpoint(straight / "best.safetensors")
    (group,) = on_photos(PHOTOS[:1], ("heavy",))(best)
    assert group.after == pytest.approx(max(psnr), abs=1e-3)
    assert json.loads((straight / "recipe.json").read_text())["steps"] == QUICK.steps
    assert list((straight / "tensorboard").glob("events.*"))
    assert not list(straight.glob(".*tmp*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_run_saves_and_goes_on_to_the_very_same_weights(
    number: signal.Signals, straight: Path, tmp_path: Path
) -> None:
    validate = on_photos(PHOTOS[:1], ("heavy",))
    calls = []

    def interrupted(network: SDPSFNet) -> list:  # type: ignore[type-arg]
        calls.append(1)
        if len(calls) == 4:  # in the second phase
            os.kill(os.getpid(), number)
        return validate(network)

    before = signal.getsignal(number)
    ending = run(tmp_path, interrupted)
    assert (ending.finished, ending.signal, ending.step) == (False, number, 4)
    assert signal.getsignal(number) == before
    assert run(tmp_path).finished
    assert same_weights(tmp_path, straight)


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop().watching() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.signal
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Told(Trainer):
    """SIGTERM comes during its last step."""

    def advance(self) -> float:
        if self.step == self.recipe.steps - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().advance()


def test_a_run_that_is_stopped_at_its_last_step_validates_when_it_goes_on(tmp_path: Path) -> None:
    source = PhotoSource(PHOTOS)
    validate = on_photos(PHOTOS[:1], ("heavy",))
    ending = train(Told(SDPSFNet(NET), source, QUICK), RunFolder(tmp_path, source), validate)
    assert (ending.signal, ending.step, log(tmp_path)) == (signal.SIGTERM, QUICK.steps, [])
    for _ in range(2):
        ending = run(tmp_path, validate)
        assert (ending.here, [entry["step"] for entry in log(tmp_path)]) == (0, [QUICK.steps])
        assert ending.best > 0 and (tmp_path / "best.safetensors").is_file()


def test_a_killed_run_goes_on_to_the_very_same_weights(straight: Path, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=run, args=(tmp_path,))
    process.start()
    while len(log(tmp_path)) < 2 if (tmp_path / "log.jsonl").is_file() else True:
        assert process.is_alive()
        time.sleep(0.005)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert run(tmp_path).step == QUICK.steps
    assert same_weights(tmp_path, straight)
    steps = [entry["step"] for entry in log(tmp_path)]
    assert steps == list(range(1, QUICK.steps + 1))


def test_a_run_goes_on_with_the_same_recipe_and_pictures_only(straight: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe would change \(rate 0.002 to 0.5"):
        run(straight, recipe=Recipe(**{**QUICK.__dict__, "rate": 0.5}))
    source = PhotoSource(scenes(4))
    with pytest.raises(UsageError, match="other pictures"):
        RunFolder(straight, source).load(Trainer(SDPSFNet(NET), source, QUICK))


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(SdpsError, match=r"last\.pt is not a run to go on with"):
        run(tmp_path)


def test_a_finished_run_stays_as_it_is(straight: Path) -> None:
    before = (straight / "log.jsonl").read_text()
    assert run(straight).step == QUICK.steps
    assert (straight / "log.jsonl").read_text() == before


def test_a_budget_fits_the_schedule_to_the_time(tmp_path: Path) -> None:
    """Far too many steps for the time; the schedule is travelled faster, and still comes to its end."""
    recipe = Recipe(steps=200_000, phases=((0.0, 32, 1), (0.8, 48, 1)), warmup=100)
    ending = run(tmp_path, recipe=recipe, every=math.inf, budget=0.1)
    assert ending.finished and ending.step < 20_000
    clock = Clock(**torch.load(tmp_path / "last.pt", weights_only=True)["clock"])
    assert clock.at(ending.step) > 0.5 * recipe.steps  # 30 of them, if it were not fitted


class Clockwork(Trainer):
    """Nothing is computed: a pixel takes so many seconds of a clock of its own, whatever the phase."""

    pixel_s, now = 1e-4, 0.0

    def advance(self) -> float:
        self.now += self.pixel_s * self.pixels
        self.step += 1
        return 0.1


class Uneven(Clockwork):
    """Others use the machine too: a step takes a half to twice its time, and one in a hundred ten times."""

    def advance(self) -> float:
        chance = np.random.default_rng(self.step)
        self.pixel_s = 1e-4 * (10 if chance.random() < 0.01 else 2 ** chance.uniform(-1, 1))
        return super().advance()


def test_a_schedule_comes_to_its_end_within_its_budget_on_a_busy_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PhotoSource(PHOTOS)
    trainer = Uneven(SDPSFNet(NET), source, Recipe(steps=200_000, phases=((0.0, 32, 1), (0.8, 48, 1))))
    monkeypatch.setattr("sdps.training.loop.time", SimpleNamespace(monotonic=lambda: trainer.now))
    ending = train(trainer, RunFolder(tmp_path, source), lambda network: [], every=math.inf, budget=10)
    assert ending.finished and 2_000 < ending.step < 8_000
    assert trainer.position > 0.99 * trainer.recipe.steps
    assert 0.95 * 600 < trainer.now < 1.01 * 600


def test_the_pace_is_judged_right_in_every_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(steps=4000, phases=((0.0, 16, 12), (0.5, 48, 1)))  # 0.31 and 0.23 s a step
    source, fitted = PhotoSource(PHOTOS), []
    trainer = Clockwork(SDPSFNet(NET), source, recipe)

    def fit(steps_left: float) -> None:
        seconds_left = 0.98 * 600 - trainer.now
        fitted.append(
            (recipe.phase(trainer.position), steps_left * trainer.pixels * trainer.pixel_s / seconds_left)
        )
        Trainer.fit(trainer, steps_left)

    monkeypatch.setattr(trainer, "fit", fit)
    monkeypatch.setattr("sdps.training.loop.time", SimpleNamespace(monotonic=lambda: trainer.now))
    train(trainer, RunFolder(tmp_path, source), lambda network: [], every=math.inf, budget=10)
    assert {phase for phase, _ in fitted} == {0, 1}
    assert [share for _, share in fitted] == pytest.approx([1.0] * len(fitted), rel=0.05)


def first_losses(rank: int, world: int, port: int, results: Any) -> None:
    counts = {name: str(world) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {**counts, **ranks, **meeting}
    torch.manual_seed(QUICK.seed)
    trainer = Trainer(SDPSFNet(NET), PhotoSource(PHOTOS), QUICK, open_fabric("cpu"))
    losses = [trainer.advance() for _ in range(3)]
    if rank == 0:
        results.put(losses)


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """What torchrun starts, over gloo: the patches of a step are shared, so the curve is the same."""
    torch.manual_seed(QUICK.seed)
    alone = Trainer(SDPSFNet(NET), PhotoSource(PHOTOS), QUICK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    both = [context.Process(target=first_losses, args=(rank, 2, port, results)) for rank in (0, 1)]
    for process in both:
        process.start()
    together = results.get(timeout=120)
    for process in both:
        process.join(60)
    assert together == pytest.approx([alone.advance() for _ in range(3)], rel=1e-3, abs=1e-4)


def test_patches_that_processes_cannot_share() -> None:
    class Three:
        world_size, global_rank = 3, 0

    with pytest.raises(UsageError, match="2 patches a step cannot be shared among 3"):
        Trainer(SDPSFNet(NET), PhotoSource(PHOTOS), QUICK, Three())  # type: ignore[arg-type]


def save(path: Path, image: np.ndarray) -> None:  # type: ignore[type-arg]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def test_bad_photographs_are_named_and_skipped(tmp_path: Path) -> None:
    for i, photo in enumerate(scenes(2, 64)):
        save(tmp_path / "below" / f"{i}.png", photo)
    save(tmp_path / "grey.png", scenes(3, 64)[2][:, :, 0])
    save(tmp_path / "deep.png", scenes(4, 64)[3].astype(np.uint16) * 257)
    save(tmp_path / "tiny.png", scenes(1, 20)[0])
    (tmp_path / "text.jpg").write_text("no picture")
    said: list[str] = []
    photos = load_folder(tmp_path, 48, said.append)
    assert [photo.shape for photo in photos] == [(64, 84, 3)] * 4
    assert len(said) == 2 and "text.jpg: not a readable" in said[0] and "tiny.png: at 40x20" in said[1]
    with pytest.raises(UsageError, match="None of the 6 pictures"):
        load_folder(tmp_path, 4000, said.append)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="None of the 0 pictures"):
        load_folder(tmp_path / "empty", 48, said.append)


def test_held_out_photographs_are_not_trained_on_in_any_size_or_quality() -> None:
    photos = scenes(12, 90)
    again = cv2.imdecode(cv2.imencode(".jpg", photos[0], [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)
    photos.insert(5, cv2.resize(again, (70, 56), interpolation=cv2.INTER_AREA))
    said: list[str] = []
    train_on, held_out = hold_out(photos, said.append)
    assert len(held_out) == 2 and len(train_on) == 10
    assert "left out 1 photographs" in said[0]
    with pytest.raises(UsageError, match="too few"):
        hold_out(photos[:1], said.append)


def test_a_data_set_names_its_bad_pairs_and_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdps.training.pictures.LOOKED_AT", 2)
    for part in ("train", "val"):
        for i, photo in enumerate(scenes(3, 64)):
            save(tmp_path / part / "input" / f"{i}.png", photo)
            save(tmp_path / part / "target" / f"{i}.png", photo)
    save(tmp_path / "train" / "input" / "lonely.png", PHOTOS[0])
    save(tmp_path / "train" / "target" / "2.png", PHOTOS[0])
    said: list[str] = []
    source, validate = choose(tmp_path, None, 48, said.append)
    assert source.count == 2
    assert "looked at 2 of 3 pairs" in said
    assert any("lonely.png has no clean" in line for line in said)
    assert any("2.png is 84x64 pixels, 2.png is 80x60" in line for line in said)
    (group,) = validate(SDPSFNet(NET).eval())
    assert group.before == math.inf
    with pytest.raises(UsageError, match="two answers"):
        choose(tmp_path, tmp_path, 48, said.append)


def test_the_command_trains_and_goes_on(tmp_path: Path) -> None:
    for i, photo in enumerate(scenes(3, 64)):
        save(tmp_path / "photos" / f"{i}.png", photo)
    arguments = ["--preset", "nano", "--photos", str(tmp_path / "photos"), "--out", str(tmp_path / "run"),
                 "--patch", "32", "--batch", "1", "--steps", "2", "--device", "cpu"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "2 pictures (photos), nano, 2 steps" in done.output
    assert ("--precision bf16 may train faster" in done.output) == ("amx_bf16" in cpu().features)
    assert load_checkpoint(tmp_path / "run" / "best.safetensors").config.features == 8
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0
    assert "is finished already, or its budget spent: 2 steps" in again.output
    assert "may train faster" not in again.output
    assert CliRunner().invoke(app, [*arguments, "--rate", "0.5"]).exit_code == 2
    other = CliRunner().invoke(app, [*arguments, "--from", "sdps-nano"])
    assert other.exit_code == 2
    assert "began with another --from (random weights, and not sha256:" in other.output
    assert CliRunner().invoke(app, [*arguments, "--precision", "bf16"]).exit_code == 2


def test_the_command_takes_a_teacher_and_goes_on_with_the_same_only(tmp_path: Path) -> None:
    for i, photo in enumerate(scenes(3, 64)):
        save(tmp_path / "photos" / f"{i}.png", photo)
    arguments = ["--preset", "nano", "--photos", str(tmp_path / "photos"), "--out", str(tmp_path / "run"),
                 "--patch", "32", "--batch", "1", "--steps", "1", "--device", "cpu"]  # fmt: skip
    done = CliRunner().invoke(app, [*arguments, "--teacher", "sdps-small", "--teacher-share", "1"])
    assert done.exit_code == 0, done.output
    other = CliRunner().invoke(app, [*arguments, "--teacher", "sdps-nano", "--teacher-share", "1"])
    assert (other.exit_code, "began with another --teacher" in other.output) == (2, True)
    for wrong in (["--teacher-share", "0.5"], ["--teacher", "sdps-small", "--qat", "sdps-nano"]):
        assert CliRunner().invoke(app, [*arguments, *wrong]).exit_code == 2
    assert "learns from" in CliRunner().invoke(app, ["--teacher", "sdps-small", "--qat", "sdps-nano"]).output


def test_the_best_of_a_taught_run_is_the_best_and_not_the_last(tmp_path: Path) -> None:
    scores = iter([20.0, 25.0, *[22.0] * 10])
    recipe = replace(QUICK, taught=0.5)
    trainer = Trainer(SDPSFNet(NET), source := PhotoSource(PHOTOS), recipe, teacher=SDPSFNet(NET))
    folder = RunFolder(tmp_path, source)
    ending = train(trainer, folder, lambda network: [Group("heavy", 13.0, next(scores), 0.5, 0.0)], OFTEN)
    assert ending.best == 25
    with safe_open(tmp_path / "best.safetensors", "np") as best:
        assert best.metadata()["step"] == "2"


STARVED = """
import resource, sys
import cv2, lightning_fabric, torch, torch.utils.tensorboard  # some crash if they are loaded with too little
from sdps.training import cli
torch.set_num_threads(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
cli.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_memory_that_runs_out_is_one_clear_line(tmp_path: Path) -> None:
    for i, photo in enumerate(scenes(3, 130)):
        save(tmp_path / "photos" / f"{i}.png", photo)
    arguments = ["--preset", "nano", "--photos", str(tmp_path / "photos"), "--out", str(tmp_path / "run"),
                 "--patch", "128", "--batch", "256", "--steps", "2", "--device", "cpu"]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", STARVED, *arguments], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Memory ran out at step 0" in done.stderr and "smaller --batch" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("text", "minutes"), [("45m", 45), ("2h", 120), ("1h30m", 90), ("90s", 1.5)])
def test_times(text: str, minutes: float) -> None:
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "45", "soon", "0m", "m45"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="no time"):
        parse_minutes(text)
