"""`python -m sdps.benchmarks.int8_drift`: what INT8 costs on the held-out photographs, by how it was made.

On crops of 256x256 of each of the 15 photographs in each kind of rain (one for each seed), none of which
training or calibration has seen, FP32 around INT8: with every layer in INT8, and with the few that read or
make a picture left out. No search: docs/int8.md quotes these tables, and the search begins where they end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from sdps import __version__
from sdps.calibration.drift import Drift, Pair, Verifier
from sdps.calibration.frames import CROP, CROPS, CalibrationSet, build_set
from sdps.calibration.layers import picture_facing
from sdps.calibration.observe import Step
from sdps.calibration.recipe import Calibrated, Options, calibrate
from sdps.core.artifact import sha256_of, write_json
from sdps.core.cache import cache_folder
from sdps.core.console import failing_clearly
from sdps.core.errors import UsageError
from sdps.export.fine_tuned import FineTuned
from sdps.export.module_map import Mapped, map_checkpoint
from sdps.export.screen import progress
from sdps.model import load_checkpoint
from sdps.model.zoo import find_weights
from sdps.training.evaluate import held_out

KINDS = ("heavy", "medium", "light", "drizzle", "foreign")
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Row:
    """One way to INT8 on all pictures; `share` is that of the multiply-accumulates."""

    made: str
    share: float
    drift: Drift

    def to_json(self) -> dict[str, Any]:
        return {"made": self.made, "int8_macs_share": round(self.share, 4), **self.drift.to_json()}


def crops(seed: int) -> list[Pair]:
    """A crop of every held-out photograph in every kind of rain, where its number and the seed put it."""
    pairs = []
    for kind in KINDS:
        for i, (_, rainy, clean) in enumerate(held_out(kind)):
            rng = np.random.default_rng((seed, i))
            top, left = (int(rng.integers(length - CROP + 1)) for length in clean.shape[:2])
            window = np.s_[top : top + CROP, left : left + CROP]
            pairs.append(Pair(np.ascontiguousarray(rainy[window]), np.ascontiguousarray(clean[window]), kind))
    return pairs


def rows_of(made: str, calibrated: Calibrated, mapped: Mapped, verifier: Verifier) -> Iterator[Row]:
    """Every layer that can be INT8, and all but those that read or make a picture."""
    every = [layer for layer in mapped.layers if layer.name in calibrated.quantised]
    facing = picture_facing(mapped.model, mapped.layers)
    choices = [every, [layer for layer in every if layer.name not in facing]]
    for chosen in choices if choices[0] != choices[1] else choices[:1]:
        drift = verifier.measure(calibrated.graph([layer.name for layer in chosen]))
        yield Row(made, sum(layer.macs for layer in chosen) / sum(mapped.macs.values()), drift)


def table(rows: list[Row]) -> str:
    """Markdown, as docs/int8.md has it."""
    lines = [
        f"| made | MACs in INT8 | {' | '.join(KINDS)} | mean | 99 of 100 tiles | worst tile "
        "| worst shift | in one picture |",
        "|---|" + "---:|" * (len(KINDS) + 6),
    ]
    for row in rows:
        drift = row.drift
        losses = [drift.loss_db[kind] for kind in KINDS]
        figures = [f"{value:.3f}" for value in (*losses, float(np.mean(losses)))]
        others = drift.tile_p99_db, drift.tile_db, drift.worst_shift, drift.picture_shift
        figures += [f"{value:.2f}" for value in others]
        lines.append(f"| {row.made} | {row.share:.1%} | {' | '.join(figures)} |")
    return "\n".join(lines)


@app.command()
@failing_clearly
def measure(
    weights: Annotated[str, typer.Argument(help="Checkpoint or name of the FP32 network.")] = "sdps-nano",
    qat: Annotated[
        str, typer.Option(metavar="FILE", help="Of it, a checkpoint of sdps-train --qat as well.")
    ] = "",
    calibrators: Annotated[str, typer.Option(help="Which to calibrate with.")] = "worst-mse,mse,minmax",
    calib: Annotated[str, typer.Option(help="As sdps-export has it.")] = "photos",
    calib_crops: Annotated[int, typer.Option(min=8)] = CROPS,
    bits: Annotated[int, typer.Option(min=7, max=8, help="Of weights that are calibrated.")] = 7,
    seeds: Annotated[
        list[int], typer.Option("--seed", min=0, help="Of the crops' places; several give so many crops.")
    ] = [7],  # noqa: B006
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures there (JSON).")] = None,
) -> None:
    """Measure the drift of INT8 on the held-out photographs."""
    path, tuned = find_weights(weights), find_weights(qat) if qat else None
    # Whatever could be refused is refused before the minutes of work.
    ways = [replace(Options(name), narrow_weights=bits == 7) for name in calibrators.split(",") if name]
    if tuned and not FineTuned.find(tuned):
        raise UsageError(
            f"{qat} was not fine-tuned for INT8.", "Give the best.safetensors of sdps-train --qat."
        )
    if not ways and not tuned:
        raise UsageError("Nothing to measure.", "Name calibrators, or give --qat.")
    with progress(quiet=False) as (bar, task):

        def step(what: str, done: int, steps: int) -> None:
            bar.update(task, description=what, completed=done, total=steps or None)

        mapped = map_checkpoint(load_checkpoint(path), path)
        step("Restoring the held-out pictures", 0, 0)
        verifier = Verifier(mapped.model, [pair for seed in seeds for pair in crops(seed)])
        told = {"sdps": __version__, "weights_sha256": sha256_of(path), "bits": bits, "seeds": seeds}
        rows: list[Row] = []
        if ways:
            chosen = build_set(calib, calib_crops, CROP)
            told["calibration_set_sha256"] = chosen.sha256
            rows += _calibrated(path, mapped, verifier, chosen, ways, step)
        if tuned and (found := FineTuned.find(tuned)):
            told["fine_tuned_sha256"] = sha256_of(tuned)
            other = map_checkpoint(load_checkpoint(tuned), tuned)
            step("Measuring what was fine-tuned", 0, 0)
            rows += rows_of("fine-tuned, 7 bits", found.calibrated(other), other, verifier)
    print(table(rows))
    if out:
        write_json(out, {**told, "rows": [row.to_json() for row in rows]})


def _calibrated(
    path: Path, mapped: Mapped, verifier: Verifier, chosen: CalibrationSet, ways: list[Options], step: Step
) -> Iterator[Row]:
    """Each way on one set; the statistics are taken once."""
    statistics = cache_folder() / "int8" / f"drift-{sha256_of(path)[:12]}-{chosen.sha256[:12]}"
    pictures = [crop.image for crop in chosen.calibrate]
    for options in ways:
        calibrated = calibrate(mapped.model, mapped.layers, pictures, options, statistics, step)
        step(f"Measuring {options.calibrator}", 0, 0)
        made = f"{options.calibrator}, {7 if options.narrow_weights else 8} bits"
        yield from rows_of(made, calibrated, mapped, verifier)


if __name__ == "__main__":
    app()
