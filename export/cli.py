"""`sdps-export`: a checkpoint to a graph, and to an engine where its builder is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdps.core.artifact import atomic_path
from sdps.core.console import failing_clearly, need, version_printer
from sdps.core.errors import UsageError
from sdps.core.spec import ShapeRange, Size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from sdps.core.sidecar import EngineSidecar
    from sdps.export.job import Exported
    from sdps.export.parity import Bounds

PRECISIONS = ("fp32", "fp16", "int8")
ENGINES = ("auto", "rtx", "tensorrt", "none")
DEFAULT_SIZE = "256x256"

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
@failing_clearly
def export(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS|NAME", help="Checkpoint (.pth, .safetensors) or a bundled name, e.g. sdps-nano."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the graph and the engine.")] = Path(),
    precision: Annotated[
        str | None,
        typer.Option(metavar="|".join(PRECISIONS), help="Number format inside the graph. (default: fp32)"),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Short for --precision fp16.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Short for --precision int8.")] = False,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help=f"The one size that the graph takes. (default: {DEFAULT_SIZE})"),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="A graph for any size (multiples of 4) and any batch instead.")
    ] = False,
    engine: Annotated[
        str, typer.Option(metavar="|".join(ENGINES), help="NVIDIA builder to put the graph through.")
    ] = "auto",
    engine_sizes: Annotated[
        str | None,
        typer.Option(
            metavar="MIN,OPT,MAX",
            help="With --dynamic: the engine's sizes. (default: 64x64,720x1280,1088x1920)",
        ),
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(min=1, metavar="MIB", help="Most scratch memory that the engine may use.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name. (default: the checkpoint's)")] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Photograph to compare with PyTorch on. (default: a bundled one)"),
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            min=0.0, metavar="DB", help="Least PSNR against PyTorch. (default: 60 for fp32, 45 for fp16)"
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the paths that were written.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=version_printer("sdps-export"), is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Export a checkpoint to one ONNX graph, uint8 picture in, uint8 picture out.

    The graph is compared with PyTorch on a real picture; past the bound nothing is written.
    """
    chosen = _precision(precision, fp16, int8)
    fixed, shapes = _sizes(size, dynamic, engine_sizes)
    if engine not in ENGINES:
        raise UsageError(f"There is no engine {engine!r}.", f"Choose one of {', '.join(ENGINES)}.")
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(f"{name!r} is no name for files.", "Use letters, digits, '.', '_' and '-'.")
    for module in ("torch", "onnx", "onnxscript", "onnxruntime", "cv2"):
        need(module, "export")

    from sdps.core.samples import PICTURE, sample
    from sdps.export.engine import DEFAULT_RANGE, build_engine, pick_flavour
    from sdps.export.job import ExportJob, run_job
    from sdps.export.parity import Bounds, require
    from sdps.model.zoo import find_weights

    path = find_weights(weights)
    flavour, why_none = pick_flavour(engine)
    job = ExportJob(path, name or path.stem, chosen, fixed, picture or sample(PICTURE))
    bounds = Bounds.of(chosen, min_psnr)
    graph = out / f"{job.stem}.onnx"
    # Around all of it, so that a folder that cannot be written to is found out before the work.
    with atomic_path(graph) as temporary:
        with _progress(quiet) as (bar, task):
            exported = run_job(job, lambda text: bar.update(task, description=text))
        if not quiet:
            _show(exported, bounds)
        require(exported.drifts, bounds)
        temporary.write_bytes(exported.model.SerializeToString())
    typer.echo(str(graph))
    if flavour is None:
        _say(quiet, why_none)
    else:
        target = graph.with_suffix(".engine")
        with _progress(quiet) as (bar, task):
            bar.update(task, description=f"Building the engine ({flavour})")
            sidecar = build_engine(
                graph,
                target,
                flavour,
                shapes or (ShapeRange.fixed(fixed) if fixed else DEFAULT_RANGE),
                workspace_mib=workspace,
                progress=lambda _, done, total: bar.update(task, completed=done, total=total or None),
            )
        typer.echo(str(target))
        _say(quiet, _describe_engine(sidecar))
    _say(quiet, f"Run it: sdps-run --model {graph} --input rain.jpg --output restored.png")


def main() -> None:
    """Console entry."""
    app()


def _precision(precision: str | None, fp16: bool, int8: bool) -> str:
    asked = {
        p for p, wanted in ((precision, precision is not None), ("fp16", fp16), ("int8", int8)) if wanted
    }
    if len(asked) > 1:
        raise UsageError(
            f"{' and '.join(sorted(map(str, asked)))} do not go together.", "Ask for one precision."
        )
    chosen = asked.pop() if asked else "fp32"
    if chosen not in PRECISIONS:
        raise UsageError(f"There is no precision {chosen!r}.", f"Choose one of {', '.join(PRECISIONS)}.")
    if chosen == "int8":
        raise UsageError("INT8 with a drift budget is not in this version.", "Use --fp16.")
    return str(chosen)


def _sizes(
    size: str | None, dynamic: bool, engine_sizes: str | None
) -> tuple[Size | None, ShapeRange | None]:
    """The graph's size (None: dynamic) and the engine's range, where one was given."""
    if dynamic and size:
        raise UsageError("--size and --dynamic do not go together.", "A dynamic graph takes every size.")
    if engine_sizes and not dynamic:
        raise UsageError("--engine-sizes needs --dynamic.", "A fixed engine takes the graph's --size only.")
    shapes = None
    if engine_sizes:
        parts = [Size.parse(part) for part in engine_sizes.split(",")]
        if len(parts) != 3:
            raise UsageError(
                f"{engine_sizes!r} is not MIN,OPT,MAX.", "Write for example 64x64,720x1280,1088x1920."
            )
        shapes = ShapeRange(*parts)
    return (None if dynamic else Size.parse(size or DEFAULT_SIZE)), shapes


@contextmanager
def _progress(quiet: bool) -> Iterator[tuple[Progress, TaskID]]:
    """A line on standard error that says what is going on and for how long."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        yield bar, bar.add_task("", total=None)


def _show(exported: Exported, bounds: Bounds) -> None:
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
    if exported.manifest.precision == "fp16":
        console.print(str(precision_report(exported.model)), highlight=False, soft_wrap=True)


def _describe_engine(sidecar: EngineSidecar) -> str:
    sizes = sidecar.opt_size
    if sidecar.min_size != sidecar.max_size:
        sizes = f"{sidecar.min_size} to {sidecar.max_size}"
    return (
        f"{sidecar.flavour} {sidecar.flavour_version}, {sizes}, {sidecar.engine_bytes / 1e6:.1f} MB, "
        f"{sidecar.seconds:.0f} s, {sidecar.gpu}, {len(sidecar.warnings)} warnings (in the sidecar)"
    )


def _say(quiet: bool, text: str) -> None:
    if text and not quiet:
        typer.echo(text, err=True)
