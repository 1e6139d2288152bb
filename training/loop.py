"""The training loop: saves, validates, keeps to its time, and stops cleanly when it is told to."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from sdps.core.errors import MissingDependency, SourceError, TrainingError
from sdps.training.run_folder import RunFolder
from sdps.training.screen import curves, screen
from sdps.training.trainer import Trainer
from sdps.training.validation import Group, Validate, overall

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


def interruptions() -> list[int]:
    """The signals that ask to stop: Ctrl-C, SIGTERM, and SIGHUP where there is one (an SSH session that is
    gone), which nohup has ignored."""
    found: list[int] = [signal.SIGINT, signal.SIGTERM]
    gone = getattr(signal, "SIGHUP", None)
    if gone is not None and signal.getsignal(gone) != signal.SIG_IGN:
        found.append(gone)
    return found


class Stop:
    """Set by one of `interruptions`; a second one of the same ends the process at once."""

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def watching(self) -> Iterator[Stop]:
        """Handles the signals meanwhile."""
        before = {number: signal.signal(number, self._told) for number in interruptions()}
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
        TrainingError: the device failed, a process that prepares batches was killed, or PATIENCE
            steps in a row were not finite.
        SourceError: no picture can be read any more; the steps until then are saved.
        SdpsError: `last.pt` is damaged, or cannot be written.
    """
    with folder.alone(trainer.fabric.is_global_zero):
        leg = _Leg(trainer, folder, validate, 60 * every, 60 * budget, stop or Stop())
        try:
            return leg.run()
        except RuntimeError as error:  # PyTorch's signal handler raises it wherever the run is just then
            if "DataLoader worker" not in str(error):
                raise
            raise _worker_killed(trainer.step, leg.marked_step) from error
        finally:
            trainer.close()


@dataclass
class _Meter:
    """How fast steps are taken; those until it is WARM do not count."""

    steps: int = 0
    busy: float = 0.0
    patches: int = 0
    pixels: int = 0

    def count(self, seconds: float, patches: int, pixels: int) -> None:
        """One more step."""
        self.steps, self.busy = self.steps + 1, self.busy + seconds
        self.patches, self.pixels = self.patches + patches, self.pixels + pixels
        if self.steps == WARM:
            self.busy, self.patches, self.pixels = 0.0, 0, 0

    @property
    def images_per_second(self) -> float:
        return self.patches / max(self.busy, 1e-9)

    @property
    def pixels_per_second(self) -> float:
        return self.pixels / max(self.busy, 1e-9)


