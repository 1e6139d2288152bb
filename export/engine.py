"""A graph to an engine: one builder for TensorRT and TensorRT-RTX, whose APIs are nearly one.

Networks are strongly typed: precision is what the graph says. TensorRT-RTX builds without a GPU
(its engines are finished on the machine that runs them); TensorRT proper builds on the very GPU
that will run the engine, and is untested here beyond the code that both share.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from sdps.core.artifact import atomic_path, write_bytes
from sdps.core.console import need
from sdps.core.errors import EngineError, MissingDependency, UsageError
from sdps.core.gpu import Gpu, first_gpu
from sdps.core.manifest import GraphManifest
from sdps.core.sidecar import NO_GPU, EngineSidecar, check_sidecar, sidecar_path, write_sidecar
from sdps.core.spec import ShapeRange, Size
from sdps.core.version import __version__
from sdps.export.build_watch import SHOWN, matters
from sdps.export.builder import Progress, build_plan
from sdps.export.engine_options import RTX, TENSORRT, EngineOptions
from sdps.export.layers import summarise
from sdps.export.lock import locked
from sdps.export.timing_cache import TimingCache

AS_BUILT = EngineOptions()

Say = Callable[[str], None]


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
        # Never from pip on a Jetson: it would hide JetPack's own (docs/nvidia.md).
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


@dataclass(frozen=True)
class Ensured:
    """An engine that is there, and how it came about.

    Attributes:
        sidecar: Of the engine.
        reused: It was there already and is what a build would give.
        reason: Why it was built, e.g. 'the graph has changed'; '' if there was none before.
    """

    sidecar: EngineSidecar
    reused: bool
    reason: str = ""


def ensure_engine(
    graph: bytes | Path,
    out_path: Path,
    flavour: str,
    shapes: ShapeRange | Sequence[ShapeRange],
    *,
    options: EngineOptions = AS_BUILT,
    timing_cache: Path | None = None,
    rebuild: bool = False,
    progress: Progress | None = None,
    say: Say = lambda text: None,
) -> Ensured:
    """Uses the engine at `out_path` if it is what a build would give here, and builds it otherwise.

    One process at a time: a second one waits and then finds the first one's engine. A damaged or
    foreign engine is a reason to build, never an error; it is not deserialised to find out.

    Args:
        graph, out_path, flavour, shapes, options, timing_cache, progress, say: As for `build_engine`.
        rebuild: Build in any case.

    Raises:
        EngineError, MissingDependency, UsageError: as `build_engine`.
    """
    data = graph if isinstance(graph, bytes) else Path(graph).read_bytes()
    version = load_flavour(flavour).__version__
    with locked(out_path, say):
        reason = "asked for with --rebuild" if rebuild else ""
        if not rebuild and (out_path.exists() or out_path.is_symlink()):
            try:
                sidecar = check_sidecar(out_path, gpu=first_gpu())
            except EngineError as error:
                reason = error.message
            else:
                reason = _difference(sidecar, data, flavour, version, _profiles(shapes), options)
                if not reason:
                    return Ensured(sidecar, reused=True)
        if reason:
            say(f"Building the engine: {reason.rstrip('.')}.")
        sidecar = build_engine(
            data,
            out_path,
            flavour,
            shapes,
            options=options,
            timing_cache=timing_cache,
            progress=progress,
            say=say,
        )
    return Ensured(sidecar, reused=False, reason=reason)


def build_engine(
    graph: bytes | Path,
    out_path: Path,
    flavour: str,
    shapes: ShapeRange | Sequence[ShapeRange],
    *,
    options: EngineOptions = AS_BUILT,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
    say: Say = lambda text: None,
) -> EngineSidecar:
    """Builds an engine, its sidecar and its log. Engine and sidecar never fit by halves.

    Args:
        graph: An sdps ONNX graph, or its path.
        out_path: Where the engine goes; the sidecar is `<out_path>.json`, the log `<out_path>.log`,
            which stays if the build fails.
        flavour: 'tensorrt' or 'tensorrt_rtx'.
        shapes: For a dynamic graph the profile's range (one picture at a time), or several for
            several profiles; for a fixed one its size.
        options: How to build.
        timing_cache: Folder to keep TensorRT's timing cache in; None for none.
        progress: Told how the build goes; whatever it raises, Ctrl-C too, stops the build.
        say: Told in one line what a user should know.

    Raises:
        EngineError: the parser or the builder refuses the graph, or the sizes do not fit it.
        MissingDependency: the flavour is not installed.
        UsageError: the flavour or this machine lacks one of the options.
    """
    trt = load_flavour(flavour)
    data = graph if isinstance(graph, bytes) else Path(graph).read_bytes()
    model = onnx.load_from_string(data)
    manifest = GraphManifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    profiles = _profiles(shapes)
    check_shapes(manifest, profiles)
    gpu = first_gpu()
    options.check(trt, gpu is not None)
    cache = _timing_cache(timing_cache, flavour, trt.__version__, gpu, say)
    measured, why_not = cache.load() if cache else (None, "")
    if why_not:
        say(why_not)
    started = time.monotonic()
    log_path = out_path.with_name(out_path.name + ".log")
    try:
        built = build_plan(
            trt,
            data,
            profiles,
            options,
            measured,
            progress,
            lambda text: write_bytes(log_path, text.encode()),
        )
    except KeyboardInterrupt:
        log_path.unlink(missing_ok=True)
        raise
    worth = [" ".join(warning.split()) for warning in built.warnings if matters(warning)]
    more = [f"{len(worth) - SHOWN} more warnings are in {log_path}."] if len(worth) > SHOWN else []
    for note in (*built.notes, *worth[:SHOWN], *more):
        say(note)
    if cache:
        cache.save(built.timing_cache)
    sidecar = EngineSidecar(
        graph_sha256=hashlib.sha256(data).hexdigest(),
        manifest=manifest.to_metadata(),
        flavour=flavour,
        flavour_version=trt.__version__,
        sdps_version=__version__,
        gpu=gpu.name if gpu else NO_GPU,
        compute_capability=gpu.compute_capability if gpu else "",
        cuda_driver=gpu.cuda_driver if gpu else "",
        precision=manifest.precision,
        min_size=_corner(min, [part.min for part in profiles]),
        opt_size=str(profiles[0].opt),
        max_size=_corner(max, [part.max for part in profiles]),
        engine_sha256=hashlib.sha256(built.plan).hexdigest(),
        engine_bytes=len(built.plan),
        seconds=round(time.monotonic() - started, 1),
        warnings=built.warnings,
        options=options.to_sidecar(),
        profiles=[[str(part.min), str(part.opt), str(part.max)] for part in profiles],
        structure_sha256=structure_sha256(model),
        stripped=options.strip_weights,
        network=summarise(built.layers),
    )
    write_engine(out_path, built.plan, sidecar)
    return sidecar


def write_engine(out_path: Path, plan: bytes, sidecar: EngineSidecar) -> None:
    """Writes an engine and its sidecar; a kill in between leaves none that vouches for the other's."""
    # The old sidecar goes first and the new one comes last: no engine ever has another's.
    with atomic_path(out_path) as temporary:
        temporary.write_bytes(plan)
        sidecar_path(out_path).unlink(missing_ok=True)
    write_sidecar(out_path, sidecar)


