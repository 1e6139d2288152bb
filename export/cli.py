"""`sdps-export`: a checkpoint to a graph, and to an engine where its builder is installed."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdps.core.artifact import atomic_path
from sdps.core.console import failing_clearly, need, version_printer
from sdps.core.errors import UsageError
from sdps.core.spec import ShapeRange
from sdps.export.arguments import (
    DEFAULT_SIZE,
    ENGINES,
    PRECISIONS,
    check_calibration,
    check_exits,
    one_precision,
    sizes_of,
)
from sdps.export.screen import progress, show_parity, show_rewrites

if TYPE_CHECKING:
    from onnx import ModelProto

    from sdps.export.job import ExportJob
    from sdps.export.parity import Bounds

GRAPH_PANEL = "Rewrites and exits"
ENGINE_PANEL, ARCH_PANEL, INSPECT_PANEL = "Engine", "Other networks", "Inspect"
INT8_PANEL = "INT8"

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
@failing_clearly
def export(
    weights: Annotated[
        str | None,
        typer.Argument(
            metavar="WEIGHTS|NAME",
            help="Checkpoint (.pth, .safetensors), or a name: sdps-nano, rain100h, ...",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the graph and the engine.")] = Path(),
    precision: Annotated[
        str | None,
        typer.Option(metavar="|".join(PRECISIONS), help="Number format inside the graph. (default: fp32)"),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Short for --precision fp16.")] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Short for --precision bf16: for GPUs; CPUs do not run it.")
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Short for --precision int8.")] = False,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help=f"The one size that the graph takes. (default: {DEFAULT_SIZE})"),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="A graph for any size (multiples of 4) and any batch instead.")
    ] = False,
    exit: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="K",
            help="Cut the network after stage K's image: 0 is the cheapest. (default: the whole network)",
            rich_help_panel=GRAPH_PANEL,
        ),
    ] = None,
    exits: Annotated[
        str | None,
        typer.Option(
            metavar="all",
            help="A folder with a graph for each exit, between which sdps-run can switch.",
            rich_help_panel=GRAPH_PANEL,
        ),
    ] = None,
    no_rewrite: Annotated[
        bool,
        typer.Option("--no-rewrite", help="The graph as traced, to compare.", rich_help_panel=GRAPH_PANEL),
    ] = False,
    tile_means: Annotated[
        bool,
        typer.Option(
            "--tile-means",
            help="Let sdps-run --context frame give tiles the means of the whole frame.",
            rich_help_panel=GRAPH_PANEL,
        ),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Show what each exact rewrite did to the graph.", rich_help_panel=GRAPH_PANEL
        ),
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
    cameras: Annotated[
        str | None,
        typer.Option(
            metavar="HxW,...",
            help="The sizes of several cameras: a graph of any size, and an engine with a profile for each.",
            rich_help_panel=ENGINE_PANEL,
        ),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="MIB",
            help="Most scratch memory that the engine may use.",
            rich_help_panel=ENGINE_PANEL,
        ),
    ] = None,
    opt_level: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=5,
            help="From 0, a fast build, to 5, a fast engine. (default: the builder's, 3)",
            rich_help_panel=ENGINE_PANEL,
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="CC,...|current",
            help="TensorRT-RTX: compute capabilities to build for, e.g. 8.6,8.9. (default: Ampere and later)",
            rich_help_panel=ENGINE_PANEL,
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="TensorRT: where measurements of earlier builds are kept. (default: ~/.cache/sdps)",
            rich_help_panel=ENGINE_PANEL,
        ),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="TensorRT: the engine runs on later versions too; slower.",
            rich_help_panel=ENGINE_PANEL,
        ),
    ] = False,
    hardware_compatible: Annotated[
        str,
        typer.Option(
            metavar="ampere+|same-cc",
            help="TensorRT: the engine runs on other GPUs too; slower.",
            rich_help_panel=ENGINE_PANEL,
        ),
    ] = "",
    dla: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="CORE",
            help="TensorRT on Jetson: run on this DLA core, and on the GPU what it cannot do.",
            rich_help_panel=ENGINE_PANEL,
        ),
    ] = None,
    strip_weights: Annotated[
        bool,
        typer.Option(
            "--strip-weights",
            help="An engine without weights, which --refit fills. Needs a GPU.",
            rich_help_panel=ENGINE_PANEL,
        ),
    ] = False,
    refit: Annotated[
        Path | None,
        typer.Option(
            metavar="ENGINE",
            help="Fill this stripped engine with the weights instead of building. Needs a GPU.",
            rich_help_panel=ENGINE_PANEL,
        ),
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="Build the engine even if a valid one is there.", rich_help_panel=ENGINE_PANEL
        ),
    ] = False,
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="spandrel|MODULE:CLASS",
            help="The checkpoint is of another network: one that spandrel knows, or a class of your own.",
            rich_help_panel=ARCH_PANEL,
        ),
    ] = None,
    arch_args: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Arguments of that class.", rich_help_panel=ARCH_PANEL),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="What it subtracts from RGB in [0, 1]. (default: 0)",
            rich_help_panel=ARCH_PANEL,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B", help="What it then divides by. (default: 1)", rich_help_panel=ARCH_PANEL
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="What its sides must be a multiple of. (default: asked or found by trying)",
            rich_help_panel=ARCH_PANEL,
        ),
    ] = None,
    pick: Annotated[
        int,
        typer.Option(
            help="Which of several outputs is the result; -1 is the last.", rich_help_panel=ARCH_PANEL
        ),
    ] = -1,
    inspect: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Show what a graph or an engine is made of, and export nothing.",
            rich_help_panel=INSPECT_PANEL,
        ),
    ] = None,
    required: Annotated[
        str | None,
        typer.Option(
            "--require",
            metavar="PRECISION[:SHARE]",
            help="With --inspect: fail unless convolutions have it, e.g. int8, or int8:0.9 of all MACs.",
            rich_help_panel=INSPECT_PANEL,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --inspect: as JSON.", rich_help_panel=INSPECT_PANEL)
    ] = False,
    calib: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|VIDEO|photos",
            help="Rainy pictures to calibrate on (pairs in input/ and target/), a video, a recording, "
            "or 'photos': rain rendered on photographs.",
            rich_help_panel=INT8_PANEL,
        ),
    ] = None,
    max_drift: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Most PSNR to lose against the ground truth. (default: 0.1)",
            rich_help_panel=INT8_PANEL,
        ),
    ] = None,
    max_tile_drift: Annotated[
        float | None,
        typer.Option(
            metavar="DB", help="The same in any single tile. (default: 0.5)", rich_help_panel=INT8_PANEL
        ),
    ] = None,
    max_mean_shift: Annotated[
        float | None,
        typer.Option(
            metavar="LEVELS",
            help="Most change of a colour channel's mean. (default: 0.25)",
            rich_help_panel=INT8_PANEL,
        ),
    ] = None,
    calib_crops: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Crops to calibrate on. (default: 128, or what there is)",
            rich_help_panel=INT8_PANEL,
        ),
    ] = None,
    calib_size: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS", help="Their side, a multiple of 4. (default: 256)", rich_help_panel=INT8_PANEL
        ),
    ] = None,
    calibrator: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="minmax, percentile, entropy, mse, worst-mse (default), or the best for each tensor.",
            rich_help_panel=INT8_PANEL,
        ),
    ] = None,
    int8_rest: Annotated[
        str | None,
        typer.Option(
            metavar="fp16|fp32",
            help="What is not INT8: fp16 for GPUs, fp32 for CPUs. (default: fp16)",
            rich_help_panel=INT8_PANEL,
        ),
    ] = None,
    allow_overlap: Annotated[
        bool,
        typer.Option(
            "--allow-overlap",
            help="Calibrate on pictures of the evaluation set too.",
            rich_help_panel=INT8_PANEL,
        ),
    ] = False,
    name: Annotated[str | None, typer.Option(help="The model's name. (default: the checkpoint's)")] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Photograph to compare with PyTorch on. (default: a bundled one)"),
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="DB",
            help="Least PSNR against PyTorch. (default: 60 for fp32, 45 for fp16, 35 for bf16, 35 for int8)",
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
    if inspect is not None:
        _inspect(inspect, required, as_json)
        return
    if weights is None:
        raise UsageError("There is nothing to export.", "Give a checkpoint or a bundled name: sdps-nano.")
    if required or as_json:
        raise UsageError("--require and --json go with --inspect.")
    chosen = one_precision(precision, fp16=fp16, bf16=bf16, int8=int8)
    calibration = {
        "calib": calib,
        "loss_db": max_drift,
        "tile_db": max_tile_drift,
        "shift": max_mean_shift,
        "crops": calib_crops,
        "crop_side": calib_size,
        "calibrator": calibrator,
        "rest": int8_rest,
        "allow_overlap": allow_overlap or None,
    }
    check_calibration(chosen, calibration)
    fixed, shapes = sizes_of(size, dynamic, engine_sizes, cameras)
    if engine not in ENGINES:
        raise UsageError(f"There is no engine {engine!r}.", f"Choose one of {', '.join(ENGINES)}.")
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(f"{name!r} is no name for files.", "Use letters, digits, '.', '_' and '-'.")
    for module in ("torch", "onnx", "onnxscript", "onnxruntime", "cv2"):
        need(module, "export")

    from sdps.core.gpu import first_gpu
    from sdps.core.samples import PICTURE, sample
    from sdps.export.arch import ArchChoice
    from sdps.export.engine import DEFAULT_RANGE, EngineOptions, load_flavour, pick_flavour
    from sdps.export.engine_step import EnginePlan, make_engine
    from sdps.export.int8_job import parse_int8
    from sdps.export.job import ExportJob, run_job
    from sdps.export.lock import locked
    from sdps.export.parity import Bounds, require
    from sdps.export.refit import check_refittable
    from sdps.model.zoo import find_weights

    path = find_weights(weights)
    flavour, why_none = pick_flavour(engine)
    options = EngineOptions(
        workspace_mib=workspace,
        optimisation_level=opt_level,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        dla_core=dla,
        strip_weights=strip_weights,
        targets=tuple(part.strip() for part in targets.split(",")) if targets else (),
    )
    if refit:
        check_refittable(refit)
    if flavour:  # now and not after a minute of exporting
        options.check(load_flavour(flavour), first_gpu() is not None)
    choice = ArchChoice.parse(arch, arch_args, mean, std, stride, pick) if arch else None
    if choice is None and (arch_args or mean or std or stride or pick != -1):
        raise UsageError("--arch-args, --mean, --std, --stride and --pick go with --arch.")
    int8_job = parse_int8(calibration, min_psnr) if chosen == "int8" else None
    job = ExportJob(
        path,
        name or path.stem,
        chosen,
        fixed,
        picture or sample(PICTURE),
        arch=choice,
        rewrite=not no_rewrite,
        exit=-1 if exit is None else exit,
        int8=int8_job,
        tile_means=tile_means,
    )
    bounds = Bounds.of(chosen, min_psnr)
    if exits is not None:
        check_exits(exits, exit, chosen, engine)
        _export_family(job, out, bounds, quiet)
        return
    seen: list[ModelProto] = []
    graph = out / f"{job.stem}.onnx"
    # Around all of it, so that a folder that cannot be written to is found out before the work.
    with locked(graph, partial(_say, quiet)), atomic_path(graph) as temporary:
        with progress(quiet) as (bar, task):
            watch = seen.append if explain else None
            exported = run_job(job, lambda text: bar.update(task, description=text), watch)
        for plain in seen:
            show_rewrites(plain, job.size)
        if not quiet:
            show_parity(exported, bounds)
        require(exported.drifts, bounds)
        temporary.write_bytes(exported.model.SerializeToString())
    typer.echo(str(graph))
    if exported.int8:
        for written in exported.int8.write(graph.with_suffix(".int8")):
            typer.echo(str(written))
        _say(quiet, exported.int8.summary())
    if flavour is None:
        _say(quiet, why_none)
    else:
        plan = EnginePlan(
            flavour=flavour,
            shapes=shapes
            or [ShapeRange.fixed(fixed) if fixed else DEFAULT_RANGE.padded_to(exported.manifest.stride)],
            options=options,
            timing_cache=timing_cache,
            rebuild=rebuild,
            stripped=refit,
            picture=job.picture,
            bounds=bounds,
        )
        with progress(quiet) as (bar, task):
            make_engine(graph, plan, bar, task, partial(_say, quiet))
    _say(quiet, f"Run it: sdps-run --model {graph} --input rain.jpg --output restored.png")


def _export_family(job: ExportJob, out: Path, bounds: Bounds, quiet: bool) -> None:
    """`--exits all`: prints the path of the family's description."""
    from sdps.export.family_job import export_family

    with progress(quiet) as (bar, task):
        path = export_family(
            job,
            out,
            bounds,
            step=lambda text: bar.update(task, description=text),
            made=lambda exported: None if quiet else show_parity(exported, bounds),
        )
    typer.echo(str(path))
    _say(quiet, f"Run it: sdps-run --model {path} --exit auto --latency-target 40 --camera 0")


def _inspect(path: Path, require: str | None, as_json: bool) -> None:
    """`--inspect`: what the file is made of; with `--require` also whether that is enough."""
    need("onnx")
    from rich.console import Console

    from sdps.export.inspection import Requirement, inspect_file
    from sdps.export.inspection_view import show

    requirement = Requirement.parse(require) if require else None
    inspection = inspect_file(path)
    if as_json:
        typer.echo(inspection.to_json())
    else:
        show(inspection, Console())
    if requirement:
        requirement.check(inspection)


def _say(quiet: bool, text: str) -> None:
    if text and not quiet:
        typer.echo(text, err=True)


def main() -> None:
    """Console entry."""
    app()
