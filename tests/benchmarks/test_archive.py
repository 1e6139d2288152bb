"""A report survives its JSON, and the JSON can be read without sdps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sdps.benchmarks.archive import SCHEMA, load_report, to_json
from sdps.benchmarks.measurement import Report
from sdps.benchmarks.report import write
from sdps.core.errors import ModelError


def test_a_report_comes_back_equal(report: Report, tmp_path: Path) -> None:
    path, _ = write(report, tmp_path)
    assert load_report(path) == report


def test_reports_of_before_stay_readable(report: Report, tmp_path: Path) -> None:
    value = to_json(report)
    for row in value["measurements"]:
        for key in ("arithmetic", "depth", "ahead_ns"):
            del row[key]
        del row["truth"]["equal"]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(value))
    measurements = tuple(
        replace(m, arithmetic="", depth=1, ahead_ns=(), truth=m.truth and replace(m.truth, equal=0))
        for m in report.measurements
    )
    assert load_report(path) == replace(report, measurements=measurements)


def test_json_is_strict_and_holds_raw_samples_and_summaries(report: Report) -> None:
    value = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert value["schema"] == SCHEMA
    assert value["environment"]["fingerprint"] == report.environment.fingerprint
    fast = value["measurements"][1]
    assert len(fast["samples_ns"]) == 120
    assert fast["summary"]["speed_ratio"]["median"] == pytest.approx(2, rel=1e-6)
    assert fast["summary"]["psnr_db"] is None  # equal pictures: infinite
    assert value["measurements"][2]["summary"]["worst_picture"] == "b|b.png"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "JSON"),
        ("[]", "no report of sdps-bench"),
        ('{"schema": 99}', "schema 99"),
        (f'{{"schema": {SCHEMA}}}', "damaged"),
    ],
)
def test_what_is_no_report_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=says):
        load_report(path)


def test_a_missing_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load_report(tmp_path / "none.json")