class _Leg:
    """A run from where its folder stands until it ends or is interrupted; no other process writes there.

    Args:
        every, budget: In seconds; the others as for `train`.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: RunFolder,
        validate: Validate,
        every: float,
        budget: float,
        stop: Stop,
    ) -> None:
        self.trainer, self.folder, self.validate = trainer, folder, validate
        self.every, self.budget, self.stop = every, budget, stop
        self.first = trainer.fabric.is_global_zero
        self.notes: dict[str, Any] = {"seconds": 0.0, "best": -math.inf, **folder.load(trainer)}
        self.pending = self.notes.pop("pending", False)  # a validation that was cut off
        self.notes.setdefault("validated", trainer.step)
        if self.first:
            folder.begin(trainer, self.pending)
        self.earlier, self.began = self.notes["seconds"], time.monotonic()
        self.marked, self.marked_step = self.began, trainer.step
        self.fitted = math.nan  # `spent()` when the pace was last fitted
        self.losses: list[float] = []  # since the last validation
        self.lost = 0  # steps in a row that were not finite
        self.meter = _Meter()

    def run(self) -> Ending:
        trainer, stop = self.trainer, self.stop
        with (
            stop.watching(),
            screen(trainer, self.first) as self.screen,
            curves(self.folder, trainer, self.first) as self.curves,
        ):
            if _any(trainer, self.pending):
                self.mark()
            while trainer.position < trainer.recipe.steps and not _any(
                trainer, stop.signal != 0 or self.spent() > self.budget
            ):
                self.take_step()
                self.refit_if_due()
                self.mark_if_due()
            if _any(trainer, stop.signal != 0):  # whoever stops it does not want to wait for a validation
                self.save()
            elif trainer.step > self.notes["validated"]:  # it may have been stopped at its last step
                self.mark()
        best, speed = self.notes["best"], self.meter.images_per_second
        return Ending(
            not stop.signal, stop.signal, trainer.step, trainer.skipped, best, speed, self.meter.steps
        )

    def spent(self) -> float:
        """Seconds of the whole run, earlier legs included."""
        return float(self.earlier + time.monotonic() - self.began)

    def save(self, pending: bool = False) -> None:
        """Writes `last`; `pending` where the validation of this step is still to come."""
        self.notes["seconds"] = self.spent()
        if self.first:
            self.folder.save(self.trainer, {**self.notes, "pending": True} if pending else self.notes)

    def take_step(self) -> None:
        """One step, measured and shown.

        Raises:
            SourceError, TrainingError: see `train`.
        """
        trainer = self.trainer
        batch, area = trainer.recipe.phases[trainer.recipe.phase(trainer.position)][2], trainer.pixels
        begin = time.monotonic()
        try:
            with _failing_clearly(trainer, self.marked_step):
                loss = trainer.advance()
        except SourceError as error:  # a network disk that went away may come back
            if not self.meter.steps:
                raise
            self.save()
            kept = f"Step {trainer.step} is saved, and the same command goes on from there."
            raise SourceError(str(error), kept) from error
        self.losses.append(loss)
        self.lost = self.lost + 1 if math.isnan(loss) else 0
        if self.lost >= PATIENCE:
            raise _diverged(trainer.step, self.lost, self.marked_step)
        self.meter.count(time.monotonic() - begin, batch, area)
        self.screen.step(loss, self.meter.images_per_second)
        if self.curves is not None and trainer.step % CURVE_EVERY == 0:
            rate = trainer.recipe.learning_rate(trainer.position)
            self.curves.add_scalar("train/loss", loss, trainer.step)
            self.curves.add_scalar("train/learning_rate", rate, trainer.step)
            self.curves.add_scalar("train/images_per_second", self.meter.images_per_second, trainer.step)

    def refit_if_due(self) -> None:
        """Fits the schedule to what is left of the budget: early, and FITS times again."""
        if math.isnan(self.fitted):
            taken = self.meter.steps
            due = taken >= FIRST_FIT or (taken > WARM and self.spent() > self.budget / 10)
        else:
            due = self.spent() - self.fitted > self.budget / FITS
        if self.budget < math.inf and _any(self.trainer, due):
            self.fitted = self.spent()
            # By pixels: the steps measured may be of a phase with other patches than the next ones.
            pace = self.meter.pixels_per_second / self.trainer.pixels
            _fit(self.trainer, self.budget * (1 - RESERVE) - self.fitted, pace)

    def mark_if_due(self) -> None:
        """Validates so often as was asked for, and draws what comes of it."""
        # What may have diverged does not take the place of what is saved.
        if not _any(self.trainer, not self.lost and time.monotonic() - self.marked > self.every):
            return
        groups = self.mark()
        self.marked, self.marked_step = time.monotonic(), self.trainer.step
        if self.curves is not None:
            for group in groups:
                self.curves.add_scalar(f"psnr/{group.name}", group.after, self.trainer.step)
                self.curves.add_scalar(f"ssim/{group.name}", group.ssim, self.trainer.step)

    def mark(self) -> list[Group]:
        """Saves, validates and logs; every process takes part in nothing but the waiting."""
        self.notes["validated"] = self.trainer.step
        groups = self._score() if self.first else []
        self.losses.clear()
        self.trainer.fabric.barrier()
        self.screen.validated(groups)
        return groups

    def _score(self) -> list[Group]:
        """The part of `mark` that is the first process's."""
        trainer = self.trainer
        # Before anything that can fail; a run that is killed meanwhile validates when it goes on.
        self.save(pending=True)
        groups, wrong = _scores(trainer, self.validate)
        if wrong:
            self.screen.say(f"step {trainer.step}: the validation failed, and training goes on: {wrong}")
        value = overall(groups)
        entry = self._entry(groups, wrong)
        # Fine-tuning for INT8 is to come near its FP32 network, not to restore better: the last is best then.
        if value > self.notes["best"] or (self.folder.original is not None and value > -math.inf):
            self.notes["best"] = value
            self.folder.save_weights(trainer, "best")
        self.folder.log(entry)
        self.save()
        return groups

    def _entry(self, groups: list[Group], wrong: str) -> dict[str, Any]:
        """A line of the log."""
        finite = [value for value in self.losses if math.isfinite(value)]
        return {
            "step": self.trainer.step,
            "minutes": round(self.spent() / 60, 1),
            "loss": sum(finite) / len(finite) if finite else None,
            "skipped": self.trainer.skipped,
            "images_per_second": round(self.meter.images_per_second, 2),
            **{g.name: [round(v, 4) for v in (g.before, g.after, g.ssim, g.worst)] for g in groups},
            **({"failed": wrong} if wrong else {}),
        }


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
    """Says in a line what a lost device, full memory or a process killed amid a batch means for the run."""
    try:
        yield
    except (ConnectionError, EOFError, FileNotFoundError) as error:
        if not trainer.workers:
            raise
        # Killed while it handed over a batch: PyTorch's signal handler has yet to say so, better here
        # than amid what is cleaned up.
        with suppress(RuntimeError):
            time.sleep(1)
        raise _worker_killed(trainer.step, saved) from error
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


def _worker_killed(step: int, saved: int) -> TrainingError:
    return TrainingError(
        f"A process that prepares batches was killed at step {step}, perhaps for want of memory.",
        f"The same command goes on from step {saved}; fewer --workers need less memory.",
    )


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
