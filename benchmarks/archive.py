"""Reports as JSON, and back.

A report comes back equal. Summaries (percentiles, ratios) stand in the JSON too, for readers without
sdps, and are computed anew on reading. An infinite PSNR (equal pictures) is null.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdps.benchmarks.environment import Environment
from sdps.benchmarks.measurement import Drift, Measurement, PictureDrift, Report, StageCost, Truth
from sdps.benchmarks.timing import Timing
from sdps.core.errors import ModelError

SCHEMA = 1


def to_json(report: Report) -> dict[str, Any]:
    """As plain JSON values, with the summaries beside the samples."""
    value: dict[str, Any] = {"schema": SCHEMA, **asdict(report)}
    value["environment"]["fingerprint"] = report.environment.fingerprint
    for row, measurement in zip(value["measurements"], report.measurements, strict=True):
        latency, ratio = measurement.latency, report.ratio(measurement)
        row["summary"] = {"latency": asdict(latency), "speed_ratio": asdict(ratio)}
        if drift := measurement.drift:
            worst = drift.worst.picture
            row["summary"] |= {"psnr_db": drift.psnr_db, "ssim": drift.ssim, "worst_picture": worst}
    finite: dict[str, Any] = _without_infinity(value)
    return finite


def from_json(value: Any, source: str = "the report") -> Report:
    """Reads a report back; `source` names it in errors.

    Raises:
        ModelError: not a report, a damaged one, or one of another schema.
    """
    if not isinstance(value, dict) or "schema" not in value:
        raise ModelError(f"{source} is no report of sdps-bench.", "Give a report.json that it wrote.")
    if value["schema"] != SCHEMA:
        raise ModelError(
            f"{source} has schema {value['schema']}, this sdps reads {SCHEMA}.", "Measure again."
        )
    try:
        environment = {key: item for key, item in value["environment"].items() if key != "fingerprint"}
        return Report(
            **{key: value[key] for key in ("model", "weights_sha256", "config", "size")},
            stages=tuple(StageCost(**stage) for stage in value["stages"]),
            timing=Timing(**value["timing"]),
            environment=Environment(**environment),
            measurements=tuple(_measurement(row) for row in value["measurements"]),
            input_truth=_truth(value["input_truth"]),
            notes=tuple(value["notes"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{source} is a damaged report ({error}).", "Measure again.") from None


def load_report(path: Path) -> Report:
    """Reads a report.json.

    Raises:
        ModelError: no such file, no JSON, or no report.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}).", "Give a report.json.") from None
    return from_json(value, str(path))


def _measurement(row: dict[str, Any]) -> Measurement:
    plain = {key: row[key] for key in ("contender", "graph", "provider", "precision", "macs")}
    return Measurement(
        **plain,
        samples_ns=tuple(row["samples_ns"]),
        drift=_drift(row["drift"]),
        truth=_truth(row["truth"]),
        # Reports from before these were told stay readable.
        arithmetic=row.get("arithmetic", ""),
        depth=row.get("depth", 1),
        ahead_ns=tuple(row.get("ahead_ns", ())),
    )


def _drift(value: dict[str, Any] | None) -> Drift | None:
    return Drift(tuple(_picture(row) for row in value["pictures"])) if value else None


def _picture(row: dict[str, Any]) -> PictureDrift:
    psnr, shift = _infinite(row["psnr_db"]), tuple(row["shift_levels"])
    return PictureDrift(**{**row, "psnr_db": psnr, "shift_levels": shift})


def _truth(value: dict[str, Any] | None) -> Truth | None:
    return Truth(_infinite(value["psnr_db"]), value["ssim"], value.get("equal", 0)) if value else None


def _infinite(psnr: float | None) -> float:
    return math.inf if psnr is None else psnr


def _without_infinity(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinity(item) for item in value]
    return None if value == math.inf else value
