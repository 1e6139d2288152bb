"""The search: the fewest multiply-accumulates outside INT8 that keep the drift within its budget.

Measured at every step, on pictures that did not serve to calibrate: all layers in INT8 first; then
without those that read or make a picture; then the layers that cost most per multiply-accumulate are
lifted out, as many as it takes (found by bisection); then each of them, the largest first, is put
back if the budget allows (of a large network not all of them are tried). Greedy, not exhaustive: of
90 layers there are 2^90 choices. Where nothing leaves the budget a margin, what is within it serves too.
In a network that was fine-tuned for INT8 the layers are lifted out in the order of what the others lose less
without each, in the mean or of the budget (`sensitivity.by_gain`): they have learnt to live with one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sdps.calibration.drift import Drift, DriftBudget, Verifier
from sdps.calibration.layers import picture_facing
from sdps.calibration.observe import Step
from sdps.calibration.recipe import Calibrated
from sdps.calibration.sensitivity import Sensitivity

SAFETY = 0.8
"""Part of the budget that the search aims at: other pictures drift a little otherwise."""
CLOSE = 0.95
"""Part of it that layers are put back up to where nothing keeps that: FP16 around INT8 adds a little."""


@dataclass(frozen=True)
class Point:
    """One measured choice of layers.

    Attributes:
        kept: Layers outside INT8, by name.
        share: Part of the graph's multiply-accumulates in INT8, 0 to 1.
        drift: What it costs.
        used: Part of the budget that is used up; at most 1 keeps it.
    """

    kept: frozenset[str]
    share: float
    drift: Drift
    used: float

    def to_json(self) -> dict[str, Any]:
        return {
            "int8_macs_share": round(self.share, 5),
            "kept": sorted(self.kept),
            "budget_used": round(self.used, 4),
            **self.drift.to_json(),
        }


@dataclass
class Search:
    """Finds the choice of layers.

    Args:
        calibrated: The graph.
        verifier: The verification pictures.
        budget: What is asked for.
        macs: Multiply-accumulates of the whole graph.
        tries: Most layers that are tried to be put back, the largest first.
        step: Told how far it is.
        never: Layers that cannot be INT8, by name.
    """

    calibrated: Calibrated
    verifier: Verifier
    budget: DriftBudget
    macs: int
    step: Step = lambda *_: None
    tries: int | None = None
    never: frozenset[str] = frozenset()
    points: list[Point] = field(default_factory=list)

    def all_int8(self) -> Point:
        """Everything in INT8 that can be."""
        return self.measure(frozenset())

    def none_facing(self) -> Point:
        """Everything in INT8 but what reads or makes a picture: where a search begins."""
        return self.measure(frozenset(picture_facing(self.calibrated.model, self.calibrated.layers)))

    @staticmethod
    def satisfied(point: Point) -> bool:
        """Whether a point keeps the budget with some to spare."""
        return point.used <= SAFETY

    def run(self, sensitivities: Sequence[Sensitivity]) -> Point:
        """The chosen point; all that were measured are in `points`.

        It is `satisfied`, or if none is, the one within the budget with the most INT8; of that none
        either, it has no layer in INT8.

        Args:
            sensitivities: Of every layer.
        """
        whole = self.all_int8()
        if self.satisfied(whole):
            return whole
        ranked = sorted(sensitivities, key=lambda s: s.noise / max(1, s.macs), reverse=True)
        facing = picture_facing(self.calibrated.model, self.calibrated.layers)
        names = sorted((entry.name for entry in ranked), key=lambda name: name not in facing)
        low, high = 0, len(names)  # `low` lifted do not suffice, `high` do: then nothing is INT8
        next_try = len(facing)
        best: Point | None = None
        while high - low > 1:
            # Nearer to the low end: the first ones, with few MACs each, cost little to lift.
            middle = min(high - 1, next_try or max(low + 1, low + (high - low) // 3))
            next_try = 0
            point = self.measure(frozenset(names[:middle]))
            if self.satisfied(point):
                high, best = middle, point
            else:
                low = middle
        return self._nearest(names) if best is None else self._put_back(best, names)

    def relieve(self, orders: Sequence[Sequence[str]]) -> Point:
        """The chosen point, as `run` says it, of a network that was fine-tuned for INT8.

        Ever more layers are lifted out, each time half as many again, until a point is `satisfied`. No
        bisection: more need not be better, as what is lifted out is missed by those that have learnt from it.

        Args:
            orders: Every layer that can be INT8, the first to be lifted out first; each order is tried.
        """
        most = len(orders[0])
        count = max(1, most // 16)
        while count < most:
            points = [(self.measure(frozenset(names[:count])), names) for names in orders]
            if found := [entry for entry in points if self.satisfied(entry[0])]:
                return self._put_back(*max(found, key=lambda entry: entry[0].share))
            count += -(-count // 2)
        return self._nearest(orders[0])

    def _nearest(self, names: Sequence[str]) -> Point:
        """Where no choice leaves a margin: the most INT8 within the budget, or none at all."""
        within = [point for point in self.points if point.used <= 1 and point.share > 0]
        if not within:
            return self.measure(frozenset(names))
        return self._put_back(max(within, key=lambda p: p.share), names, CLOSE)

    def _put_back(self, best: Point, names: Sequence[str], most: float = SAFETY) -> Point:
        """Without those that need not be lifted out, tried the largest first.

        Args:
            best: Where to begin.
            names: Its layers and others; of equally large ones the last is tried first, which costs least.
            most: Part of the budget that the point may use up with a layer more.
        """
        macs = {layer.name: layer.macs for layer in self.calibrated.layers}
        lifted = [name for name in reversed(names) if name in best.kept - self.never]
        for name in sorted(lifted, key=macs.__getitem__, reverse=True)[: self.tries]:
            point = self.measure(best.kept - {name})
            if point.used <= most:
                best = point
        return best

    @classmethod
    def warnings(cls, point: Point) -> list[str]:
        """What a report has to say of a chosen point that leaves no margin; nothing of others."""
        if cls.satisfied(point):
            return []
        return [
            f"No choice that was measured stays within {SAFETY:.0%} of the budget, which the search aims "
            f"at; this one uses {point.used:.0%} with FP32 around INT8: other pictures may drift beyond it."
        ]

    def measure(self, kept: frozenset[str]) -> Point:
        """The point of a choice, given the layers that stay outside INT8 beside those that never are in it;
        nothing is measured twice."""
        kept |= self.never
        for point in self.points:
            if point.kept == kept:
                return point
        names = [layer.name for layer in self.calibrated.layers if layer.name not in kept]
        drift = self.verifier.measure(self.calibrated.graph(names))
        done = sum(layer.macs for layer in self.calibrated.layers if layer.name not in kept)
        point = Point(kept, done / max(1, self.macs), drift, self.budget.excess(drift))
        self.points.append(point)
        self.step(f"Searching: {point.share:.1%} in INT8 uses {point.used:.0%} of the budget", 0, 0)
        return point
