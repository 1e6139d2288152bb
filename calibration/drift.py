"""How far an INT8 graph is from its FP32 graph, and whether that is within what was asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from onnx import ModelProto

from sdps.calibration.session import open_session, restore
from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.metrics import psnr_of

TILE = 128
"""Side of the tiles, in pixels, of which the worst is held to a bound of its own."""
EXACT_DB = 60.0
"""A picture that FP32 restores as well as that, such as a dry one, has no part in the mean loss: from nothing
to half a level are tens of decibels. Its tiles and its colours count."""
VISIBLE_DB = 45.0
"""PSNR of a tile above this counts as this: an error of about one level, which nobody sees, is
all that is left, and a flat tile that FP32 restores exactly would else lose tens of decibels."""
BOUND_OPTIONS = {
    "loss_db": "--max-drift",
    "tile_db": "--max-tile-drift",
    "shift": "--max-mean-shift",
    "psnr_db": "--min-psnr",
}
"""Under which option of `sdps-export` each bound of a budget is given."""


@dataclass(frozen=True)
class Pair:
    """A picture to verify on.

    Attributes:
        rainy, clean: (H, W, 3) uint8 RGB; clean is None where there is no ground truth.
        group: What is averaged together, e.g. a look of rain.
    """

    rainy: Image
    clean: Image | None
    group: str


@dataclass(frozen=True)
class Drift:
    """What INT8 costs on the verification pictures.

    Attributes:
        loss_db: Lost PSNR against the ground truth by group, mean of its pictures but for those that FP32
            restores to EXACT_DB; empty without truth.
        tile_db: The same of the worst single tile, 0 without truth.
        shift: Mean change of each RGB channel in 8-bit levels, by group.
        psnr_db: Least PSNR of a picture against FP32's.
        noise: Mean squared change of the result, in squared 8-bit levels.
        picture_shift: Largest absolute change of a channel's mean in any single picture, in levels;
            in a group's mean such shifts may cancel.
        tile_psnr_db: Least PSNR of a tile against FP32's.
        tile_p99_db: What 99 of 100 tiles lose at most against the ground truth: whether the worst one
            stands alone. Of less than 100 tiles the worst.
    """

    loss_db: Mapping[str, float]
    tile_db: float
    shift: Mapping[str, tuple[float, float, float]]
    psnr_db: float
    noise: float = 0.0
    picture_shift: float = 0.0
    tile_psnr_db: float = math.inf
    tile_p99_db: float = 0.0

    @property
    def worst_loss(self) -> float:
        """Of the groups, in dB."""
        return max(self.loss_db.values(), default=0.0)

    @property
    def cost(self) -> float:
        """To compare choices by: mean loss of the groups in dB; without truth the noise."""
        return sum(self.loss_db.values()) / len(self.loss_db) if self.loss_db else self.noise

    @property
    def worst_shift(self) -> float:
        """Of the groups and channels, in 8-bit levels."""
        return max((abs(v) for values in self.shift.values() for v in values), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Rounded, for reports and manifests."""
        return {
            "loss_db": {key: round(value, 4) for key, value in self.loss_db.items()},
            "worst_tile_db": round(self.tile_db, 4) if self.loss_db else None,
            "p99_tile_db": round(self.tile_p99_db, 4) if self.loss_db else None,
            "mean_shift": {key: [round(v, 3) for v in values] for key, values in self.shift.items()},
            "worst_picture_shift": round(self.picture_shift, 3),
            "psnr_to_fp32_db": _finite(self.psnr_db),
            "worst_tile_psnr_to_fp32_db": _finite(self.tile_psnr_db),
        }

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Drift:
        """That of which `asdict` was stored as JSON.

        Raises:
            ValueError: it is not all there, for example as an earlier version has stored it.
        """
        if stored.keys() != {entry.name for entry in fields(cls)}:
            raise ValueError("not all of a drift")
        shift = {key: (red, green, blue) for key, (red, green, blue) in stored["shift"].items()}
        return cls(**{**stored, "shift": shift})


