"""Drives the builder of TensorRT or TensorRT-RTX: parse, profile, build; watched and interruptible."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sdps.core.errors import EngineError, UsageError
from sdps.core.manifest import INPUT
from sdps.core.spec import ShapeRange, Size
from sdps.export.build_watch import join, make_logger, make_monitor
from sdps.export.engine_options import HARDWARE_LEVELS, NAMES, EngineOptions, rtx_targets
from sdps.export.layers import Layer, network_layers

Progress = Callable[[str, int, int], None]
"""progress(what, steps done, steps in all), called in the caller's thread a few times a second."""

POLL_SECONDS = 0.1
IS_IT_OURS = "Is it the graph that sdps-export wrote?"


@dataclass(frozen=True)
class Built:
    """What a build gave.

    Attributes:
        plan: The engine.
        warnings: The builder's, without repetitions.
        layers: The network as the builder was given it.
        timing_cache: To be kept for the next build; empty if none was asked for.
        notes: What else a user should know, one line each.
    """

    plan: bytes
    warnings: list[str]
    layers: list[Layer]
    timing_cache: bytes
    notes: list[str]


def build_plan(
    trt: Any,
    graph: bytes,
    shapes: Sequence[ShapeRange],
    options: EngineOptions,
    timing_cache: bytes | None = None,
    progress: Progress | None = None,
    write_log: Callable[[str], None] = lambda text: None,
) -> Built:
    """Builds a strongly typed network to a serialized engine.

    Args:
        trt: The module, `tensorrt` or `tensorrt_rtx`.
        graph: An ONNX file's bytes, its input uint8 [N,H,W,3].
        shapes: The optimisation profiles of a dynamic graph.
        options: Checked already (`EngineOptions.check`).
        timing_cache: An earlier build's, b'' to begin one, None for none.
        progress: As for `engine.build_engine`.
        write_log: Given the builder's messages at the end, whatever the end is.

    Raises:
        EngineError: parser or builder refuse.
        UsageError: there is no such DLA core.
        KeyboardInterrupt: or whatever else `progress` raised, once the builder has stopped.
    """
    name = NAMES[trt.__name__]
    logger = make_logger(trt)
    failed = True
    try:
        builder = trt.Builder(logger)
        if builder is None:
            raise EngineError(
                f"{name} cannot start here: {logger.summary()}", "Is there a GPU with its driver?"
            )
        # The flag is needed on 10.x; in 11 and in RTX every network is strongly typed anyway.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(graph):
            raise EngineError(f"{name} cannot read the graph: {_parser_errors(parser) or logger.summary()}")
        config = builder.create_builder_config()
        _configure(trt, builder, config, options)
        if -1 in tuple(network.get_input(0).shape):
            for part in shapes:
                profile = builder.create_optimization_profile()
                profile.set_shape(INPUT, *(_dims(size) for size in (part.min, part.opt, part.max)))
                config.add_optimization_profile(profile)
        notes = [] if timing_cache is None else _use_timing_cache(config, timing_cache)
        monitor = make_monitor(trt)
        config.progress_monitor = monitor
        # Asked before the build, which may take the network apart.
        layers = network_layers(trt, network, graph)
        plan = _run(lambda: builder.build_serialized_network(network, config), monitor, progress)
        if plan is None:
            raise EngineError(f"{name} cannot build the graph: {logger.summary()}", _remedy(logger.errors))
        failed = False
        kept = b"" if timing_cache is None else _timing_cache_of(config)
        return Built(bytes(plan), logger.warnings, layers, kept, notes)
    finally:
        write_log(logger.text(failed))


def _configure(trt: Any, builder: Any, config: Any, options: EngineOptions) -> None:
    # What the inspector tells of each layer; costs no speed.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimisation_level is not None:
        config.builder_optimization_level = options.optimisation_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        level = HARDWARE_LEVELS[options.hardware_compatible]
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.strip_weights:
        # REFIT_IDENTICAL would be faster still, but fits the very same weights only.
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.dla_core is not None:
        if options.dla_core >= builder.num_DLA_cores:
            raise UsageError(
                f"There is no DLA core {options.dla_core}: this machine has {builder.num_DLA_cores}.",
                "DLA is on Jetson Xavier and Orin; leave --dla out elsewhere.",
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla_core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if options.targets:
        known = rtx_targets(trt)
        config.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
            config.set_compute_capability(known[target], index)


def _use_timing_cache(config: Any, data: bytes) -> list[str]:
    """Gives the builder an earlier build's measurements; one that does not fit is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TensorRT-RTX says so of all of these
        if config.set_timing_cache(config.create_timing_cache(data), ignore_mismatch=False):
            return []
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return ["The timing cache is of another TensorRT or GPU and was thrown away."]


def _timing_cache_of(config: Any) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return bytes(config.get_timing_cache().serialize())


def _dims(size: Size) -> tuple[int, int, int, int]:
    return (1, size.height, size.width, 3)


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return join([f"{e.node_operator() or 'graph'} {e.node_name()}: {e.desc()}".strip() for e in errors])


def _remedy(errors: list[str]) -> str:
    said = " ".join(errors)
    if "workspace limit" in said or "insufficient workspace" in said:
        return "Give it more with --workspace."
    if "Turing (SM75)" in said:
        return "TensorRT-RTX lacks this for 7.5; leave it out of --targets, or use --engine tensorrt there."
    return IS_IT_OURS


def _run(build: Callable[[], Any], monitor: Any, progress: Progress | None) -> Any:
    """Builds in a thread of its own, so that this one can hear Ctrl-C and show progress."""
    outcome: list[Any] = []
    # An event and not join(): an interrupted join() takes the thread for finished (CPython 3.10 to 3.12).
    finished = threading.Event()

    def work() -> None:
        try:
            outcome.append(build())
        except Exception as error:  # handed to the caller's thread
            outcome.append(error)
        finally:
            finished.set()

    threading.Thread(target=work, name="engine build").start()
    try:
        while not finished.wait(POLL_SECONDS):
            if progress:
                progress(*monitor.state)
    except BaseException:
        monitor.cancelled = True
        # Until the builder asks the monitor again, a second or two; it must not outlive the interpreter.
        while not finished.is_set():
            with suppress(KeyboardInterrupt):
                finished.wait()
        raise
    if isinstance(outcome[0], Exception):
        raise EngineError(f"The builder failed: {outcome[0]}") from outcome[0]
    return outcome[0]
