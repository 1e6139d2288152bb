"""The report: what it shows, and that it is all there or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdps.calibration.budget import Point
from sdps.calibration.drift import Drift, DriftBudget
from sdps.calibration.report import FILES, Int8Report, pareto, report_folder
from sdps.core.errors import SdpsError

BUDGET = DriftBudget()


def point(share: float, loss: float, *kept: str) -> Point:
    shift = {"heavy": (0.01, 0.0, 0.0)}
    drift = Drift({"heavy": loss}, 0.1, shift, 50.0, 0.2, picture_shift=0.625, tile_psnr_db=38.25)
    return Point(frozenset(kept), share, drift, BUDGET.excess(drift))


def report(points: list[Point], chosen: Point) -> Int8Report:
    return Int8Report("tiny", BUDGET, points, chosen, [], {"a": "a.weight", "b": "b.weight"}, {}, {})


def test_the_chosen_point_is_shown_though_others_beat_it() -> None:
    better, chosen = point(0.7, 0.05, "a"), point(0.7, 0.06, "b")
    points = [point(1.0, 0.2), better, chosen]
    assert pareto(points) == [better, points[0]]
    made = report(points, chosen)
    assert [row["kept"] for row in made.to_json()["pareto"]] == [["a"], ["b"], []]
    (row,) = (line for line in made.to_markdown().splitlines() if "chosen |" in line)
    assert "0.060" in row


def test_the_worst_picture_and_the_worst_tile_are_told() -> None:
    made = report([only := point(1.0, 0.05)], only)
    assert made.to_json()["chosen"]["worst_picture_shift"] == 0.625
    assert made.to_json()["chosen"]["worst_tile_psnr_to_fp32_db"] == 38.25
    heads, _, row = (line.split("|") for line in made.to_markdown().splitlines() if line.startswith("|"))
    assert row[heads.index(" worst picture's ")].strip() == "0.625"
    assert row[heads.index(" worst tile's ")].strip() == "38.2"
    assert "0.62 in the worst picture" in made.summary()


def test_a_report_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "tiny.int8"
    with report_folder(folder) as made:
        for name in FILES:
            (made / name).write_text("old")
        assert not folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.int8"]
    assert {path.name for path in folder.iterdir()} == set(FILES)
    (folder / "mine.txt").touch()
    with pytest.raises(ValueError, match="refused"), report_folder(folder) as made:
        (made / "report.json").write_text("{}")
        raise ValueError("refused")
    assert (folder / "report.json").read_text() == "old"
    with report_folder(folder) as made:
        (made / "report.json").write_text(json.dumps({"newer": 1}))
    assert json.loads((folder / "report.json").read_text()) == {"newer": 1}
    assert {path.name for path in folder.iterdir()} == {*FILES, "mine.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.int8"]


@pytest.mark.parametrize("way", ["a file", "a folder inside"])
def test_what_is_in_the_way_is_found_out_first(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "tiny.int8"
    if way == "a file":
        folder.touch()
    else:
        (folder / "report.md").mkdir(parents=True)
    with pytest.raises(SdpsError, match="in the way"), report_folder(folder):
        pytest.fail("it was not found out")


def test_errors_of_the_work_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), report_folder(tmp_path / "tiny.int8"):
        (tmp_path / "picture.png").read_bytes()
    assert not list(tmp_path.iterdir())
