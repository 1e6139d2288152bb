"""Drift figures by hand, sensitivities that resume, and a search that keeps its word."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from sdps.calibration.budget import Point, Search
from sdps.calibration.drift import Drift, DriftBudget, Pair, Verifier
from sdps.calibration.recipe import Calibrated
from sdps.calibration.report import Int8Report, pareto
from sdps.calibration.sensitivity import (
    Alone,
    Sensitivity,
    by_gain,
    measure_layers,
    ranking_pairs,
    read_lines,
)
from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.export.int8_request import refusal

WIDE = DriftBudget(psnr_db=10, shift=50)


def brightened(model: onnx.ModelProto, levels: float) -> onnx.ModelProto:
    """The graph with a constant added to its result, before rounding."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    node = next(n for n in changed.graph.node if n.op_type == "Round")
    extra = onnx.numpy_helper.from_array(np.array(levels, np.float32), "levels")
    changed.graph.initializer.append(extra)
    index = list(changed.graph.node).index(node)
    add = onnx.helper.make_node("Add", [node.input[0], "levels"], ["brighter"])
    node.input[0] = "brighter"
    changed.graph.node.insert(index, add)
    return changed


def test_drift_is_what_it_says(model: onnx.ModelProto, scenes: list[Image]) -> None:
    plain = Verifier(model, [Pair(scenes[0], None, "a")])
    truth = Verifier(model, [Pair(scenes[0], plain.results[0], "a"), Pair(scenes[1], scenes[1], "b")])
    same = truth.measure(model)
    assert same.worst_loss == 0
    assert (same.tile_db, same.worst_shift, same.noise) == (0, 0, 0)
    shifted = truth.measure(brightened(model, 3))
    # Values at 255 cannot rise.
    assert shifted.shift["a"][0] == pytest.approx(3, abs=0.3)
    assert shifted.noise == pytest.approx(9, abs=1)
    assert shifted.psnr_db == pytest.approx(10 * np.log10(255**2 / 9), abs=0.5)
    # Against what the graph itself made: exact before (capped at 45 dB in a tile), 38.6 dB after.
    assert shifted.tile_db == pytest.approx(45 - 38.6, abs=0.5)


def test_budget_used() -> None:
    budget = DriftBudget(loss_db=0.1, tile_db=0.5, shift=0.25, psnr_db=40)
    drift = Drift({"heavy": 0.05, "light": 0.08}, 0.2, {"heavy": (0.0, -0.3, 0.1)}, 44.0)
    assert budget.excess(drift) == pytest.approx(1.2)  # the shift
    assert "loss 0.080 of 0.1 dB" in budget.explain(drift)
    without = Drift({}, 0.0, {"a": (0.0, 0.0, 0.0)}, 34.0)
    assert budget.excess(without) == pytest.approx(1.995, abs=0.01)  # 6 dB are twice the error
    assert "34.0 dB" in budget.explain(without)
    # A floor that somebody asked for holds beside the ground truth, too.
    both = Drift({"heavy": 0.05}, 0.2, {"heavy": (0.0, 0.0, 0.0)}, 34.0)
    assert budget.excess(both) == pytest.approx(0.5)
    asked = replace(budget, floor=True)
    assert asked.excess(both) == pytest.approx(1.995, abs=0.01)
    assert "loss 0.050 of 0.1 dB" in asked.explain(both) and "34.0 dB to FP32 where 40" in asked.explain(both)
    missed = Point(frozenset(), 1.0, both, asked.excess(both))
    assert refusal([missed], asked, tuned=False).remedy.startswith("Lower --min-psnr, widen --max-drift")
    with pytest.raises(UsageError, match="positive"):
        DriftBudget(loss_db=0)


