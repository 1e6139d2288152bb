"""`sdps-export`: a checkpoint to a graph, and to an engine where its builder is installed."""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sdps.core.artifact import atomic_path
from sdps.core.command import Command, new_app
from sdps.core.console import failing_clearly, need
from sdps.core.errors import UsageError
from sdps.export import options as o
from sdps.export.arguments import checked
from sdps.export.screen import progress, show_parity, show_rewrites

if TYPE_CHECKING:
    from onnx import ModelProto

    from sdps.export.engine_step import EnginePlan
    from sdps.export.job import Exported, ExportJob
    from sdps.export.parity import Bounds

app = new_app()


@app.command(cls=Command)
@failing_clearly
def export(
    weights: o.Weights = None,
    out: o.Out = Path(),
    precision: o.Precision = None,
    fp16: o.Fp16 = False,
    bf16: o.Bf16 = False,
    int8: o.Int8 = False,
    size: o.Size = None,
    dynamic: o.Dynamic = False,
    exit: o.ExitStage = None,
    exits: o.Exits = None,
    no_rewrite: o.NoRewrite = False,
    tile_means: o.TileMeans = False,
    explain: o.Explain = False,
    engine: o.Engine = "auto",
    engine_sizes: o.EngineSizes = None,
    cameras: o.Cameras = None,
    workspace: o.Workspace = None,
    opt_level: o.OptLevel = None,
    targets: o.Targets = None,
    timing_cache: o.TimingCache = None,
    version_compatible: o.VersionCompatible = False,
    hardware_compatible: o.HardwareCompatible = "",
    dla: o.Dla = None,
    strip_weights: o.StripWeights = False,
    refit: o.Refit = None,
    rebuild: o.Rebuild = False,
    arch: o.Arch = None,
    arch_args: o.ArchArgs = None,
    mean: o.Mean = None,
    std: o.Std = None,
    stride: o.Stride = None,
    pick: o.Pick = -1,
    inspect: o.Inspect = None,
    required: o.Required = None,
    as_json: o.AsJson = False,
    calib: o.Calib = None,
    max_drift: o.MaxDrift = None,
    max_tile_drift: o.MaxTileDrift = None,
    max_mean_shift: o.MaxMeanShift = None,
    calib_crops: o.CalibCrops = None,
    calib_size: o.CalibSize = None,
    calibrator: o.Calibrator = None,
    int8_rest: o.Int8Rest = None,
    allow_overlap: o.AllowOverlap = False,
    held_out: o.HeldOut = None,
    name: o.Name = None,
    picture: o.Picture = None,
    min_psnr: o.MinPsnr = None,
    quiet: o.Quiet = False,
    version: o.Version = False,
) -> None:
    """Export a checkpoint to one ONNX graph, uint8 picture in, uint8 picture out.

    The graph is compared with PyTorch on a real picture; past the bound nothing is written.
    """
    asked = locals()  # every option by its name, for what looks at many of them together
    if inspect is not None:
        _inspect(inspect, required, as_json)
        return
    request = checked(asked)
    for module in ("torch", "onnx", "onnxscript", "onnxruntime"):
        need(module, "export")

    from sdps.core.gpu import first_gpu
    from sdps.core.samples import PICTURE, sample
    from sdps.export.arch import ArchChoice
    from sdps.export.engine import load_flavour, pick_flavour
    from sdps.export.engine_options import EngineOptions
    from sdps.export.engine_step import EnginePlan
    from sdps.export.int8_request import parse_int8
    from sdps.export.job import ExportJob
    from sdps.export.parity import Bounds
    from sdps.export.refit import check_refittable
    from sdps.model.zoo import find_weights, model_name

    path = find_weights(request.weights)
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
    job = ExportJob(
        path,
        name or model_name(request.weights),
        request.precision,
        request.sizes.graph,
        picture or sample(PICTURE),
        arch=choice,
        rewrite=not no_rewrite,
        exit=-1 if exit is None else exit,
        int8=parse_int8(request.calibration, min_psnr) if request.precision == "int8" else None,
        tile_means=tile_means,
        engine_range=request.sizes.engine if flavour else None,
    )
    bounds = Bounds.of(request.precision, min_psnr)
    if exits is not None:
        _export_family(job, out, bounds, quiet)
        return
    graph = out / f"{job.stem}.onnx"
    exported = _write_graph(job, graph, bounds, explain, quiet)
    if flavour is None:
        _say(quiet, why_none)
    else:
        shapes = request.sizes.profiles(exported.manifest.stride)
        plan = EnginePlan(flavour, shapes, options, timing_cache, rebuild, refit, job.picture, bounds)
        _build_engine(graph, plan, quiet)
    _say(quiet, f"Run it: sdps-run --model {shlex.quote(str(graph))} --input rain.jpg --output restored.png")


def _write_graph(job: ExportJob, graph: Path, bounds: Bounds, explained: bool, quiet: bool) -> Exported:
    """Exports into `graph`, an INT8 graph's report beside it, and prints the paths; all or nothing."""
    from sdps.export.job import run_job
    from sdps.export.lock import locked
    from sdps.export.parity import require

    plain: list[ModelProto] = []
    folder = graph.with_suffix(".int8")
    # Around all of it, so that a folder that cannot be written to is found out before the work.
    with ExitStack() as around:
        around.enter_context(locked(graph, partial(_say, quiet)))
        temporary = around.enter_context(atomic_path(graph))
        # Ends first: no graph comes without its report.
        made = around.enter_context(_report_folder(folder)) if job.int8 else None
        with progress(quiet) as (bar, task):
            watch = plain.append if explained else None
            exported = run_job(job, lambda text: bar.update(task, description=text), watch)
        for model in plain:
            show_rewrites(model, job.size)
        if not quiet:
            show_parity(exported, bounds)
        require(exported.drifts, bounds)
        temporary.write_bytes(exported.model.SerializeToString())
        reports = exported.int8.write(made) if exported.int8 and made else []
    for written in (graph, *(folder / report.name for report in reports)):
        typer.echo(str(written))
    if exported.int8:
        for line in (*exported.int8.notes, exported.int8.summary()):
            _say(quiet, line)
    return exported


def _build_engine(graph: Path, plan: EnginePlan, quiet: bool) -> None:
    from sdps.export.engine_step import make_engine

    with progress(quiet) as (bar, task):
        make_engine(graph, plan, bar, task, partial(_say, quiet))


def _report_folder(folder: Path) -> AbstractContextManager[Path]:
    """Where an INT8 graph's report is made, once all that it needs is known to be there."""
    from sdps.calibration.report import report_folder

    return report_folder(folder)


def _export_family(job: ExportJob, out: Path, bounds: Bounds, quiet: bool) -> None:
    """`--exits all`: prints the path of the family's description."""
    from sdps.export.family_job import export_family

    with progress(quiet) as (bar, task):
        path = export_family(
            job,
            out,
            bounds,
            say=partial(_say, quiet),
            step=lambda text: bar.update(task, description=text),
            made=lambda exported: None if quiet else show_parity(exported, bounds),
        )
    typer.echo(str(path))
    _say(
        quiet, f"Run it: sdps-run --model {shlex.quote(str(path))} --exit auto --latency-target 40 --camera 0"
    )


def _inspect(path: Path, require: str | None, as_json: bool) -> None:
    """`--inspect`: what the file is made of; with `--require` also whether that is enough."""
    need("onnx")
    from rich.console import Console

    from sdps.export.inspection import Requirement, inspect_file
    from sdps.export.inspection_view import show

    requirement = Requirement.parse(require) if require is not None else None
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


if __name__ == "__main__":
    main()
