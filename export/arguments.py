"""What `sdps-export` is asked for, checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdps.core.errors import UsageError
from sdps.core.spec import ShapeRange, Size

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
ENGINES = ("auto", "rtx", "tensorrt", "none")
DEFAULT_SIZE = "256x256"
DEFAULT_RANGE = ShapeRange(Size(64, 64), Size(720, 1280), Size(1088, 1920))
"""Sizes that an engine of a dynamic graph takes if nothing is said: up to Full HD, tuned for 720p."""


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


def check_calibration(precision: str, asked: dict[str, Any]) -> None:
    """Before anything heavy is imported: INT8 and its options come together or not at all."""
    if precision == "int8" and asked["calib"] is None:
        raise UsageError(
            "INT8 needs pictures to calibrate on.", "Give --calib DIR, a video, or --calib photos."
        )
    if precision != "int8" and any(value is not None for value in asked.values()):
        raise UsageError(
            "--calib, the drift budget and their like go with --int8.", "Add --int8, or leave them out."
        )


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


def check_exits(exits: str, exit: int | None, precision: str, engine: str, others: dict[str, Any]) -> None:
    """`others` go with a single graph only, by name of the option; None, False and '' are not given."""
    if exits != "all":
        raise UsageError(f"--exits takes 'all', not {exits!r}.", "For a single one use --exit K.")
    if exit is not None:
        raise UsageError("--exit and --exits do not go together.", "Ask for one exit, or for all.")
    if precision == "int8":
        raise UsageError("--exits does not go with INT8.", "Export each with --exit K --int8.")
    if engine not in ("auto", "none"):
        raise UsageError("--exits writes graphs only.", "Export each with --exit K and --engine.")
    given = [name for name, value in others.items() if value not in (None, "") and value is not False]
    if given:
        raise UsageError(
            f"--exits writes a graph for each exit and nothing more; {given[0]} does not go with it.",
            f"Leave {' and '.join(given)} out, or export each with --exit K.",
        )
