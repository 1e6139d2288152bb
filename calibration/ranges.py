"""Observers: what values a tensor takes, kept in histograms that grow; and the range to quantise to.

All quantisation is symmetric (see qdq.py), so only absolute values are observed. Statistics stream:
one picture at a time, some tensors at a time, and what is kept of a tensor does not grow with the
number of pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sdps.calibration.layers import Array
from sdps.calibration.qdq import LEVELS
from sdps.core.errors import ExportError, UsageError

BINS = 4096
SAMPLES = 1 << 18
"""Values that are counted per tensor and picture; the largest is taken of all."""
CALIBRATORS = ("minmax", "percentile", "entropy", "mse", "worst-mse", "best")
PERCENTILE = 99.99
LIMITS = 2.0 ** (np.arange(-24 * 12, 24 * 12 + 1) / 12)
"""The ranges that 'worst-mse' chooses from: twelve an octave, from 6e-8 to 2e7."""


@dataclass
class Histogram:
    """Counts of absolute values in equal bins from 0; the range doubles when a value is beyond it."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    top: float = 0.0  # the upper edge of the last bin
    largest: float = 0.0
    worst: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(LIMITS)))
    """For each of LIMITS the mean squared error of the picture that has the largest."""

    def add(self, values: Array, name: str) -> None:
        """Counts a tensor.

        Raises:
            ExportError: it holds NaN or infinity.
        """
        largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))  # NaN stays NaN
        if not math.isfinite(largest):
            raise ExportError(
                f"The tensor {name} holds NaN or infinity on a calibration picture.",
                "Such weights cannot be quantised: check the checkpoint with --precision fp32.",
            )
        self.largest = max(self.largest, largest)
        if largest == 0:
            self.counts[0] += min(values.size, SAMPLES)
            return
        if self.top == 0:
            self.top = 2.0 ** math.ceil(math.log2(largest))
        while largest > self.top:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self.top *= 2
        some = np.abs(values.ravel()[:: -(-values.size // SAMPLES)])
        at = np.minimum(some * (BINS / self.top), BINS - 1).astype(np.int32)
        counts = np.bincount(at, minlength=BINS)
        self.counts += counts
        self.worst = np.maximum(self.worst, _errors(counts, self.top))

    def limit(self, calibrator: str) -> float:
        """The absolute value that becomes level 127.

        Args:
            calibrator: 'minmax' the largest value; 'percentile' the 99.99th; 'entropy' the least
                Kullback-Leibler divergence (TensorRT's calibrator, Migacz, GTC 2017); 'mse' the
                least mean squared error over all pictures; 'worst-mse' the least mean squared error
                of the picture for which it is largest.

        Raises:
            UsageError: there is no such calibrator.
        """
        if calibrator not in CALIBRATORS[:-1]:
            raise UsageError(
                f"There is no calibrator {calibrator!r}.", f"Choose from {', '.join(CALIBRATORS)}."
            )
        if self.largest == 0:
            return 1.0  # always zero: any range will do
        if calibrator == "minmax":
            return self.largest
        if calibrator == "percentile":
            reached = np.searchsorted(np.cumsum(self.counts), PERCENTILE / 100 * self.counts.sum())
            return float(min((reached + 1) * self.top / BINS, self.largest))
        if calibrator == "worst-mse":
            return float(min(LIMITS[np.argmin(self.worst)], self.largest))
        return self._entropy() if calibrator == "entropy" else self._mse()

    def _mse(self) -> float:
        candidates = self.largest * np.linspace(0.2, 1.0, 81)
        return float(candidates[np.argmin([self.error(limit) for limit in candidates])])

    def error(self, limit: float) -> float:
        """Mean squared error of the values after quantisation with a limit."""
        return _error(self.counts, self.top, limit)

    def _entropy(self) -> float:
        used = int(np.ceil(self.largest / self.top * BINS))
        counts = self.counts[:used].astype(np.float64)
        best, best_divergence = used, math.inf
        for end in np.unique(np.linspace(LEVELS + 1, max(used, LEVELS + 1), 64).astype(int)):
            kept = counts[:end].copy()
            if not kept.size or kept.sum() == 0:
                continue
            kept[-1] += counts[end:].sum()
            # The same after 128 levels: each level's count spread over its bins that are not empty.
            level = np.arange(len(kept)) * (LEVELS + 1) // len(kept)
            filled = counts[:end] > 0
            total = np.bincount(level, counts[:end], LEVELS + 1)
            members = np.maximum(np.bincount(level, filled, LEVELS + 1), 1)
            smoothed = np.where(filled, (total / members)[level], 0.0)
            p, q = kept / kept.sum(), smoothed / max(smoothed.sum(), 1e-12)
            both = (p > 0) & (q > 0)
            divergence = float((p[both] * np.log(p[both] / q[both])).sum()) + 10 * float(
                p[(p > 0) & (q == 0)].sum()
            )
            if divergence < best_divergence:
                best, best_divergence = int(end), divergence
        return float(min(best * self.top / BINS, self.largest))


def _error(counts: npt.NDArray[np.int64], top: float, limit: float) -> float:
    """Mean squared error of counted values after quantisation with a limit."""
    step, width = limit / LEVELS, top / BINS
    values = (np.arange(BINS, dtype=np.float64) + 0.5) * width
    rounded = np.clip(np.round(values / step), 0, LEVELS) * step
    # A bin that is wider than a step hides the rounding error; a uniform one stands for it.
    spread = width**2 / 12 if width > step else 0.0
    return float((counts * ((values - rounded) ** 2 + spread)).sum() / max(1, counts.sum()))


def _errors(counts: npt.NDArray[np.int64], top: float) -> npt.NDArray[np.float64]:
    """About the same for each of LIMITS at once: what rounds to zero is lost, what is beyond is cut off,
    and between them the error is uniform."""
    values = (np.arange(BINS, dtype=np.float64) + 0.5) * np.float64(top / BINS)
    number, first, second = (np.append(0.0, np.cumsum(counts * values**power)) for power in (0, 1, 2))
    steps = LIMITS / LEVELS
    zero, cut = np.searchsorted(values, steps / 2), np.searchsorted(values, LIMITS)
    beyond = (
        second[-1]
        - second[cut]
        - 2 * LIMITS * (first[-1] - first[cut])
        + LIMITS**2 * (number[-1] - number[cut])
    )
    total: npt.NDArray[np.float64] = second[zero] + steps**2 / 12 * (number[cut] - number[zero]) + beyond
    return total / number[-1]
