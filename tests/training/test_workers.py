"""Runs whose batches are prepared ahead by processes of their own."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdps.core.errors import SourceError, TrainingError
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.training.data import PairSource, PhotoSource, Source
from sdps.training.datasets import Pair
from sdps.training.loop import Ending, train
from sdps.training.recipe import Recipe
from sdps.training.run_folder import RunFolder
from sdps.training.trainer import Trainer
from sdps.training.validation import Group, Validate

ROOT = Path(__file__).parents[2]
"""For the import of this file by processes of its own."""
NET = SDPSFNetConfig(tau=0, features=4, scale_unet=4, scale_orb=4, cabs=1, psf_channels=8)
ENDLESS = Recipe(steps=10**6, phases=((0.0, 16, 1),), warmup=2, seed=3)
PHOTOS = PhotoSource([np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)])


class Disturbed(Trainer):
    """Something happens before its third step."""

    happens: Callable[[], object]

    def advance(self) -> float:
        if self.step == 2:
            self.happens()
        return super().advance()


OTHERS: set[BaseProcess] = set()
"""Processes that another test left to the garbage collector."""


def workers_here() -> list[BaseProcess]:
    return [child for child in multiprocessing.active_children() if child not in OTHERS]


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Python's exit waits for those that are, for ever."""
    OTHERS.update(multiprocessing.active_children())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # on a machine of one core
        yield
    assert workers_here() == []


def run(
    out: Path,
    happens: Callable[[], object],
    source: Source = PHOTOS,
    workers: int = 2,
    validate: Validate = lambda network: [],
    every: float = math.inf,
) -> Ending:
    torch.manual_seed(ENDLESS.seed)
    trainer = Disturbed(SDPSFNet(NET), source, ENDLESS, workers=workers)
    trainer.happens = happens
    return train(trainer, RunFolder(out, source), validate, every)


def saved_step(out: Path) -> int:
    return int(torch.load(out / "last.pt", weights_only=True)["step"])


def signalled(number: int, out: Path) -> None:
    """A run whose processes all get a signal before its third step."""

    def happens() -> None:
        children = workers_here()
        assert len(children) == 2
        pids = [os.getpid(), *(child.pid for child in children)]
        # By another process: PyTorch's workers take a signal of their parent for its word to end.
        subprocess.run(["kill", f"-{number:d}", *map(str, pids)], check=True)

    ending = run(out, happens)
    assert (ending.finished, ending.signal, ending.step) == (False, number, 3)


SIGNALLED = """
import sys
from pathlib import Path
from tests.training.test_workers import signalled
signalled(int(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_processes_of_a_run_stops_and_saves_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    """In a process of its own: in the tests' other libraries may have left something that a signal meets."""
    command = [sys.executable, "-c", SIGNALLED, f"{number:d}", str(tmp_path)]
    done = subprocess.run(command, timeout=120, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert saved_step(tmp_path) == 3


FORGETFUL = """
from sdps.model import SDPSFNet
from tests.training.test_workers import ENDLESS, NET, PHOTOS
from sdps.training.trainer import Trainer
from sdps.training.validation import Group, Validate
trainer = Trainer(SDPSFNet(NET), PHOTOS, ENDLESS, workers=1)
trainer.advance()
"""


def test_python_ends_though_nobody_closed_the_trainer() -> None:
    assert subprocess.run([sys.executable, "-c", FORGETFUL], timeout=60, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_where_the_pictures_are_gone_a_line_says_so_and_what_was_trained_is_saved(
    workers: int, tmp_path: Path
) -> None:
    pair = Pair("0", tmp_path / "rainy.png", tmp_path / "clean.png")
    for path in (pair.rainy, pair.clean):
        Image.fromarray(PHOTOS.photos[0]).save(path)
    with pytest.raises(SourceError) as told:
        run(tmp_path / "run", pair.rainy.unlink, PairSource([pair]), workers)
    step = saved_step(tmp_path / "run")
    assert step >= 2  # and those that were prepared ahead
    assert str(told.value) == (
        "None of the training pictures can be read. Are they still there? "
        f"Step {step} is saved, and the same command goes on from there."
    )


def kill_one() -> None:
    os.kill(workers_here()[0].pid or 0, signal.SIGKILL)


def test_where_a_process_is_killed_the_others_are_ended(tmp_path: Path) -> None:
    # Whether it was waiting or handed over a batch, which may have been all there by then.
    with pytest.raises(TrainingError, match=r"^A process that .* was killed at step [23],") as told:
        run(tmp_path, kill_one)
    assert told.value.remedy == "The same command goes on from step 0; fewer --workers need less memory."


def test_a_process_that_is_killed_while_it_hands_over_a_batch(tmp_path: Path) -> None:
    """The line to it breaks first, and PyTorch's signal handler raises a moment later."""

    def happens() -> None:
        threading.Timer(0.2, kill_one).start()
        raise ConnectionResetError

    with pytest.raises(TrainingError, match=r"^A process that .* was killed at step 2,"):
        run(tmp_path, happens)


def test_a_process_that_is_killed_amid_a_validation(tmp_path: Path) -> None:
    """The validation fails, for which no training ends; the next batch does not come."""

    def validate(network: SDPSFNet) -> list[Group]:
        kill_one()
        time.sleep(10)
        return []

    with pytest.raises(TrainingError, match=r"^A process that .* was killed at step \d,"):
        run(tmp_path, lambda: None, validate=validate, every=0)
