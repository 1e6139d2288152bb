"""What `sdps-export` is asked for, checked before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdps.core.errors import UsageError
from sdps.core.spec import ShapeRange, Size

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
ENGINES = ("auto", "rtx", "tensorrt", "none")
DEFAULT_SIZE = "256x256"
DEFAULT_RANGE = ShapeRange(Size(64, 64), Size(720, 1280), Size(1088, 1920))
"""Sizes that an engine of a dynamic graph takes if nothing is said: up to Full HD, tuned for 720p."""

CALIBRATION = {
    "calib": "calib",
    "max_drift": "loss_db",
    "max_tile_drift": "tile_db",
    "max_mean_shift": "shift",
    "calib_crops": "crops",
    "calib_size": "crop_side",
    "calibrator": "calibrator",
    "int8_rest": "rest",
    "allow_overlap": "allow_overlap",
    "held_out": "held_out",
}
"""The options of INT8, and what `int8_request.parse_int8` calls each."""
OF_ONE_GRAPH = (
    "explain",
    "cameras",
    "engine_sizes",
    "workspace",
    "opt_level",
    "targets",
    "timing_cache",
    "version_compatible",
    "hardware_compatible",
    "dla",
    "strip_weights",
    "refit",
    "rebuild",
)
"""Options that make no sense for a family of graphs."""


@dataclass(frozen=True)
class Sizes:
    """What is to fit into graph and engine.

    Attributes:
        graph: The graph's own size; None for any.
        cameras: The engine gets a profile for each.
        engine: The engine's one range, where it was given.
    """

    graph: Size | None
    cameras: tuple[Size, ...] = ()
    engine: ShapeRange | None = None

    def profiles(self, stride: int) -> list[ShapeRange]:
        """The engine's, for a network whose sides `stride` divides."""
        if self.cameras:
            # Each size exactly: the builder then chooses kernels for it, which over a range it cannot.
            return [ShapeRange.fixed(size) for size in sorted({c.padded_to(stride) for c in self.cameras})]
        if self.engine:
            return [self.engine]
        return [ShapeRange.fixed(self.graph) if self.graph else DEFAULT_RANGE.padded_to(stride)]


@dataclass(frozen=True)
class Request:
    """What several options of an export come to together.

    Attributes:
        weights: A file, or a name.
        precision: One of PRECISIONS.
        sizes: Of the graph and of the engine.
        calibration: What INT8 is calibrated on and held to, as `int8_request.parse_int8` takes it.
    """

    weights: str
    precision: str
    sizes: Sizes
    calibration: dict[str, Any]


def checked(asked: Mapping[str, Any]) -> Request:
    """Looks through the options, before anything heavy is imported.

    Args:
        asked: All of `cli.export`, by the names of its parameters.

    Raises:
        UsageError: one has no such value, or two do not go together.
    """
    if asked["weights"] is None:
        raise UsageError("There is nothing to export.", "Give a checkpoint or a bundled name: sdps-nano.")
    if asked["required"] is not None or asked["as_json"]:
        raise UsageError("--require and --json go with --inspect.")
    precision = one_precision(asked["precision"], fp16=asked["fp16"], bf16=asked["bf16"], int8=asked["int8"])
    calibration = _calibration(asked, precision)
    if asked["exits"] is not None:
        _check_exits(asked, precision)
    sizes = sizes_of(asked["size"], asked["dynamic"], asked["engine_sizes"], asked["cameras"])
    if asked["engine"] not in ENGINES:
        raise UsageError(f"There is no engine {asked['engine']!r}.", f"Choose one of {', '.join(ENGINES)}.")
    if asked["name"] is not None and not re.fullmatch(r"[\w.-]+", asked["name"]):
        raise UsageError(f"{asked['name']!r} is no name for files.", "Use letters, digits, '.', '_' and '-'.")
    return Request(asked["weights"], precision, sizes, calibration)


def one_precision(precision: str | None, **short: bool) -> str:
    """The one precision that --precision and its short forms ask for."""
    asked = {name for name, wanted in short.items() if wanted} | ({precision} if precision else set())
    if len(asked) > 1:
        raise UsageError(
            f"{' and '.join(sorted(map(str, asked)))} do not go together.", "Ask for one precision."
        )
    chosen = asked.pop() if asked else "fp32"
    if chosen not in PRECISIONS:
        raise UsageError(f"There is no precision {chosen!r}.", f"Choose one of {', '.join(PRECISIONS)}.")
    return str(chosen)


def sizes_of(size: str | None, dynamic: bool, engine_sizes: str | None, cameras: str | None) -> Sizes:
    """What --size, --dynamic, --engine-sizes and --cameras come to."""
    if cameras:
        if size or dynamic or engine_sizes:
            raise UsageError("--cameras stands for --size, --dynamic and --engine-sizes.", "Give it alone.")
        return Sizes(None, tuple(Size.parse(part) for part in cameras.split(",")))
    if dynamic and size:
        raise UsageError("--size and --dynamic do not go together.", "A dynamic graph takes every size.")
    if engine_sizes and not dynamic:
        raise UsageError("--engine-sizes needs --dynamic.", "A fixed engine takes the graph's --size only.")
    engine = None
    if engine_sizes:
        parts = [Size.parse(part) for part in engine_sizes.split(",")]
        if len(parts) != 3:
            raise UsageError(
                f"{engine_sizes!r} is not MIN,OPT,MAX.", "Write for example 64x64,720x1280,1088x1920."
            )
        engine = ShapeRange(*parts)
    return Sizes(None if dynamic else Size.parse(size or DEFAULT_SIZE), engine=engine)


def _calibration(asked: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """INT8 and its options come together or not at all."""
    given = {field: asked[option] for option, field in CALIBRATION.items()}
    given["allow_overlap"] = given["allow_overlap"] or None
    if precision == "int8" and given["calib"] is None:
        raise UsageError(
            "INT8 needs pictures to calibrate on.", "Give --calib DIR, a video, or --calib photos."
        )
    if precision != "int8" and any(value is not None for value in given.values()):
        raise UsageError(
            "--calib, the drift budget and their like go with --int8.", "Add --int8, or leave them out."
        )
    if precision == "int8" and (asked["no_rewrite"] or asked["explain"]):
        raise UsageError(
            f"{'--no-rewrite' if asked['no_rewrite'] else '--explain'} does not go with INT8, which is made "
            "of the rewritten graph.",
            "Leave it out; an FP32 export with it shows what the rewrites do.",
        )
    return given


def _check_exits(asked: Mapping[str, Any], precision: str) -> None:
    """What goes with a single graph only does not go with --exits."""
    if asked["exits"] != "all":
        raise UsageError(f"--exits takes 'all', not {asked['exits']!r}.", "For a single one use --exit K.")
    if asked["exit"] is not None:
        raise UsageError("--exit and --exits do not go together.", "Ask for one exit, or for all.")
    if precision == "int8":
        raise UsageError("--exits does not go with INT8.", "Export each with --exit K --int8.")
    if asked["engine"] not in ("auto", "none"):
        raise UsageError("--exits writes graphs only.", "Export each with --exit K and --engine.")
    given = [
        f"--{option.replace('_', '-')}"
        for option in OF_ONE_GRAPH
        if asked[option] not in (None, "") and asked[option] is not False
    ]
    if given:
        raise UsageError(
            f"--exits writes a graph for each exit and nothing more; {given[0]} does not go with it.",
            f"Leave {' and '.join(given)} out, or export each with --exit K.",
        )
