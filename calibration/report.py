"""What the search found, for people and for tools: JSON, a Markdown table, and a plot."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdps.calibration.budget import Point
from sdps.calibration.drift import DriftBudget
from sdps.calibration.sensitivity import Sensitivity
from sdps.core.artifact import atomic_path, write_bytes, write_json
from sdps.core.console import need
from sdps.core.errors import SdpsError

FILES = ("report.json", "report.md", "pareto.png")


@dataclass(frozen=True)
class Int8Report:
    """One calibration from set to choice.

    Attributes:
        name: The graph's name.
        budget: What was asked for.
        points: All choices that were measured.
        chosen: The one that was taken.
        sensitivities: Of each layer alone; empty where there was nothing to search.
        weights: Names of the layers' weights, which say more than tensors' names.
        calibration_set: The set's manifest.
        settings: How was calibrated.
        notes: What else is worth knowing.
        reasons: Why a layer is kept that was not measured alone, by its name.
    """

    name: str
    budget: DriftBudget
    points: Sequence[Point]
    chosen: Point
    sensitivities: Sequence[Sensitivity]
    weights: dict[str, str]
    calibration_set: dict[str, Any]
    settings: dict[str, Any]
    notes: Sequence[str] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    def kept(self) -> list[dict[str, Any]]:
        """The layers outside INT8, costliest first, with why."""
        known = {entry.name: entry for entry in self.sensitivities}
        rows: list[dict[str, Any]] = []
        for name in self.chosen.kept:
            why = self.reasons.get(name, "")
            row: dict[str, Any] = {"layer": self.weights[name], "noise_alone": None, "why": why}
            if entry := known.get(name):
                row["noise_alone"] = round(entry.noise, 5)
                row["why"] = (
                    f"alone it changes the result by {entry.noise:.4f} squared levels and uses up "
                    f"{entry.excess:.0%} of the budget"
                )
            rows.append(row)
        return sorted(rows, key=lambda row: (-(row["noise_alone"] or 0.0), row["layer"]))

    def summary(self) -> str:
        """One line for the terminal."""
        kept = (
            f"{len(self.chosen.kept)} layers are kept in floating point"
            if self.chosen.kept
            else "no layer is kept"
        )
        drift = self.budget.explain(self.chosen.drift)
        return f"{self.chosen.share:.1%} of the multiply-accumulates are INT8, {kept}: {drift}"

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "name": self.name,
            "budget": vars(self.budget),
            "settings": self.settings,
            "notes": list(self.notes),
            "chosen": self.chosen.to_json(),
            "kept": self.kept(),
            "pareto": [point.to_json() for point in pareto(self.points, self.chosen)],
            "points": [point.to_json() for point in self.points],
            "sensitivity": [
                {**vars(entry), "weight": self.weights[entry.name]} for entry in self.sensitivities
            ],
            "calibration_set": self.calibration_set,
        }

    def to_markdown(self) -> str:
        """The Pareto table, the choice and the layers kept."""
        lines = [f"# INT8 of {self.name}", "", self.budget.explain(self.chosen.drift) + ".", ""]
        lines += [
            "| MACs in INT8 | layers kept | loss, dB | worst tile, dB | colour shift, levels "
            "| worst picture's | to FP32, dB | worst tile's | budget used | |",
            "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
        ]
        for point in pareto(self.points, self.chosen):
            drift = point.drift
            lost = f"{drift.worst_loss:.3f} | {drift.tile_db:.2f}" if drift.loss_db else "- | -"  # no truth
            lines.append(
                f"| {point.share:.2%} | {len(point.kept)} | {lost} | "
                f"{drift.worst_shift:.3f} | {drift.picture_shift:.3f} | {drift.psnr_db:.1f} | "
                f"{drift.tile_psnr_db:.1f} | {point.used:.0%} | "
                f"{'chosen' if point is self.chosen else ''} |"
            )
        shown = "shown are those that no other beats, and the chosen one"
        lines += ["", f"{len(self.points)} choices were measured; {shown}.", ""]
        if self.chosen.kept:
            lines += ["## Kept in floating point", ""]
            lines += [*(f"- `{row['layer']}`: {row['why']}." for row in self.kept()), ""]
        if self.notes:
            lines += ["## Notes", "", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """`FILES` in a folder; returns their paths."""
        paths = [folder / name for name in FILES]
        write_json(paths[0], self.to_json())
        write_bytes(paths[1], self.to_markdown().encode("utf-8", "backslashreplace"))
        with atomic_path(paths[2]) as temporary:
            plot(self, temporary)
        return paths


@contextmanager
def report_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder`; its files go there if the body succeeds.

    A report that cannot be written is found out before the body and its minutes of work; if the body
    raises, `folder` stays as it was. One process at a time works on a report: its graph is locked.

    Raises:
        MissingDependency: matplotlib is not installed.
        SdpsError: a file is in the way, or the folder cannot be made or written to.
    """
    need("matplotlib", "int8")
    for place in (folder, *(folder / name for name in FILES)):
        if place.exists() and place.is_dir() != (place == folder):
            raise SdpsError(
                f"{place} is in the way of the report.", "Move it away, or choose another --out or --name."
            )
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise SdpsError(f"The folder {folder} is not writable.", "Choose another output folder.")
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        yield made
        with _writing(folder):
            folder.mkdir(exist_ok=True)
            for path in made.iterdir():
                path.replace(folder / path.name)
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SdpsError(
            f"The report cannot be written to {folder}: {error.strerror}.",
            "Is there room, and may this user write there?",
        ) from error


def pareto(points: Sequence[Point], chosen: Point | None = None) -> list[Point]:
    """The points that no other beats in both share and budget used, by share; and the chosen one."""
    best = [
        p
        for p in points
        if p is chosen
        or not any(
            (o.share >= p.share and o.used <= p.used) and (o.share > p.share or o.used < p.used)
            for o in points
        )
    ]
    return sorted(best, key=lambda p: p.share)


def plot(report: Int8Report, target: Path) -> None:
    """Share of multiply-accumulates in INT8 against the part of the budget used, as a PNG."""
    need("matplotlib", "int8")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # no display, and no state shared with whoever else plots
    axes = figure.add_subplot()
    front = pareto(report.points)  # without the chosen one, which has a mark of its own
    axes.axhspan(0, 1, color="tab:green", alpha=0.08)
    axes.axhline(1, color="tab:green", linewidth=1)
    axes.plot(
        [100 * p.share for p in report.points],
        [p.used for p in report.points],
        "o",
        color="0.7",
        label="measured",
    )
    axes.plot(
        [100 * p.share for p in front], [p.used for p in front], "o-", color="tab:blue", label="Pareto front"
    )
    axes.plot(
        100 * report.chosen.share, report.chosen.used, "*", color="tab:red", markersize=16, label="chosen"
    )
    axes.set_xlabel("multiply-accumulates in INT8, %")
    axes.set_ylabel("part of the drift budget used (1 = all)")
    axes.set_ylim(bottom=0)
    axes.set_title(report.name)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target)
