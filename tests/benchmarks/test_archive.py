"""A report's JSON can be read without sdps."""

from __future__ import annotations

import json

import pytest

from sdps.benchmarks.archive import SCHEMA, to_json
from sdps.benchmarks.measurement import Report


def test_json_is_strict_and_holds_raw_samples_and_summaries(report: Report) -> None:
    value = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert value["schema"] == SCHEMA
    assert value["environment"]["fingerprint"] == report.environment.fingerprint
    fast = value["measurements"][1]
    assert len(fast["samples_ns"]) == 120
    assert fast["summary"]["speed_ratio"]["median"] == pytest.approx(2, rel=1e-6)
    assert fast["summary"]["psnr_db"] is None  # equal pictures: infinite
    assert value["measurements"][2]["summary"]["worst_picture"] == "b|b.png"
