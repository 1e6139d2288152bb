"""Drives the builder of TensorRT or TensorRT-RTX: parse, profile, build; watched and interruptible."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sdps.core.errors import EngineError
from sdps.core.manifest import INPUT
from sdps.core.spec import ShapeRange, Size

Progress = Callable[[str, int, int], None]
"""progress(what, steps done, steps in all), called in the caller's thread a few times a second."""

POLL_SECONDS = 0.1
SHOWN = 5  # messages in one error; the first ones tell the cause

log = logging.getLogger(__name__)


def build_plan(
    trt: Any,
    graph: bytes,
    shapes: ShapeRange,
    workspace_mib: int | None = None,
    optimisation_level: int | None = None,
    progress: Progress | None = None,
) -> tuple[bytes, list[str]]:
    """Builds a strongly typed network to a serialized engine.

    Args:
        trt: The module, `tensorrt` or `tensorrt_rtx`.
        graph: An ONNX file's bytes, its input uint8 [N,H,W,3].
        shapes: The optimisation profile of a dynamic graph.
        workspace_mib, optimisation_level, progress: As for `engine.build_engine`.

    Returns:
        The engine's bytes, and the builder's warnings without repetitions.

    Raises:
        EngineError: parser or builder refuse.
        KeyboardInterrupt: or whatever else `progress` raised, once the builder has stopped.
    """
    name = "TensorRT-RTX" if trt.__name__ == "tensorrt_rtx" else "TensorRT"
    logger = _make_logger(trt)
    builder = trt.Builder(logger)
    if builder is None:
        raise EngineError(f"{name} cannot start here: {logger.summary()}", "Is there a GPU with its driver?")
    # The flag is needed on 10.x; in 11 and in RTX every network is strongly typed anyway.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        said = [
            f"{error.node_operator() or 'graph'} {error.node_name()}: {error.desc()}".strip()
            for error in errors
        ]
        raise EngineError(f"{name} cannot read the graph: {_join(said) or logger.summary()}")
    config = builder.create_builder_config()
    if workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    if optimisation_level is not None:
        config.builder_optimization_level = optimisation_level
    if -1 in tuple(network.get_input(0).shape):
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, *(_dims(size) for size in (shapes.min, shapes.opt, shapes.max)))
        config.add_optimization_profile(profile)
    monitor = _make_monitor(trt)
    config.progress_monitor = monitor
    plan = _run(lambda: builder.build_serialized_network(network, config), monitor, progress)
    if plan is None:
        raise EngineError(
            f"{name} cannot build the graph: {logger.summary()}", "Is it the graph that sdps-export wrote?"
        )
    return bytes(plan), logger.warnings


def _dims(size: Size) -> tuple[int, int, int, int]:
    return (1, size.height, size.width, 3)


def _join(messages: list[str]) -> str:
    more = f"; and {len(messages) - SHOWN} more" if len(messages) > SHOWN else ""
    return "; ".join(messages[:SHOWN]) + more


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


def _make_logger(trt: Any) -> Any:
    """A logger of the module's own class that keeps what matters."""

    class Messages(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            log.debug("%s: %s", severity, message)
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING and message not in self.warnings:
                self.warnings.append(message)

        def summary(self) -> str:
            return _join(self.errors) or "it does not say why."

    return Messages()


def _make_monitor(trt: Any) -> Any:
    """A progress monitor that keeps the outermost phase's state, and stops the build when told."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self.state = ("", 0, 0)
            self._outer: list[tuple[str, int]] = []

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self._outer.append((phase, steps))
                self.state = (phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            for name, steps in self._outer:
                if name == phase:
                    self.state = (phase, step + 1, steps)
            return not self.cancelled

        def phase_finish(self, phase: str) -> None:
            self._outer = [entry for entry in self._outer if entry[0] != phase]

    return Monitor()
