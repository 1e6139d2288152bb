"""`sdps-bench`: PyTorch against exported graphs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdps.core.command import Command, new_app
from sdps.core.console import failing_clearly, need, version_printer

if TYPE_CHECKING:
    from sdps.benchmarks.bench import Plan
    from sdps.benchmarks.measurement import Report

app = new_app()


@app.command(cls=Command)
@failing_clearly
def bench(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS|NAME",
            help="Checkpoint (.pth, .safetensors), or a name: sdps-nano, rain100h, ...",
        ),
    ] = "sdps-nano",
    graph: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Graph to measure, repeatable. Without any, FP32 and FP16 are exported from the checkpoint.",
        ),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="openvino, cpu (ONNX Runtime), cuda, tensorrt; repeatable. "
            "Default: those of the first three that are installed.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="Size of the timed picture. Default: the fixed graphs' size, else 256x256."
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rounds; each contender runs once in each. p99 needs 100. Default: up to 200."
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="Stop timing after this long, but not before 6 rounds. Default: 60, or none with --rounds.",
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="Threads for every contender; 0: all usable cores.")
    ] = 0,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Rainy pictures to compare on, whole. Default: a bundled one, cut to --size."
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Their ground truth, under the same names.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where report.json, report.md and the exported graphs go. Default: nothing is written.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the order of contenders within rounds.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdicts.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=version_printer("sdps-bench"), is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Measure PyTorch against exported graphs: cost, speed and fidelity.

    Contenders take turns, so that a busy machine slows all alike. Pictures are compared with PyTorch FP32's.
    """
    need("torch", "bench")  # everything is compared with it
    from sdps.benchmarks.bench import Plan
    from sdps.benchmarks.report import claim, show, write
    from sdps.benchmarks.tables import verdicts
    from sdps.core.spec import Size
    from sdps.model.zoo import find_weights

    plan = Plan(
        weights=str(find_weights(weights)),  # here, where a download can show its progress
        graphs=tuple(graph or ()),
        providers=tuple(provider or ()),
        size=Size.parse(size) if size else None,
        rounds=rounds,
        budget_s=budget,
        threads=threads,
        pictures=pictures,
        truth=truth,
        keep=out,
        seed=seed,
    )
    if out:
        claim(out)
    report = _run(plan, quiet)
    if quiet:
        typer.echo("\n".join(f"{name}: {sentence}" for name, sentence in verdicts(report)))
    else:
        from rich.console import Console

        show(report, Console())
    if out:
        for path in write(report, out):
            typer.echo(f"wrote {path}", err=True)


def _run(plan: Plan, quiet: bool) -> Report:
    """Runs the plan, showing on standard error how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from sdps.benchmarks.bench import run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    silent = quiet or not console.is_terminal
    # Drawn between rounds only: a bar that redraws itself would take a core from whom it times.
    with Progress(*columns, console=console, transient=True, auto_refresh=False, disable=silent) as bar:
        task = bar.add_task("starting", total=None)

        def progress(step: str, done: int, total: int | None) -> None:
            bar.update(task, description=step, completed=done, total=total, refresh=True)

        return run(plan, progress)


def main() -> None:
    """Console entry."""
    app()


if __name__ == "__main__":
    main()
