"""A graph to an engine: one builder for TensorRT and TensorRT-RTX, whose APIs are nearly one.

Networks are strongly typed: precision is what the graph says. TensorRT-RTX builds without a GPU
(its engines are finished on the machine that runs them); TensorRT proper builds on the very GPU
that will run the engine, and is untested here beyond the code that both share.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx

from sdps.core.artifact import atomic_path
from sdps.core.console import need
from sdps.core.errors import EngineError, MissingDependency, UsageError
from sdps.core.manifest import GraphManifest
from sdps.core.sidecar import EngineSidecar, check_sidecar, read_sidecar, sidecar_path, write_sidecar
from sdps.core.spec import ShapeRange, Size
from sdps.core.version import __version__
from sdps.export.builder import Progress, build_plan
from sdps.export.gpu import first_gpu

__all__ = ["DEFAULT_RANGE", "EngineSidecar", "build_engine", "check_sidecar", "pick_flavour", "read_sidecar"]

TENSORRT, RTX = "tensorrt", "tensorrt_rtx"
DEFAULT_RANGE = ShapeRange(Size(64, 64), Size(720, 1280), Size(1088, 1920))
"""Sizes that an engine of a dynamic graph takes if nothing is said: up to Full HD, tuned for 720p."""


def load_flavour(flavour: str) -> Any:
    """The module of TensorRT or TensorRT-RTX; the one place that imports either.

    Raises:
        MissingDependency: it is not installed.
    """
    if flavour == RTX:
        return need(RTX)
    try:
        return need(TENSORRT)
    except MissingDependency as error:
        # Never from pip on a Jetson: it would hide JetPack's own (NVIDIA.md).
        raise MissingDependency(
            error.message,
            "TensorRT comes with JetPack or NVIDIA's packages: use a venv with --system-site-packages.",
        ) from None


def pick_flavour(choice: str) -> tuple[str | None, str]:
    """Turns `auto`, `rtx`, `tensorrt` or `none` into a flavour, and says why there is none.

    Raises:
        MissingDependency: the one asked for is not installed.
        UsageError: no such choice.
    """
    if choice == "none":
        return None, ""
    if choice in ("rtx", "tensorrt"):
        flavour = RTX if choice == "rtx" else TENSORRT
        load_flavour(flavour)
        return flavour, ""
    if choice != "auto":
        raise UsageError(f"There is no engine {choice!r}.", "Choose auto, rtx, tensorrt or none.")
    for flavour in (TENSORRT, RTX):
        # TensorRT proper builds for the GPU that it finds, so without one it cannot.
        if flavour == RTX or first_gpu() is not None:
            with suppress(MissingDependency):
                load_flavour(flavour)
                return flavour, ""
    return None, "No engine: neither TensorRT nor TensorRT-RTX is here (pip install 'sdps[rtx]')."


def build_engine(
    graph: bytes | Path,
    out_path: Path,
    flavour: str,
    shapes: ShapeRange,
    *,
    workspace_mib: int | None = None,
    optimisation_level: int | None = None,
    progress: Progress | None = None,
) -> EngineSidecar:
    """Builds an engine and its sidecar, both written at once or not at all.

    Args:
        graph: An sdps ONNX graph, or its path.
        out_path: Where the engine goes; the sidecar is `<out_path>.json`.
        flavour: 'tensorrt' or 'tensorrt_rtx'.
        shapes: For a dynamic graph the profile's range (one picture at a time); for a fixed one
            its size.
        workspace_mib: Most scratch memory the builder may plan with, in MiB.
        optimisation_level: 0 (fast build) to 5 (fast engine); the builder's default is 3.
        progress: Told how the build goes; whatever it raises, Ctrl-C too, stops the build.

    Raises:
        EngineError: the parser or the builder refuses the graph, or the sizes do not fit it.
        MissingDependency: the flavour is not installed.
    """
    trt = load_flavour(flavour)
    data = graph if isinstance(graph, bytes) else Path(graph).read_bytes()
    properties = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
    manifest = GraphManifest.from_metadata(properties)
    _check_shapes(manifest, shapes)
    started = time.monotonic()
    plan, warnings = build_plan(trt, data, shapes, workspace_mib, optimisation_level, progress)
    gpu = first_gpu()
    sidecar = EngineSidecar(
        graph_sha256=hashlib.sha256(data).hexdigest(),
        manifest=manifest.to_metadata(),
        flavour=flavour,
        flavour_version=trt.__version__,
        sdps_version=__version__,
        gpu=gpu.name if gpu else "no GPU on the building machine",
        compute_capability=gpu.compute_capability if gpu else "",
        cuda_driver=gpu.cuda_driver if gpu else "",
        precision=manifest.precision,
        min_size=str(shapes.min),
        opt_size=str(shapes.opt),
        max_size=str(shapes.max),
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        engine_bytes=len(plan),
        seconds=round(time.monotonic() - started, 1),
        warnings=warnings,
    )
    # The old sidecar goes first and the new one comes last: no engine ever has another's.
    with atomic_path(out_path) as temporary:
        temporary.write_bytes(plan)
        sidecar_path(out_path).unlink(missing_ok=True)
    write_sidecar(out_path, sidecar)
    return sidecar


def _check_shapes(manifest: GraphManifest, shapes: ShapeRange) -> None:
    size = manifest.fixed_size
    if size and shapes != ShapeRange.fixed(size):
        raise EngineError(
            f"The graph takes {size} only, not {shapes.min} to {shapes.max}.", "Export it with --dynamic."
        )
    if size is None and shapes.opt != shapes.opt.padded:
        raise EngineError(
            f"A dynamic graph takes multiples of 4, not {shapes.opt}.", f"Use {shapes.opt.padded}."
        )
