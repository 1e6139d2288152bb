"""What each layer costs when it alone is INT8; kept line by line, so that an interruption loses one.

Layers are ranked on a few pictures, which of a large network are cut smaller: of tau=3 with its 300
layers a pass over whole crops would take hours, and the rank of a layer hardly depends on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np

from sdps.calibration.drift import Drift, DriftBudget, Pair, Verifier
from sdps.calibration.layers import Layer
from sdps.calibration.observe import Step
from sdps.calibration.recipe import Calibrated
from sdps.core.artifact import write_bytes
from sdps.core.errors import SdpsError
from sdps.core.frame import Image

RANKED_ON = 6
"""Pictures that layers are ranked on; choices are measured on all."""
WORK = 50e12
"""Multiply-accumulates that a pass may take: about half an hour of one core."""
LEAST_SIDE, GRAIN = 64, 16
LEAST_SHARE = 0.002
"""Of the multiply-accumulates of all layers that were trained: a smaller layer counts as one of this."""


@dataclass(frozen=True)
class Sensitivity:
    """One layer alone in INT8.

    Attributes:
        name: The layer's name.
        macs: Its multiply-accumulates.
        noise: Mean squared change of the result in squared 8-bit levels.
        excess: Part of the drift budget that it uses up by itself.
    """

    name: str
    macs: int
    noise: float
    excess: float


@dataclass(frozen=True)
class Alone:
    """What is kept of a layer: the drift itself, as the next run may have other bounds.

    Attributes:
        name: The layer's name.
        macs: Its multiply-accumulates.
        drift: Of the graph with this layer alone in INT8, or with all but it (`by_gain`).
    """

    name: str
    macs: int
    drift: Drift

    def within(self, budget: DriftBudget) -> Sensitivity:
        """Its cost in parts of a budget."""
        return Sensitivity(self.name, self.macs, self.drift.noise, budget.excess(self.drift))


def measure_layers(
    calibrated: Calibrated,
    verifier: Verifier,
    budget: DriftBudget,
    file: Path,
    step: Step = lambda *_: None,
) -> list[Sensitivity]:
    """Measures every layer alone, in the graph's order.

    Returns:
        What each costs.

    Args:
        calibrated: The graph.
        verifier: Pictures; a few are enough to rank layers.
        budget: What `excess` is in parts of.
        file: JSON lines of what is measured already; its name must tell graph, set and options, not the
            budget.
        step: Told how far it is.
    """
    measured = _each(
        calibrated.layers, file, lambda name: verifier.measure(calibrated.graph([name])), step, "layers alone"
    )
    return [entry.within(budget) for entry in measured]


def by_gain(
    calibrated: Calibrated, verifier: Verifier, budget: DriftBudget, file: Path, step: Step = lambda *_: None
) -> list[list[str]]:
    """Orders in which to lift layers of a network that was fine-tuned for INT8 out of it.

    What one costs alone says little there: each has learnt to make up for the others' rounding. So all but
    one are in INT8, and what they lose less than all together counts, for each multiply-accumulate.

    Returns:
        Two orders of the same layers, the first to be lifted out first: by the mean loss, which is steady,
        and by the part of the budget that is used up, which may hang on a tile that the mean does not show.

    Args:
        calibrated: The graph.
        verifier: Pictures, the more the better: a single layer changes little.
        budget: What is to be kept.
        file: JSON lines of what is measured already; its name must tell graph, set and ranges, not the
            budget.
        step: Told how far it is.
    """
    trained = [layer for layer in calibrated.layers if layer.name in calibrated.quantised]
    names = [layer.name for layer in trained]
    whole = verifier.measure(calibrated.graph(names))
    measured = _each(
        trained,
        file,
        lambda name: verifier.measure(calibrated.graph([other for other in names if other != name])),
        step,
        "all layers but one",
    )
    # A smaller layer costs nothing to lift out, and what that gains is mostly chance.
    least = LEAST_SHARE * sum(layer.macs for layer in trained)

    def order(cost: Callable[[Drift], float]) -> list[str]:
        all_together = cost(whole)
        change = {
            entry.name: (cost(entry.drift) - all_together) / max(least, entry.macs) for entry in measured
        }
        return sorted(names, key=change.__getitem__)

    return [order(lambda drift: drift.cost), order(budget.excess)]


def _each(
    layers: Sequence[Layer], file: Path, measure: Callable[[str], Drift], step: Step, what: str
) -> list[Alone]:
    """One drift for each layer, by its name; what `file` has is not measured again."""
    known = {entry.name: entry for entry in read_lines(file)}
    # Written anew, as the last line may be the half that an earlier run was killed in.
    write_bytes(file, "".join(f"{json.dumps(asdict(entry))}\n" for entry in known.values()).encode())
    with file.open("a", encoding="utf-8") as stream:
        for done, layer in enumerate(layers):
            if layer.name not in known:
                known[layer.name] = Alone(layer.name, layer.macs, measure(layer.name))
                _keep(stream, json.dumps(asdict(known[layer.name])) + "\n", file)
            step(f"Measuring {what}", done + 1, len(layers))
    return [known[layer.name] for layer in layers]


def _keep(stream: IO[str], line: str, file: Path) -> None:
    """Appends a line to the file at once.

    Raises:
        SdpsError: it cannot be written, which would else be taken for the output's failure.
    """
    try:
        stream.write(line)
        stream.flush()
    except OSError as error:
        with suppress(OSError):
            stream.close()  # what it still holds is not written at the end
        raise SdpsError(
            f"What is measured cannot be kept in {file}: {error.strerror}.",
            "Make room there, or name another folder with SDPS_HOME; the same command goes on from there.",
        ) from error


def ranking_pairs(
    pairs: Sequence[Pair], layers: int, macs_per_pixel: float, stride: int = 1, most: int = RANKED_ON
) -> list[Pair]:
    """A few of the pictures, cut about their middle to a side that keeps the pass within WORK.

    Args:
        pairs: The verification pictures.
        layers: How many are to be measured.
        macs_per_pixel: Of the graph.
        stride: What the graph takes multiples of.
        most: So many pictures, or a few more.
    """
    few = pairs[:: max(1, len(pairs) // most)]
    grain = math.lcm(GRAIN, stride)
    affordable = int((WORK / max(1.0, layers * len(few) * macs_per_pixel)) ** 0.5)
    side = max(math.ceil(LEAST_SIDE / grain), affordable // grain) * grain
    return [
        Pair(_middle(p.rainy, side), None if p.clean is None else _middle(p.clean, side), p.group)
        for p in few
    ]


def _middle(image: Image, side: int) -> Image:
    top, left = (max(0, (length - side) // 2) for length in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def read_lines(file: Path) -> list[Alone]:
    """What an earlier run has measured; a line that it was killed in is left out, and so are those
    of versions that kept no drift, or less of one."""
    found = []
    if file.is_file():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                stored = json.loads(line)
                found.append(Alone(stored["name"], stored["macs"], Drift.restored(stored["drift"])))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
    return found