def test_sensitivities_resume_where_they_were_killed(
    calibrated: Calibrated, verifier: Verifier, tmp_path: Path
) -> None:
    file = tmp_path / "layers.jsonl"
    names = [layer.name for layer in calibrated.layers]
    drift = Drift({}, 0.0, {"scenes": (0.0, 0.0, 0.0)}, 27.0, noise=123.0)
    known = [Alone(name, 7, drift) for name in names[:-2]]
    lines = [json.dumps(asdict(entry)) for entry in known]
    torn = b'\n{"name":"\xff"}\n{"name": "' + names[-2].encode()  # a damaged one; killed amid another
    file.write_bytes("\n".join(lines).encode() + torn)
    seen: list[int] = []
    results = measure_layers(calibrated, verifier, WIDE, file, lambda _, done, __: seen.append(done))
    assert [r.name for r in results] == names
    assert [r.noise for r in results[:-2]] == [123.0] * len(known)
    assert all(0 < r.noise < 123 for r in results[-2:])
    assert seen[-1] == len(names)
    assert len(file.read_text().splitlines()) == len(names)
    assert measure_layers(calibrated, verifier, WIDE, file) == results


def test_kept_sensitivities_are_read_against_the_budget_of_the_run(
    calibrated: Calibrated, verifier: Verifier, tmp_path: Path
) -> None:
    file = tmp_path / "layers.jsonl"
    part = replace(calibrated, layers=calibrated.layers[-2:])
    wide = measure_layers(part, verifier, WIDE, file)
    kept = file.read_bytes()
    narrow = measure_layers(part, verifier, DriftBudget(psnr_db=30, shift=50), file)
    assert file.read_bytes() == kept  # nothing is measured again
    assert [r.noise for r in narrow] == [r.noise for r in wide]
    assert all(after.excess > before.excess for after, before in zip(narrow, wide, strict=True))


def test_of_a_fine_tuned_network_what_spoils_the_others_is_lifted_out_first(
    calibrated: Calibrated, verifier: Verifier, tmp_path: Path
) -> None:
    names = [layer.name for layer in calibrated.layers if layer.name in calibrated.quantised]
    trained, never = names[-8:], frozenset(names[:-8])
    spoilt = trained[3]
    ranges = {name: calibrated.quantised[name] for name in trained}
    ranges[spoilt] = replace(ranges[spoilt], scale=50 * ranges[spoilt].scale)
    tuned, file = replace(calibrated, quantised=ranges), tmp_path / "without.jsonl"
    orders = by_gain(tuned, verifier, WIDE, file)
    assert [order[0] for order in orders] == [spoilt, spoilt]
    assert all(sorted(order) == sorted(trained) for order in orders)
    kept = file.read_bytes()
    assert by_gain(tuned, verifier, WIDE, file) == orders and file.read_bytes() == kept

    whole = Search(tuned, verifier, WIDE, 10**9, never=never).all_int8()
    assert whole.kept == never
    budget = DriftBudget(psnr_db=whole.drift.psnr_db + 3, shift=50)
    search = Search(tuned, verifier, budget, 10**9, never=never)
    assert search.all_int8().used > 1
    # What one order has at its end another may have first.
    last = [*(name for name in trained if name != spoilt), spoilt]
    point = search.relieve([last, orders[0]])
    assert search.satisfied(point) and point.share > 0
    assert never | {spoilt} <= point.kept < never | set(trained)
    alone = Search(tuned, verifier, budget, 10**9, never=never).relieve([last])
    assert point.share >= alone.share


def test_layers_are_lifted_out_by_the_bound_that_is_missed_too(
    calibrated: Calibrated, verifier: Verifier, tmp_path: Path
) -> None:
    names = [layer.name for layer in calibrated.layers if layer.name in calibrated.quantised][-8:]
    tuned = replace(calibrated, quantised={name: calibrated.quantised[name] for name in names})
    file, budget = tmp_path / "without.jsonl", DriftBudget(psnr_db=10, shift=0.01)
    by_noise, by_budget = by_gain(tuned, verifier, budget, file)
    whole = verifier.measure(tuned.graph(names))
    least = 0.002 * sum(layer.macs for layer in tuned.layers if layer.name in names)
    without = {entry.name: entry for entry in read_lines(file)}

    def gained(name: str, cost: Callable[[Drift], float]) -> float:
        return (cost(whole) - cost(without[name].drift)) / max(least, without[name].macs)

    assert by_budget == sorted(names, key=lambda name: -gained(name, lambda d: d.worst_shift / 0.01))
    assert by_noise == sorted(names, key=lambda name: -gained(name, lambda d: d.noise))
    assert by_budget != by_noise


