"""The training loop: saves, validates, keeps to its time, and stops cleanly when it is told to."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from sdps.core.errors import MissingDependency, SourceError, TrainingError
from sdps.training.run_folder import RunFolder
from sdps.training.trainer import Trainer
from sdps.training.validation import Group, Validate, overall

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from torch.utils.tensorboard import SummaryWriter

CURVE_EVERY = 10
"""Steps between two points of TensorBoard's curves."""
WARM = 5
"""Steps before the pace is measured: the first ones compile and allocate."""
FIRST_FIT = 30
"""Steps after which the pace of a run with a budget is known well enough, or a tenth of the budget."""
FITS = 40
"""Times that the pace is measured again within a budget."""
PATIENCE = 100
"""Steps in a row that are not finite before a run counts as diverged; FP16 finds its scale in about 16."""
RESERVE = 0.02
"""Share of a budget that is left for the last validation and for saving."""


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        finished: Whether the schedule did.
        signal: What interrupted it, e.g. SIGTERM; 0 if nothing did.
        step, skipped: Steps taken, and those of them that were not finite and changed nothing.
        best: Mean PSNR over the groups of the best validation, dB; minus infinity if there was none.
        images_per_second: Patches a second, all processes together, validation not counted.
        here: Steps that were taken now, and not in an earlier leg.
    """

    finished: bool
    signal: int
    step: int
    skipped: int
    best: float
    images_per_second: float
    here: int


class Stop:
    """Set by SIGINT or SIGTERM; a second one of either ends the process at once."""

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def watching(self) -> Iterator[Stop]:
        """Handles the signals meanwhile."""
        before = {number: signal.signal(number, self._told) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)


def train(
    trainer: Trainer,
    folder: RunFolder,
    validate: Validate,
    every: float = 10.0,
    budget: float = math.inf,
    stop: Stop | None = None,
) -> Ending:
    """Trains until the schedule or the budget ends, or it is told to stop; goes on if `folder` has a run.

    Args:
        trainer: What trains.
        folder: Where it is saved.
        validate: Scores a network.
        every: Minutes between validations, each of which saves as well.
        budget: Minutes for the whole run, earlier legs included; the schedule is fitted to them.
        stop: Told from outside to stop.

    Raises:
        UsageError: another process trains there, or the run there is of other pictures or options.
        TrainingError: the device failed, or PATIENCE steps in a row were not finite.
        SourceError: no picture can be read any more; the steps until then are saved.
        SdpsError: `last.pt` is damaged, or cannot be written.
    """
    with folder.alone(trainer.fabric.is_global_zero):
        try:
            return _train(trainer, folder, validate, every, budget, stop or Stop())
        finally:
            trainer.close()


def _train(
    trainer: Trainer, folder: RunFolder, validate: Validate, every: float, budget: float, stop: Stop
) -> Ending:
    """`train`, in a folder that no other process writes to."""
    first = trainer.fabric.is_global_zero
    notes: dict[str, Any] = {"seconds": 0.0, "best": -math.inf, **folder.load(trainer)}
    pending = notes.pop("pending", False)
    notes.setdefault("validated", trainer.step)
    if first:
        folder.begin(trainer, pending)
    earlier, began = notes["seconds"], time.monotonic()
    marked, fitted = began, math.nan
    losses: list[float] = []
    busy, patches, pixels, since_step, marked_step, lost = 0.0, 0.0, 0.0, trainer.step, trainer.step, 0

    def spent() -> float:
        return float(earlier + time.monotonic() - began)

    def save() -> None:
        notes["seconds"] = spent()
        if first:
            folder.save(trainer, notes)

    def mark(screen: _Screen) -> list[Group]:
        """Saves, validates and logs; every process takes part in nothing but the waiting."""
        groups: list[Group] = []
        notes["validated"] = trainer.step
        if first:
            # Before anything that can fail; a run that is killed meanwhile validates when it goes on.
            notes["seconds"] = spent()
            folder.save(trainer, {**notes, "pending": True})
            groups, wrong = _scores(trainer, validate)
            if wrong:
                screen.say(f"step {trainer.step}: the validation failed, and training goes on: {wrong}")
            finite = [value for value in losses if math.isfinite(value)]
            entry = {
                "step": trainer.step,
                "minutes": round(spent() / 60, 1),
                "loss": sum(finite) / len(finite) if finite else None,
                "skipped": trainer.skipped,
                "images_per_second": round(patches / max(busy, 1e-9), 2),
                **{g.name: [round(v, 4) for v in (g.before, g.after, g.ssim, g.worst)] for g in groups},
                **({"failed": wrong} if wrong else {}),
            }
            value = overall(groups)
            # What follows a teacher is to come near it, not to restore better: the last is the best then.
            if value > notes["best"] or (trainer.teacher is not None and value > -math.inf):
                notes["best"] = value
                folder.save_weights(trainer, "best")
            folder.log(entry)
            notes["seconds"] = spent()
            folder.save(trainer, notes)
        losses.clear()
        trainer.fabric.barrier()
        return groups

    with stop.watching(), _screen(trainer, first) as screen, _curves(folder, trainer, first) as curves:
        if _any(trainer, pending):
            screen.validated(mark(screen))
        while trainer.position < trainer.recipe.steps and not _any(
            trainer, stop.signal != 0 or spent() > 60 * budget
        ):
            batch = trainer.recipe.phases[trainer.recipe.phase(trainer.position)][2]
            begin, area = time.monotonic(), trainer.pixels
            try:
                with _failing_clearly(trainer, marked_step):
                    losses.append(trainer.advance())
            except SourceError as error:  # a network disk that went away may come back
                if trainer.step == since_step:
                    raise
                save()
                kept = f"Step {trainer.step} is saved, and the same command goes on from there."
                raise SourceError(str(error), kept) from error
            lost = lost + 1 if math.isnan(losses[-1]) else 0
            if lost >= PATIENCE:
                raise _diverged(trainer.step, lost, marked_step)
            busy, patches, pixels = busy + time.monotonic() - begin, patches + batch, pixels + area
            taken = trainer.step - since_step
            if taken == WARM:
                busy, patches, pixels = 0.0, 0.0, 0.0
            screen.step(losses[-1], patches / max(busy, 1e-9))
            if curves is not None and trainer.step % CURVE_EVERY == 0:
                curves.add_scalar("train/loss", losses[-1], trainer.step)
                rate = trainer.recipe.learning_rate(trainer.position)
                curves.add_scalar("train/learning_rate", rate, trainer.step)
                curves.add_scalar("train/images_per_second", patches / max(busy, 1e-9), trainer.step)
            if math.isnan(fitted):
                due = taken >= FIRST_FIT or (taken > WARM and spent() > 6 * budget)
            else:
                due = spent() - fitted > 60 * budget / FITS
            if budget < math.inf and _any(trainer, due):
                fitted = spent()
                # By pixels: the steps measured may be of a phase with other patches than the next ones.
                pace = pixels / max(busy, 1e-9) / trainer.pixels
                _fit(trainer, 60 * budget * (1 - RESERVE) - fitted, pace)
            # What may have diverged does not take the place of what is saved.
            if _any(trainer, not lost and time.monotonic() - marked > 60 * every):
                groups = mark(screen)
                marked, marked_step = time.monotonic(), trainer.step
                screen.validated(groups)
                if curves is not None:
                    for group in groups:
                        curves.add_scalar(f"psnr/{group.name}", group.after, trainer.step)
                        curves.add_scalar(f"ssim/{group.name}", group.ssim, trainer.step)
        if _any(trainer, stop.signal != 0):  # whoever stops it does not want to wait for a validation
            save()
        elif trainer.step > notes["validated"]:  # it may have been stopped at its last step
            screen.validated(mark(screen))
    speed = patches / max(busy, 1e-9)
    finished = not stop.signal
    here = trainer.step - since_step
    return Ending(finished, stop.signal, trainer.step, trainer.skipped, notes["best"], speed, here)


def _scores(trainer: Trainer, validate: Validate) -> tuple[list[Group], str]:
    """What validation says, or nothing and in a line why it failed.

    Raises:
        MissingDependency: it could not work at any step.
    """
    try:
        return validate(trainer.averaged()), ""
    except MissingDependency:
        raise
    except Exception as error:  # pictures that are gone, full memory: the run is worth more than a score
        return [], " ".join((str(error) or type(error).__name__).split())


def _diverged(step: int, lost: int, saved: int) -> TrainingError:
    kept = f"what was saved at step {saved} stays" if saved else "nothing was saved"
    return TrainingError(
        f"The run diverged: after step {step - lost}, {lost} steps in a row were not finite; {kept}.",
        "Begin another one with a lower --rate.",
    )


@contextmanager
def _failing_clearly(trainer: Trainer, saved: int) -> Iterator[None]:
    """Says in a line what a lost device or full memory means for the run."""
    try:
        yield
    except RuntimeError as error:  # PyTorch has no narrower class for either on all its devices
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "memory" in text:
            raise TrainingError(
                f"Memory ran out at step {trainer.step}: {text}",
                "Use a smaller --batch or --patch, which begins another run.",
            ) from error
        if any(word in text for word in ("CUDA", "cuDNN", "NCCL", "cublas")):
            raise TrainingError(
                f"The device failed at step {trainer.step}: {text}",
                f"The same command goes on from step {saved}.",
            ) from error
        raise


def _fit(trainer: Trainer, seconds_left: float, steps_per_second: float) -> None:
    """Sets the pace by what the first process measured, so that all have the same."""
    left = max(1.0, seconds_left * steps_per_second)
    if trainer.fabric.world_size > 1:
        left = float(trainer.fabric.broadcast(left))
    trainer.fit(left)


def _any(trainer: Trainer, here: bool) -> bool:
    """Whether it is so in any process; all must agree, or they would wait for each other for ever."""
    if trainer.fabric.world_size == 1:
        return here
    import torch

    count: Any = trainer.fabric.all_reduce(torch.tensor(float(here)), reduce_op="sum")
    return bool(count > 0)


class _Screen:
    """Progress on standard error."""

    def __init__(self, progress: Progress, task: TaskID, trainer: Trainer) -> None:
        self.progress, self.task, self.trainer = progress, task, trainer

    def step(self, loss: float, speed: float) -> None:
        text = f"step {self.trainer.step}, loss {loss:.4f}, {speed:.1f} images/s"
        self.progress.update(self.task, completed=self.trainer.position, description=text)

    def say(self, text: str) -> None:
        self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def validated(self, groups: list[Group]) -> None:
        if groups:
            scores = ", ".join(f"{g.name} {g.before:.2f} -> {g.after:.2f} dB" for g in groups)
            self.progress.console.print(f"step {self.trainer.step}: {scores}", highlight=False)


@contextmanager
def _screen(trainer: Trainer, first: bool) -> Iterator[_Screen]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, quiet=not first)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=trainer.recipe.steps)
        yield _Screen(progress, task, trainer)


@contextmanager
def _curves(folder: RunFolder, trainer: Trainer, first: bool) -> Iterator[SummaryWriter | None]:
    """TensorBoard's curves, where it is installed; points that a killed run wrote too many are cut."""
    writer = None
    if first:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            pass
        else:
            writer = SummaryWriter(str(folder.tensorboard), purge_step=trainer.step)
    try:
        yield writer
    finally:
        if writer is not None:
            writer.close()