@dataclass(frozen=True)
class DriftBudget:
    """The most drift that is asked for.

    Attributes:
        loss_db: Lost PSNR against the ground truth, mean of a group.
        tile_db: The same of the worst tile.
        shift: Mean change of a channel in 8-bit levels.
        psnr_db: Least PSNR of a picture against FP32, used where there is no ground truth.
        floor: Whether `psnr_db` holds beside a ground truth as well, because somebody asked for it.
    """

    loss_db: float = 0.1
    tile_db: float = 0.5
    shift: float = 0.25
    psnr_db: float = 40.0
    floor: bool = False

    def __post_init__(self) -> None:
        for name in BOUND_OPTIONS:
            value = getattr(self, name)
            # Nothing compares with NaN, and infinity bounds nothing: either would accept every drift.
            if not (math.isfinite(value) and value > 0):
                raise UsageError(
                    f"{BOUND_OPTIONS[name]} {value:g} is no bound: a drift budget is positive and finite.",
                    f"Give a number above 0, for example {BOUND_OPTIONS[name]} {_DEFAULTS[name]:g}.",
                )

    def excess(self, drift: Drift) -> float:
        """The largest part of a bound that is used up; at most 1 is within the budget."""
        used = [drift.worst_shift / self.shift]
        if drift.loss_db:
            used += [drift.worst_loss / self.loss_db, drift.tile_db / self.tile_db]
        if self.floor or not drift.loss_db:
            # In decibels 0 would be no drift at all; errors add in amplitude.
            used.append(10 ** ((self.psnr_db - drift.psnr_db) / 20))
        return max(used)

    def explain(self, drift: Drift) -> str:
        """One sentence: the figures beside their bounds."""
        shift = f"colour shift {drift.worst_shift:.2f} of {self.shift:g} levels"
        parts = [f"{shift} ({drift.picture_shift:.2f} in the worst picture)"]
        if drift.loss_db:
            usual = f"99 of 100 at most {drift.tile_p99_db:.2f}"
            parts.insert(0, f"loss {drift.worst_loss:.3f} of {self.loss_db:g} dB")
            parts.insert(1, f"worst tile {drift.tile_db:.2f} of {self.tile_db:g} dB ({usual})")
        if self.floor or not drift.loss_db:
            worst = f"{drift.tile_psnr_db:.1f} in the worst tile"
            floor = f"{drift.psnr_db:.1f} dB to FP32 where {self.psnr_db:g} are asked for ({worst})"
            parts.insert(len(parts) - 1, floor)
        return ", ".join(parts)


_DEFAULTS = asdict(DriftBudget())


@dataclass
class Verifier:
    """Measures graphs on pictures, against an FP32 graph that is run once.

    Args:
        reference: The FP32 graph.
        pairs: Pictures; none of them may have served to calibrate.
    """

    reference: ModelProto
    pairs: Sequence[Pair]
    results: list[Image] = field(init=False)

    def __post_init__(self) -> None:
        session = open_session(self.reference)
        self.results = [restore(session, pair.rainy) for pair in self.pairs]

    def measure(self, model: ModelProto) -> Drift:
        """Runs the graph on the pictures and compares."""
        session = open_session(model)
        losses: dict[str, list[float]] = {}
        shifts: dict[str, list[np.ndarray]] = {}
        tiles: list[float] = []
        psnr, tile_psnr, noise = math.inf, math.inf, []
        for pair, before in zip(self.pairs, self.results, strict=True):
            after = restore(session, pair.rainy)
            difference = after.astype(np.float64) - before
            shifts.setdefault(pair.group, []).append(difference.mean((0, 1)))
            noise.append(float((difference**2).mean()))
            psnr = min(psnr, _psnr(noise[-1]))
            tile_psnr = min(tile_psnr, _psnr(max(_tile_means(difference**2))))
            if pair.clean is not None:
                old, new = _errors(before, pair.clean), _errors(after, pair.clean)
                counted, decibels = losses.setdefault(pair.group, []), _psnr(float(old.mean()))
                if decibels < EXACT_DB:
                    counted.append(decibels - _psnr(float(new.mean())))
                tiles += _tile_losses(old, new)
        picture_shift = max(
            (float(abs(one).max()) for values in shifts.values() for one in values), default=0.0
        )
        shift = {}
        for key, values in shifts.items():
            red, green, blue = np.mean(values, axis=0)
            shift[key] = (float(red), float(green), float(blue))
        loss = {key: float(np.mean(values or [0.0])) for key, values in losses.items()}
        ranked = np.percentile(tiles or [0.0], [99, 100], method="inverted_cdf")  # not between two tiles
        usual, worst = (max(0.0, float(value)) for value in ranked)
        return Drift(loss, worst, shift, psnr, float(np.mean(noise)), picture_shift, tile_psnr, usual)


def _errors(image: Image, clean: Image) -> np.ndarray:
    return (image.astype(np.float64) - clean) ** 2


def _psnr(error: float, ceiling: float = 100.0) -> float:
    return min(ceiling, psnr_of(error))


def _finite(decibels: float) -> float | None:
    """Rounded for JSON, which has no infinity: None for no difference, or no picture."""
    return None if math.isinf(decibels) else round(decibels, 2)


def _tile_losses(old: np.ndarray, new: np.ndarray) -> list[float]:
    pairs = zip(_tile_means(old), _tile_means(new), strict=True)
    return [_psnr(before, VISIBLE_DB) - _psnr(after, VISIBLE_DB) for before, after in pairs]


def _tile_means(errors: np.ndarray) -> list[float]:
    """The mean of each tile of (H, W, 3); at the right and lower edge tiles are smaller."""
    return [
        float(errors[top : top + TILE, left : left + TILE].mean())
        for top in range(0, errors.shape[0], TILE)
        for left in range(0, errors.shape[1], TILE)
    ]
