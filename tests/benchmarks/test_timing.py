"""Statistics on samples with known answers, and the order of turns. Nothing here asserts a duration."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from sdps.benchmarks import timing
from sdps.benchmarks.timing import Ratio, interleave, summarise, versus
from sdps.core.errors import UsageError

MS = 1_000_000


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PAUSE_S", 0.0)


def test_percentiles_of_known_samples() -> None:
    latency = summarise([i * MS for i in range(1, 102)])
    assert (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms) == (51, 91, 100, 101)
    assert latency.spread == pytest.approx(50 / 51)
    assert not latency.stable


@pytest.mark.parametrize(
    ("count", "p90", "p99"), [(9, False, False), (10, True, False), (99, True, False), (100, True, True)]
)
def test_no_percentile_without_the_samples_for_it(count: int, p90: bool, p99: bool) -> None:
    latency = summarise([MS] * count)
    assert (latency.p90_ms is not None, latency.p99_ms is not None) == (p90, p99)
    assert latency.stable


def test_ratio_is_per_round_so_a_drifting_machine_cancels_out() -> None:
    drift = np.linspace(1, 10, 50)  # the machine becomes ten times as slow
    ratio = versus(2 * MS * drift, MS * drift)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((2, 2, 2))
    assert ratio.resolved


def test_a_difference_within_the_noise_is_not_resolved() -> None:
    rng = np.random.default_rng(3)
    ratio = versus(MS * rng.uniform(0.8, 1.2, 40), MS * rng.uniform(0.8, 1.2, 40))
    assert ratio.low < 1 < ratio.high
    assert not ratio.resolved


@pytest.mark.parametrize("rounds", [8, 30, 101])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(rounds: int) -> None:
    rng = np.random.default_rng(4)
    noise = rng.lognormal(0, 0.3, (2, 2000, rounds))
    found = [versus(2 * MS * a, MS * b) for a, b in zip(*noise, strict=True)]
    assert np.mean([ratio.low <= 2 <= ratio.high for ratio in found]) > 0.94


def test_few_rounds_give_the_whole_range() -> None:
    samples = [3 * MS, 4 * MS, 9 * MS, 5 * MS], [2 * MS, 2 * MS, 3 * MS, 4 * MS]
    assert versus(*samples) == Ratio(1.75, 1.25, 3.0)


def test_each_contender_runs_once_per_round_in_an_order_that_changes() -> None:
    calls: list[str] = []
    done: list[int] = []
    samples = interleave(
        {name: lambda name=name: calls.append(name) for name in "abc"},
        rounds=20,
        warmup=2,
        on_round=done.append,
    )
    assert calls[:6] == ["a", "a", "b", "b", "c", "c"]
    turns = ["".join(calls[i : i + 3]) for i in range(6, len(calls), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len(set(turns)) > 3
    assert {len(values) for values in samples.values()} == {20}
    assert done == list(range(1, 21))


def test_the_seed_decides_the_order() -> None:
    def order(seed: int) -> str:
        calls: list[str] = []
        interleave(
            {name: lambda name=name: calls.append(name) for name in "abcd"}, rounds=8, warmup=0, seed=seed
        )
        return "".join(calls)

    assert order(1) == order(1) != order(2)


def test_a_spent_budget_stops_but_not_before_five_rounds() -> None:
    assert len(interleave({"a": lambda: None}, budget_s=1e-9)["a"]) == timing.MIN_ROUNDS
    assert len(interleave({"a": lambda: None}, budget_s=1e-9, rounds=3)["a"]) == 3
    assert len(interleave({"a": lambda: None})["a"]) == timing.ROUNDS


def test_the_garbage_collector_comes_back_after_a_failure() -> None:
    def fails_when_timed() -> None:
        if not gc.isenabled():
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        interleave({"a": fails_when_timed}, rounds=2)
    assert gc.isenabled()


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"budget_s": 0.0}, {"rounds": -1}])
def test_nothing_to_time_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        interleave({"a": lambda: None}, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        interleave({}, rounds=3)
