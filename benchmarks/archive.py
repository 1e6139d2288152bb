"""Reports as JSON, with summaries (percentiles, ratios) beside the raw samples, for readers without sdps.

An infinite PSNR (equal pictures) is null.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from sdps.benchmarks.measurement import Report

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


def _without_infinity(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinity(item) for item in value]
    return None if value == math.inf else value