def structure_sha256(model: onnx.ModelProto) -> str:
    """Of a graph without its weights' values and its description: equal for all training runs of a net."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    for tensor in bare.graph.initializer:
        # Integers are shapes and axes, which belong to the structure.
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
            for values in ("raw_data", "float_data", "int32_data"):
                tensor.ClearField(values)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _profiles(shapes: ShapeRange | Sequence[ShapeRange]) -> list[ShapeRange]:
    return [shapes] if isinstance(shapes, ShapeRange) else list(shapes)


def _corner(choose: Callable[[Iterable[int]], int], sizes: Sequence[Size]) -> str:
    return str(Size(choose(size.height for size in sizes), choose(size.width for size in sizes)))


def _difference(
    sidecar: EngineSidecar,
    graph: bytes,
    flavour: str,
    version: str,
    profiles: list[ShapeRange],
    options: EngineOptions,
) -> str:
    """What a build would do otherwise than the one that `sidecar` tells of; '' if nothing."""
    if sidecar.flavour != flavour:
        return f"the one there is {sidecar.flavour}'s"
    if sidecar.flavour_version != version:
        return f"the one there was built by version {sidecar.flavour_version}, and {version} is installed"
    if sidecar.graph_sha256 != hashlib.sha256(graph).hexdigest():
        return "the graph has changed"
    if sidecar.profiles != [[str(part.min), str(part.opt), str(part.max)] for part in profiles]:
        return "the sizes have changed"
    asked = options.to_sidecar()
    changed = sorted(key for key in asked | sidecar.options if asked.get(key) != sidecar.options.get(key))
    return f"other options ({', '.join(changed)})" if changed else ""


def _timing_cache(
    folder: Path | None, flavour: str, version: str, gpu: Gpu | None, say: Say
) -> TimingCache | None:
    if folder is not None and flavour == RTX:
        say("TensorRT-RTX measures nothing while it builds, so it has no timing cache to keep.")
        return None
    return TimingCache(folder, version, gpu) if folder is not None and gpu is not None else None


def check_shapes(manifest: GraphManifest, profiles: Sequence[ShapeRange]) -> None:
    """Whether a graph takes the sizes that an engine of it is to take.

    Raises:
        EngineError: it has one size, and not theirs, or a stride that does not divide them.
    """
    size = manifest.fixed_size
    for shapes in profiles:
        if size and shapes != ShapeRange.fixed(size):
            raise EngineError(
                f"The graph takes {size} only, not {shapes.min} to {shapes.max}.", "Export it with --dynamic."
            )
        for wanted in (shapes.min, shapes.opt, shapes.max):
            fitting = wanted.padded_to(manifest.stride)
            if size is None and wanted != fitting:
                raise EngineError(
                    f"This dynamic graph takes multiples of {manifest.stride}, not {wanted}.",
                    f"Use {fitting}.",
                )