def test_where_nothing_leaves_a_margin_layers_are_put_back_all_the_same(
    calibrated: Calibrated, verifier: Verifier
) -> None:
    part = replace(calibrated, layers=calibrated.layers[-4:])
    names = [layer.name for layer in part.layers]
    floor = min(verifier.measure(part.graph([name])).psnr_db for name in names)
    budget = DriftBudget(psnr_db=floor - 0.7, shift=50)  # the costliest alone: 92 % of it
    found = search(part, verifier, budget)
    chosen = found.relieve([names])
    assert 0.8 < chosen.used <= 1 and found.warnings(chosen)
    assert chosen.share >= max(point.share for point in found.points if point.used <= 0.95)
    tried = {chosen.kept - {name} for name in chosen.kept}
    assert tried <= {point.kept for point in found.points}


def test_lines_that_hold_another_budgets_share_are_measured_anew(
    calibrated: Calibrated, verifier: Verifier, tmp_path: Path
) -> None:
    file = tmp_path / "layers.jsonl"
    part = replace(calibrated, layers=calibrated.layers[-1:])
    # As earlier versions kept them: the part of a budget that is not known any more.
    file.write_text(json.dumps(asdict(Sensitivity(part.layers[0].name, 7, 123.0, 4.0))) + "\n")
    (measured,) = measure_layers(part, verifier, WIDE, file)
    assert measured.noise < 123
    assert "drift" in json.loads(file.read_text())


def test_layers_of_a_large_network_are_ranked_on_smaller_crops() -> None:
    pairs = [Pair(np.full((256, 256, 3), i, np.uint8), None, "all") for i in range(32)]
    small = ranking_pairs(pairs, 90, 40_000)  # sdps-nano
    assert [p.rainy.shape for p in small] == [(256, 256, 3)] * len(small)
    large = ranking_pairs(pairs, 300, 2.9e6)  # tau = 3
    (shape,) = {p.rainy.shape for p in large}
    assert 64 <= shape[0] < 128
    assert shape[0] % 4 == 0
    assert 300 * len(large) * 2.9e6 * shape[0] * shape[1] <= 50e12
    assert len({int(p.rainy[0, 0, 0]) for p in large}) == len(large) >= 6


@pytest.mark.parametrize("stride", [24, 32, 48])
def test_ranking_crops_fit_the_stride(stride: int) -> None:
    pairs = [Pair(np.zeros((288, 288, 3), np.uint8), None, "all")]
    for macs_per_pixel in (1e3, 2.9e6, 1.3e7, 1e9):
        (pair,) = ranking_pairs(pairs, 300, macs_per_pixel, stride)
        assert pair.rainy.shape[0] % stride == 0


def search(calibrated: Calibrated, verifier: Verifier, budget: DriftBudget) -> Search:
    return Search(calibrated, verifier, budget, sum(layer.macs for layer in calibrated.layers))


def ranked(calibrated: Calibrated) -> list[Sensitivity]:
    """Plausible sensitivities without a pass: the first layers cost most."""
    return [Sensitivity(x.name, x.macs, 1.0 / (i + 1), 0.1) for i, x in enumerate(calibrated.layers)]


def test_a_wide_budget_keeps_nothing(calibrated: Calibrated, verifier: Verifier) -> None:
    found = search(calibrated, verifier, WIDE)
    chosen = found.run([])
    assert chosen.kept == frozenset()
    assert chosen.share == 1
    assert len(found.points) == 1


