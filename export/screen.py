"""What `sdps-export` shows while it works, and of what it made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sdps.core.spec import Size

if TYPE_CHECKING:
    from onnx import ModelProto
    from rich.progress import Progress, TaskID

    from sdps.export.job import Exported
    from sdps.export.parity import Bounds


@contextmanager
def progress(quiet: bool) -> Iterator[tuple[Progress, TaskID]]:
    """A line on standard error that says what is going on and for how long."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        yield bar, bar.add_task("", total=None)


def show_parity(exported: Exported, bounds: Bounds) -> None:
    """The parity table, on standard output."""
    from rich.console import Console
    from rich.table import Table

    from sdps.export.precision import precision_report

    console = Console()
    what = f"{exported.manifest.precision} against PyTorch FP32 in 8-bit levels; asked for: {bounds}"
    console.print(what, highlight=False, soft_wrap=True)
    table = Table()
    for heading in ("picture", "max", "mean", "PSNR", "verdict"):
        table.add_column(heading, justify="left" if heading == "picture" else "right")
    for drift in exported.drifts:
        verdict = "[green]pass[/]" if drift.within(bounds) else "[red]FAIL[/]"
        table.add_row(drift.label, str(drift.max_levels), f"{drift.mean_levels:.4f}", drift.psnr, verdict)
    console.print(table)
    if exported.manifest.precision in ("fp16", "bf16"):
        peak = max(drift.peak or 0.0 for drift in exported.drifts)
        said = f"{precision_report(exported.model)} Largest value in a 16-bit tensor: {peak:.4g}."
        console.print(said, highlight=False, soft_wrap=True)


def show_rewrites(plain: ModelProto, size: Size | None) -> None:
    """`--explain`: the rewrites' table, on standard output."""
    from rich.console import Console

    from sdps.export.explain_view import show_steps
    from sdps.export.rewrite import explain

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file has room
    show_steps(explain(plain), str(size or "dynamic"), console)
