"""The engine's part of `sdps-export`: from a written graph to an engine beside it, with progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import typer
from rich.progress import Progress, TaskID

from sdps.core.cache import cache_folder
from sdps.core.errors import EngineError, ParityError
from sdps.core.gpu import first_gpu
from sdps.core.sidecar import EngineSidecar, sidecar_path, write_sidecar
from sdps.core.spec import ShapeRange
from sdps.export.device_check import device_drift, require_on_device, size_to_run
from sdps.export.engine import ensure_engine
from sdps.export.engine_options import EngineOptions
from sdps.export.parity import Bounds
from sdps.export.refit import refit_engine


@dataclass(frozen=True)
class EnginePlan:
    """What engine to make of a graph.

    Attributes:
        flavour: 'tensorrt' or 'tensorrt_rtx'.
        shapes: The optimisation profiles.
        options: How to build.
        timing_cache: Its folder; None for the user's cache folder.
        rebuild: Build even if a valid engine is there.
        stripped: Fill this engine with the graph's weights instead of building.
        picture, bounds: What the engine is run on afterwards where there is a GPU, and how far
            from the graph it may be; None leaves that out.
    """

    flavour: str
    shapes: Sequence[ShapeRange]
    options: EngineOptions
    timing_cache: Path | None = None
    rebuild: bool = False
    stripped: Path | None = None
    picture: Path | None = None
    bounds: Bounds | None = None


def make_engine(
    graph: Path, plan: EnginePlan, bar: Progress, task: TaskID, say: Callable[[str], None]
) -> None:
    """Makes `<graph>.engine`, prints its path, and says what it is."""
    target = graph.with_suffix(".engine")
    if plan.stripped:
        bar.update(task, description="Refitting the engine")
        sidecar = refit_engine(plan.stripped, graph.read_bytes(), target)
        made = "refitted"
    else:
        bar.update(task, description=f"Building the engine ({plan.flavour})")

        def progress(phase: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        # An RTX build keeps no timing cache; only who asks for one is told so.
        folder = plan.timing_cache or (cache_folder() if plan.flavour == "tensorrt" else None)
        ensured = ensure_engine(
            graph,
            target,
            plan.flavour,
            plan.shapes,
            options=plan.options,
            timing_cache=folder,
            rebuild=plan.rebuild,
            progress=progress,
            say=say,
        )
        sidecar, made = (
            ensured.sidecar,
            "re-used" if ensured.reused else f"built in {ensured.sidecar.seconds:.0f} s",
        )
    if first_gpu() is not None and not sidecar.drift and not sidecar.stripped:
        bar.update(task, description="Running the engine", total=None)
        sidecar = _run_once(graph, target, plan, sidecar, say)
    typer.echo(str(target))
    say(f"{_describe(sidecar)}, {made}")


def _run_once(
    graph: Path, target: Path, plan: EnginePlan, sidecar: EngineSidecar, say: Callable[[str], None]
) -> EngineSidecar:
    """Runs the engine and writes its drift into the sidecar.

    One that makes another picture loses its sidecar, so that nothing runs it. One that does not run
    may lack no more than a CUDA binding here: that is said.
    """
    if plan.picture is None or plan.bounds is None:
        return sidecar
    size = size_to_run(plan.shapes[0])
    try:
        drift = device_drift(target, onnx.load(graph), plan.picture, size)
        require_on_device(drift, plan.bounds)
    except EngineError as error:
        say(str(error))
        return sidecar
    except ParityError:
        sidecar_path(target).unlink(missing_ok=True)
        raise
    sidecar = replace(sidecar, drift=drift.to_manifest())
    write_sidecar(target, sidecar)
    return sidecar


def _describe(sidecar: EngineSidecar) -> str:
    parts = [low if low == high else f"{low} to {high}" for low, _, high in sidecar.profiles]
    ran = f", {sidecar.drift['psnr_db']} dB from the graph on this GPU" if sidecar.drift else ""
    warned = f", {len(sidecar.warnings)} warnings (in the log)" if sidecar.warnings else ""
    return (
        f"{sidecar.flavour} {sidecar.flavour_version}, {' and '.join(parts)}, "
        f"{sidecar.engine_bytes / 1e6:.1f} MB, {sidecar.gpu}{ran}{warned}"
    )
