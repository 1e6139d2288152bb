"""What a run shows while it trains: progress on the screen, and TensorBoard's curves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sdps.training.run_folder import RunFolder
from sdps.training.trainer import Trainer
from sdps.training.validation import Group

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from torch.utils.tensorboard import SummaryWriter


class Screen:
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
def screen(trainer: Trainer, first: bool) -> Iterator[Screen]:
    """Shows a run; silent where this process is not the `first` of it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, quiet=not first)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=trainer.recipe.steps)
        yield Screen(progress, task, trainer)


@contextmanager
def curves(folder: RunFolder, trainer: Trainer, first: bool) -> Iterator[SummaryWriter | None]:
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
