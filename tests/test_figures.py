"""Tables of the bundled models in README, cards and int8.md say what the files they were made from say."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cpu-2core"
README, INT8 = ROOT / "README.md", ROOT / "docs" / "int8.md"
MODELS = ("sdps-nano", "sdps-small")
OLDER = "of the weights before"
"""What a row says whose graph is not of the bundled weights."""


def card(model: str) -> Path:
    return ROOT / "docs" / f"{model}.md"


def table(document: Path, head: str) -> dict[str, list[str]]:
    """Rows of the table whose head begins so, by their first cell, without bold type."""
    lines = document.read_text(encoding="utf-8").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(head)) + 2
    rows = {}
    for line in lines[at:]:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip().replace("**", "") for cell in line.strip("|").split("|"))
        rows[first] = others
    return rows


def scores(name: str) -> dict[str, list[dict[str, str]]]:
    """Rows of `sdps-eval` on whole pictures, by the set's name."""
    sets: dict[str, list[dict[str, str]]] = {}
    with (RESULTS / f"eval-{name}.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["protocol"] == "frame":
                sets.setdefault(row["set"], []).append(row)
    return sets


def column(rows: list[dict[str, str]], key: str) -> list[float]:
    return [float(row[key] or "inf") for row in rows]


def restored(rows: list[dict[str, str]]) -> str:
    """Mean PSNR; a picture that came out exactly stays out of it."""
    return f"{mean(v for v in column(rows, 'psnr_rgb_derained') if math.isfinite(v)):.2f}"


def gains(rows: list[dict[str, str]], channels: str = "rgb") -> list[float]:
    before, after = (column(rows, f"psnr_{channels}_{when}") for when in ("rainy", "derained"))
    return [b - a for a, b in zip(before, after, strict=True)]


def similarity(rows: list[dict[str, str]], when: str) -> str:
    return f"{mean(column(rows, f'ssim_rgb_{when}')):.3f}"


def rainy(rows: list[dict[str, str]]) -> str:
    return f"{mean(column(rows, 'psnr_rgb_rainy')):.2f}"


@pytest.mark.parametrize("model", MODELS)
def test_the_cards_figures_are_those_of_sdps_eval(model: str) -> None:
    sets, stated = scores(model), table(card(model), "| rain | rainy, dB RGB, SSIM |")
    assert stated.keys() == sets.keys()
    for kind, rows in sets.items():
        after = f"{restored(rows)}, {similarity(rows, 'derained')}"
        if kind.startswith("dry"):
            assert stated[kind] == ["-", after, "-", "-", "-"]
            continue
        gained = gains(rows)
        changes = [f"{value:+.2f}" for value in (mean(gained), min(gained), mean(gains(rows, "y")))]
        assert stated[kind] == [f"{rainy(rows)}, {similarity(rows, 'rainy')}", after, *changes], kind


def test_the_readmes_figures_are_those_of_sdps_eval() -> None:
    stated = list(table(README, "| rain | rainy | derained |").items())
    sets = scores("sdps-nano")
    assert len(stated) == len(sets)
    for (name, cells), (kind, rows) in zip(stated, sets.items(), strict=True):
        assert name.startswith(re.split("[@+]", kind)[0])
        if kind.startswith("dry"):
            assert cells == ["-", restored(rows), "-", "-", similarity(rows, "derained")]
            continue
        structure = f"{similarity(rows, 'rainy')} to {similarity(rows, 'derained')}"
        change = [f"{value:+.2f}" for value in (mean(gains(rows)), min(gains(rows)))]
        assert cells == [rainy(rows), restored(rows), *change, structure], kind


@pytest.mark.parametrize("model", MODELS)
def test_the_cards_int8_rows_are_those_of_sdps_eval(model: str) -> None:
    lines = card(model).read_text(encoding="utf-8").splitlines()
    head = next(line for line in lines if line.startswith("| | heavy"))
    kinds = [cell.strip() for cell in head.strip("|").split("|")][1:]
    rows = table(card(model), head)
    whole, integer = scores(model), scores(f"{model}-int8")
    assert rows["INT8"] == [restored(integer[kind]) for kind in kinds]
    if fine_tuned(model)[1]:
        assert rows["FP32"] == [restored(whole[kind]) for kind in kinds]


def fine_tuned(model: str) -> tuple[dict[str, Any], bool]:
    """The row of the bundled INT8 graph on fresh crops, and whether it is of the bundled weights."""
    report = json.loads((RESULTS / f"int8-fresh-{model.removeprefix('sdps-')}.json").read_text("utf-8"))
    bundled = hashlib.sha256((ROOT / "model" / "weights" / f"{model}.safetensors").read_bytes()).hexdigest()
    row = next(row for row in report["rows"] if row["made"].startswith("fine-tuned"))
    return row, report["weights_sha256"] == bundled


@pytest.mark.parametrize("model", MODELS)
def test_what_int8_costs_is_what_was_measured(model: str) -> None:
    row, current = fine_tuned(model)
    losses = row["loss_db"]
    share, worst = f"{100 * row['int8_macs_share']:.1f} %", row["worst_tile_db"]
    shift = f"{max(abs(part) for kind in row['mean_shift'].values() for part in kind):.2f}"

    label, cells = next(
        (name, cells)
        for name, cells in table(INT8, "| | MACs in INT8 | heavy").items()
        if name.startswith(f"{model}, fine-tuned")
    )
    assert cells[0] == share and cells[-2:] == [f"{worst:.2f}", shift]
    # The file rounds to 0.0001 dB, and the table what was before.
    measured = pytest.approx([*losses.values(), mean(losses.values())], abs=0.0006)
    assert [float(cell) for cell in cells[1:-2]] == measured
    assert (OLDER in label) != current

    label, cells = next(
        (name, cells)
        for name, cells in table(README, "| | work in INT8 |").items()
        if name.startswith(f"`{model}`, fine-tuned")
    )
    in_short = [f"{mean(losses.values()):.2f} dB", f"{max(losses.values()):.2f} dB", f"{worst:.2f} dB"]
    assert cells[:3] == [share, *in_short[:2]]
    assert cells[3].split(" (")[0] == in_short[2] and cells[4] == shift
    assert (OLDER in label) != current
