"""What each layer costs when it alone is INT8; kept line by line, so that an interruption loses one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sdps.calibration.drift import DriftBudget, Verifier
from sdps.calibration.layers import Layer
from sdps.calibration.observe import Step
from sdps.calibration.recipe import Calibrated
from sdps.core.artifact import write_bytes


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


def measure_layers(
    calibrated: Calibrated,
    verifier: Verifier,
    budget: DriftBudget,
    file: Path,
    step: Step = lambda *_: None,
) -> list[Sensitivity]:
    """Measures every layer alone, in the graph's order.

    Args:
        calibrated: The graph.
        verifier: Pictures; a few are enough to rank layers.
        budget: What `excess` is in parts of.
        file: JSON lines of what is measured already; its name must tell graph, set and options.
        step: Told how far it is.
    """
    known = {entry.name: entry for entry in read_lines(file)}
    layers: Sequence[Layer] = calibrated.layers
    # Written anew, as the last line may be the half that an earlier run was killed in.
    write_bytes(file, "".join(f"{json.dumps(asdict(entry))}\n" for entry in known.values()).encode())
    with file.open("a", encoding="utf-8") as stream:
        for done, layer in enumerate(layers):
            if layer.name not in known:
                drift = verifier.measure(calibrated.graph([layer.name]))
                known[layer.name] = Sensitivity(layer.name, layer.macs, drift.noise, budget.excess(drift))
                stream.write(json.dumps(asdict(known[layer.name])) + "\n")
                stream.flush()
            step("Measuring layers alone", done + 1, len(layers))
    return [known[layer.name] for layer in layers]


def read_lines(file: Path) -> list[Sensitivity]:
    """What an earlier run has measured; a line that it was killed in is left out."""
    found = []
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                found.append(Sensitivity(**json.loads(line)))
            except (ValueError, TypeError):
                continue
    return found
