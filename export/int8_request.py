"""What an INT8 export is asked for, and how it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdps.calibration.budget import Point
from sdps.calibration.drift import BOUND_OPTIONS, Drift, DriftBudget
from sdps.calibration.frames import CROP, CalibrationSet
from sdps.calibration.recipe import WAYS, Options
from sdps.core.artifact import atomic_path
from sdps.core.cache import cache_folder
from sdps.core.errors import ExportError, SdpsError, UsageError

REST = ("fp16", "fp32")
TRUTH_BOUNDS = ("loss_db", "tile_db")
"""Bounds that only a calibration set with ground truth can be held to."""


@dataclass(frozen=True)
class Int8Job:
    """What is asked for.

    Attributes:
        calib: The source of the calibration set (`calibration.frames.build_set`).
        budget: The drift that is allowed.
        crops: Number of calibration crops, None for the default.
        crop_side: Their side in pixels.
        allow_overlap: Take pictures of the evaluation set.
        held_out: A folder of pictures that none of the set's may be among.
        rest: What is not INT8 is 'fp16' (GPUs) or 'fp32' (CPUs, which have no FP16 convolutions).
        ways: How to calibrate; of several the one that drifts least, alike in whether they equalise.
        cache: Folder for statistics and sensitivities.
        truth_options: The options given that only a set with ground truth can answer.
    """

    calib: str
    cache: Path
    budget: DriftBudget = field(default_factory=DriftBudget)
    crops: int | None = None
    crop_side: int = CROP
    allow_overlap: bool = False
    held_out: Path | None = None
    rest: str = "fp16"
    ways: Sequence[Options] = WAYS
    truth_options: Sequence[str] = ()

    def check_cache(self) -> None:
        """Before the minutes of work whose results go there.

        Raises:
            SdpsError: the folder cannot be made or written to.
        """
        try:
            with atomic_path(self.cache / "probe") as temporary:
                temporary.touch()
            (self.cache / "probe").unlink(missing_ok=True)
        except (SdpsError, OSError) as error:
            cause = error.message if isinstance(error, SdpsError) else str(error)
            raise SdpsError(
                f"INT8 needs a cache that can be written, and {self.cache} cannot: {cause}",
                "Set SDPS_HOME to a folder that can.",
            ) from error

    def check_truth(self, chosen_set: CalibrationSet) -> None:
        """Whether what was asked for can be measured on a set.

        Raises:
            UsageError: a loss against the ground truth is bounded, and there is none.
        """
        if self.truth_options and all(crop.pair.clean is None for crop in chosen_set.verify):
            raise UsageError(
                f"{chosen_set.origin} has no ground truth, against which {' and '.join(self.truth_options)} "
                "would be measured.",
                "Give pairs (input/ and target/), or bound the PSNR against FP32 with --min-psnr.",
            )


def parse_int8(asked: Mapping[str, Any], min_psnr: float | None) -> Int8Job:
    """The job of the command's options; None stands for a default.

    Args:
        asked: `calib`; `loss_db`, `tile_db`, `shift` of the budget; `crops`, `crop_side`,
            `calibrator`, `rest`, `allow_overlap`, `held_out`.
        min_psnr: Floor in dB against FP32; None for the default, which is for sets without ground truth.

    Raises:
        UsageError: a value is out of range or there is no such rest or calibrator.
    """
    given = {key: value for key, value in asked.items() if value is not None}
    bounds: dict[str, Any] = {key: given.pop(key) for key in ("loss_db", "tile_db", "shift") if key in given}
    truth_options = tuple(BOUND_OPTIONS[key] for key in TRUTH_BOUNDS if key in bounds)
    if min_psnr is not None:
        bounds |= {"psnr_db": min_psnr, "floor": True}
    ways = (Options(given.pop("calibrator")),) if "calibrator" in given else WAYS
    if given.get("rest", REST[0]) not in REST:
        raise UsageError(f"There is no rest {given['rest']!r}.", f"Choose one of {', '.join(REST)}.")
    return Int8Job(
        cache=cache_folder() / "int8",
        budget=DriftBudget(**bounds),
        ways=ways,
        truth_options=truth_options,
        **given,
    )


def refusal(
    points: Sequence[Point], budget: DriftBudget, tuned: bool, delivered: Point | None = None
) -> ExportError:
    """That nothing keeps the budget, and what came nearest.

    Args:
        points: All that were measured.
        budget: What was asked for.
        tuned: Whether the network was fine-tuned for INT8 already.
        delivered: The choice as it would be written, measured with its rest as it would be.
    """
    told, other_rest = "No layer can be INT8", ""
    if nearest := min((point for point in points if point.share > 0), key=lambda p: p.used, default=None):
        told = "No choice of INT8 layers keeps the drift budget. The nearest"
        if nearest.used <= 1 and delivered:  # but with FP32 around INT8, which is no reason to refuse
            told = "With FP16 around INT8 the chosen layers miss the drift budget"
            nearest, other_rest = delivered, "try --int8-rest fp32, "
        told += f", {nearest.share:.1%} in INT8: {budget.explain(nearest.drift)}"
    return ExportError(
        f"{told}; no file was written.",
        f"{_widen(any(point.drift.loss_db for point in points), budget.floor)}, {other_rest}or fine-tune "
        + ("for longer." if tuned else "with sdps-train --qat."),
    )


def fp16_refusal(floor: Drift, budget: DriftBudget) -> ExportError:
    """That FP16 alone, with no layer in INT8, drifts by `floor`, which is too much."""
    return ExportError(
        f"FP16 alone misses the drift budget: {budget.explain(floor)}; no file was written.",
        f"{_widen(bool(floor.loss_db), budget.floor)}, or use --int8-rest fp32.",
    )


def _widen(truth: bool, floor: bool) -> str:
    """Which bounds hold for a set with ground truth, or without."""
    if truth:
        lower = "Lower --min-psnr, widen" if floor else "Widen"
        return f"{lower} --max-drift, --max-tile-drift or --max-mean-shift"
    return "Lower --min-psnr or widen --max-mean-shift"
