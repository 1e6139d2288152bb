"""Histograms that grow, and the ranges that calibrators read from them."""

from __future__ import annotations

import numpy as np
import pytest

from sdps.calibration.ranges import CALIBRATORS, Histogram
from sdps.core.errors import ExportError, UsageError


def seen(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch.astype(np.float32), "x")
    return histogram


def test_growing_loses_no_value_and_keeps_their_places() -> None:
    small, large = np.full(1000, 0.3), np.full(50, -77.0)
    histogram = seen(small, large)
    assert histogram.largest == 77
    assert histogram.top == 128
    assert histogram.counts.sum() == 1050
    assert histogram.counts[int(77 / 128 * 4096)] == 50
    # What was counted finely before the range grew lies in the first bins now.
    assert histogram.counts[int(0.3 / 128 * 4096)] == 1000


def test_only_some_values_of_a_large_tensor_are_counted_but_its_maximum_always() -> None:
    values = np.zeros(1_000_000, np.float32)
    values[-1] = 5
    histogram = seen(values)
    assert histogram.largest == 5
    assert histogram.counts.sum() <= 1 << 18


def test_calibrators_on_a_normal_distribution_with_an_outlier() -> None:
    rng = np.random.default_rng(0)
    histogram = seen(np.append(rng.normal(0, 1, 200_000), 40.0))
    limits = {name: histogram.limit(name) for name in CALIBRATORS if name != "best"}
    assert limits["minmax"] == 40
    # The 99.99th percentile of |N(0,1)| is 3.89.
    assert limits["percentile"] == pytest.approx(3.89, abs=0.25)
    assert 10 < limits["mse"] < 25  # clipping one value by half costs as much as the finer step gains
    assert limits["entropy"] < 10
    others = [histogram.error(limits[name]) for name in ("minmax", "percentile", "entropy")]
    assert histogram.error(limits["mse"]) < min(others)
    assert limits["worst-mse"] == pytest.approx(limits["mse"], rel=0.15)  # of one picture they are the same


def test_mse_is_the_best_of_its_candidates_by_brute_force() -> None:
    values = np.abs(np.random.default_rng(1).laplace(0, 1, 100_000)).astype(np.float32)
    histogram = seen(values)

    def true_error(limit: float) -> float:
        step = limit / 127
        return float(((values - np.clip(np.round(values / step), 0, 127) * step) ** 2).mean())

    chosen = histogram.limit("mse")
    candidates = histogram.largest * np.linspace(0.2, 1.0, 81)
    assert true_error(chosen) <= 1.05 * min(true_error(c) for c in candidates)
    assert histogram.error(chosen) == pytest.approx(true_error(chosen), rel=0.1)


def test_worst_mse_is_the_best_for_the_worst_picture() -> None:
    """One picture of twenty has values four times as large; over all of them it hardly counts."""
    rng = np.random.default_rng(2)
    pictures = [rng.laplace(0, 4 if i == 7 else 1, 30_000).astype(np.float32) for i in range(20)]
    pictures.append(np.maximum(rng.normal(0, 1, 30_000), 0).astype(np.float32))  # half of it zeros
    histogram = Histogram()
    for picture in pictures:
        histogram.add(picture, "x")

    def worst(limit: float) -> float:
        step = limit / 127
        rounded = [np.clip(np.round(p / step), -128, 127) * step for p in pictures]
        return max(float(((p - r) ** 2).mean()) for p, r in zip(pictures, rounded, strict=True))

    chosen = histogram.limit("worst-mse")
    assert worst(chosen) <= 1.05 * min(worst(c) for c in histogram.largest * np.linspace(0.1, 1, 91))
    assert worst(chosen) < 0.5 * worst(histogram.limit("mse"))


def test_nan_is_named_and_zeros_are_harmless() -> None:
    with pytest.raises(ExportError, match="conv7 holds NaN"):
        Histogram().add(np.array([1.0, np.nan], np.float32), "conv7")
    assert seen(np.zeros(10)).limit("minmax") == 1.0
    with pytest.raises(UsageError, match="no calibrator"):
        seen(np.ones(3)).limit("guess")