def test_between_the_extremes_the_choice_is_measured_and_minimal(
    calibrated: Calibrated, verifier: Verifier, tmp_path: Path
) -> None:
    part = replace(calibrated, layers=calibrated.layers[-12:])  # the others stay FP32: fewer to measure
    whole = verifier.measure(part.graph([layer.name for layer in part.layers]))
    budget = DriftBudget(psnr_db=whole.psnr_db + 2, shift=5)
    found = search(part, verifier, budget)
    chosen = found.run(ranked(part))
    assert 0 < len(chosen.kept) < len(part.layers)
    again = verifier.measure(part.graph([x.name for x in part.layers if x.name not in chosen.kept]))
    assert budget.excess(again) == pytest.approx(chosen.used)
    assert chosen.used <= 0.8
    # No measured choice that keeps the budget has more in INT8.
    assert chosen.share == max(p.share for p in found.points if p.used <= 0.8)
    front = pareto(found.points)
    assert chosen in front
    assert [p.used for p in front] == sorted(p.used for p in front)

    weights = {layer.name: layer.weight for layer in part.layers}
    report = Int8Report("tiny", budget, found.points, chosen, ranked(part), weights, {}, {})
    paths = report.write(tmp_path)
    assert {path.name for path in paths} == {"report.json", "report.md", "pareto.png"}
    stored = json.loads(paths[0].read_text())
    assert len(stored["kept"]) == len(chosen.kept)
    assert stored["chosen"]["int8_macs_share"] == pytest.approx(chosen.share, abs=1e-4)
    assert all(row["layer"] in paths[1].read_text() for row in stored["kept"])
    assert paths[2].read_bytes()[:4] == b"\x89PNG"


def test_an_impossible_budget_leaves_nothing_in_int8(calibrated: Calibrated, verifier: Verifier) -> None:
    part = replace(calibrated, layers=calibrated.layers[-12:])
    chosen = search(part, verifier, DriftBudget(psnr_db=99, shift=1e-6)).run(ranked(part))
    assert len(chosen.kept) == len(part.layers)
    assert chosen.share == 0


def test_without_a_margin_what_is_within_the_budget_is_taken(
    calibrated: Calibrated, verifier: Verifier
) -> None:
    part = replace(calibrated, layers=calibrated.layers[-1:])
    whole = verifier.measure(part.graph([part.layers[0].name]))
    budget = DriftBudget(psnr_db=whole.psnr_db - 1, shift=5)  # 89 % of it
    found = search(part, verifier, budget)
    chosen = found.run(ranked(part))
    assert (chosen.share, chosen.kept) == (1, frozenset())
    (warning,) = found.warnings(chosen)
    assert "80%" in warning
    assert "uses 89%" in warning
    assert not found.warnings(replace(chosen, used=0.8))


def test_a_refusal_tells_what_came_nearest() -> None:
    def point(share: float, loss: float) -> Point:
        drift = Drift({"heavy": loss}, 0.1, {"heavy": (0.0, 0.0, 0.0)}, 50.0)
        return Point(frozenset(), share, drift, DriftBudget().excess(drift))

    points = [point(1.0, 0.4), point(0.9, 0.13), point(0.5, 0.2), point(0.0, 0.0)]
    error = refusal(points, DriftBudget(), tuned=False)
    assert "90.0% in INT8" in str(error)
    assert "0.130 of 0.1 dB" in str(error)
    assert "--qat" in error.remedy
    assert "--max-tile-drift" in error.remedy
    assert "--min-psnr" not in error.remedy
    assert "longer" in refusal(points, DriftBudget(), tuned=True).remedy


def test_without_ground_truth_a_refusal_advises_what_is_then_taken() -> None:
    drift = Drift({}, 0.0, {"pictures": (0.0, 0.0, 0.0)}, 30.0)
    point = Point(frozenset(), 1.0, drift, DriftBudget().excess(drift))
    remedy = refusal([point], DriftBudget(), tuned=False).remedy
    assert remedy.startswith("Lower --min-psnr or widen --max-mean-shift")
    assert "--max-drift" not in remedy
    assert "--max-tile-drift" not in remedy


def test_a_refusal_never_names_what_is_within_the_budget() -> None:
    def point(share: float, loss: float) -> Point:
        drift = Drift({"heavy": loss}, 0.1, {"heavy": (0.0, 0.0, 0.0)}, 50.0)
        return Point(frozenset(), share, drift, DriftBudget().excess(drift))

    delivered = point(0.6, 0.104)
    error = refusal([point(1.0, 0.4), point(0.5, 0.087), delivered], DriftBudget(), False, delivered)
    assert "0.087" not in str(error)
    assert "With FP16 around INT8" in str(error)
    assert "60.0% in INT8: loss 0.104 of 0.1 dB" in str(error)
    assert "--int8-rest fp32" in error.remedy
    assert "No layer" in str(refusal([point(0.0, 0.0)], DriftBudget(), tuned=True))
