"""Fair stopwatches: contenders take turns, every sample is kept, and doubt is reported.

On a shared machine the noise of minutes is larger than most differences, so contenders are never
timed one after the other: each runs once per round, in an order shuffled anew, and two are compared
by the median of their per-round ratios, in which slow drifts cancel.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sdps.core.errors import UsageError

ROUNDS, BUDGET_S = 200, 60.0
MIN_ROUNDS = 6
"""The least that have an interval: the range of five contains the median in 93.75 %."""
PAUSE_S = 0.01
"""Between contenders: thread pools spin on after a call and would take a core from the next one."""
SPREAD_LIMIT = 0.10
"""Above this relative interquartile range a contender's own figures are called unstable
(pyperf draws the same line at a standard deviation of 10 % of the mean)."""


@dataclass(frozen=True)
class Timing:
    """How samples were taken.

    Attributes:
        rounds: Rounds that were run; each contender has that many samples.
        warmup: Calls of each contender before the first round, not kept.
        seed: Of the shuffled order.
        threads: Threads given to every contender.
    """

    rounds: int
    warmup: int
    seed: int
    threads: int


@dataclass(frozen=True)
class Latency:
    """Percentiles in milliseconds. A percentile that the number of samples cannot support is None.

    Attributes:
        p50_ms, p90_ms, p99_ms: The p-th percentile needs 1 / (1 - p) samples: 10 for p90, 100 for p99.
        max_ms: The slowest sample.
        spread: Interquartile range over median.
    """

    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float
    spread: float

    @property
    def stable(self) -> bool:
        return self.spread <= SPREAD_LIMIT


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the reference: median of the rounds, and a 95 % interval of that median.

    Of fewer than MIN_ROUNDS rounds `low` and `high` are only the range.
    """

    median: float
    low: float
    high: float

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 'equally fast'."""
        return not self.low <= 1 <= self.high


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int | None = None,
    budget_s: float | None = None,
    warmup: int = 2,
    seed: int = 0,
    on_round: Callable[[int], None] = lambda done: None,
) -> dict[str, tuple[int, ...]]:
    """Times several callables in turns.

    Stops after `rounds` (by default 200), or after the first round that ends past `budget_s` (by
    default 60 s where `rounds` is not given either) but not before MIN_ROUNDS.

    Args:
        contenders: Name to callable; a call returns only when its work is done.
        rounds: Number of rounds.
        budget_s: Seconds for all rounds together, warm-up not counted.
        warmup: Calls of each contender before the first round.
        seed: Decides the order within each round.
        on_round: Told the number of rounds done, after each.

    Returns:
        Name to durations in nanoseconds (`time.perf_counter_ns`), one per round.

    Raises:
        UsageError: fewer than one round, a budget that is not positive, or no contender.
    """
    if not contenders or (rounds is not None and rounds < 1) or (budget_s is not None and budget_s <= 0):
        raise UsageError("Nothing to time.", "Give at least one contender, one round, and a positive budget.")
    limit = rounds or (ROUNDS if budget_s is None else 10 * ROUNDS)
    seconds = budget_s or (BUDGET_S if rounds is None else math.inf)
    for call in contenders.values():
        for _ in range(warmup):
            call()
    samples: dict[str, list[int]] = {name: [] for name in contenders}
    order, shuffler = list(contenders), random.Random(seed)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # as timeit does: a collection belongs to nobody's time
    try:
        start = time.perf_counter()
        for done in range(1, limit + 1):
            shuffler.shuffle(order)
            for name in order:
                time.sleep(PAUSE_S)
                before = time.perf_counter_ns()
                contenders[name]()
                samples[name].append(time.perf_counter_ns() - before)
            on_round(done)
            if done >= MIN_ROUNDS and time.perf_counter() - start > seconds:
                break
    finally:
        if collecting:
            gc.enable()
    return {name: tuple(values) for name, values in samples.items()}


def summarise(samples_ns: Sequence[int]) -> Latency:
    """Percentiles by linear interpolation; None where there are too few samples for one."""
    ms = np.asarray(samples_ns, np.float64) / 1e6
    p25, p50, p75, p90, p99 = (float(v) for v in np.percentile(ms, (25, 50, 75, 90, 99)))
    return Latency(
        p50_ms=p50,
        p90_ms=p90 if len(ms) >= 10 else None,
        p99_ms=p99 if len(ms) >= 100 else None,
        max_ms=float(ms.max()),
        spread=(p75 - p25) / p50,
    )


def versus(reference_ns: Sequence[int], contender_ns: Sequence[int]) -> Ratio:
    """Speed against the reference: the median over rounds of reference time / contender time.

    The interval lies between two order statistics, as the sign test has it, and supposes nothing
    about the noise (Conover, Practical Nonparametric Statistics, 3rd ed., ch. 3.2). Below MIN_ROUNDS
    it is the whole range, which then covers less than 95 %.

    Args:
        reference_ns, contender_ns: Durations of the same rounds, in the same order.
    """
    ratios = np.sort(np.asarray(reference_ns, np.float64) / np.asarray(contender_ns, np.float64))
    count = len(ratios)
    rank = max(0, int((count - 1) / 2 - 0.98 * math.sqrt(count)))  # 0.98: half of the normal's 1.96
    return Ratio(float(np.median(ratios)), float(ratios[rank]), float(ratios[count - 1 - rank]))
