"""What `sdps-eval` found: a table, a CSV of every picture, and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdps.core.artifact import write_bytes
from sdps.training.protocol import Mean, PictureScore

PROTOCOL = {
    "paper": "the paper's: tiles of 128 by 64 pixels, truncated to 8 bits",
    "frame": "whole pictures, rounded to 8 bits, as sdps-run restores them",
}
CONVENTION = {
    "rgb": "RGB; SSIM with a 7x7 uniform window",
    "y": "Y of BT.601, 8 bits; SSIM with an 11x11 Gaussian window",
}


def show(model: str, found: Mapping[str, Sequence[Mean]]) -> None:
    """Prints the means of each set, and what the columns mean."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    used = {row.protocol: PROTOCOL[row.protocol] for rows in found.values() for row in rows}
    table = Table(title=f"{model}: PSNR in dB | SSIM")
    for column in ("set", "pictures", "protocol", "on", "rainy", "derained", "gain", "worst gain"):
        table.add_column(column, justify="left" if column in ("set", "protocol", "on") else "right")
    for name, rows in found.items():
        for row in rows:
            before, after = (f"{_db(q.psnr)} | {q.ssim:.4f}" for q in (row.before, row.after))
            gain, label = row.after.psnr - row.before.psnr, row.convention.upper()
            gains = (_db(gain, "+.2f"), _db(row.worst_gain, "+.2f"))
            table.add_row(name, str(row.pictures), row.protocol, label, before, after, *gains)
        table.add_section()
    console.print(table)
    for label, meaning in (used | {key.upper(): text for key, text in CONVENTION.items()}).items():
        console.print(f"{label}: {meaning}", highlight=False)


def _db(value: float, form: str = ".2f") -> str:
    """A dash for what is not finite: the PSNR of equal pictures, and a gain over it."""
    return format(value, form) if math.isfinite(value) else "-"


def to_json(model: str, found: Mapping[str, Sequence[Mean]]) -> str:
    """The means as JSON; null stands for what is not finite."""
    return json.dumps(_as_json(model, found), indent=2)


def write_means(path: Path, model: str, found: Mapping[str, Sequence[Mean]]) -> None:
    """Writes `to_json` to a file."""
    write_bytes(path, (to_json(model, found) + "\n").encode())


def write_csv(path: Path, scores: Mapping[str, Sequence[PictureScore]]) -> None:
    """Writes one line per picture and protocol, both conventions in it; six decimals."""
    columns = [
        f"{what}_{convention}_{side}"
        for convention in CONVENTION
        for side in ("rainy", "derained")
        for what in ("psnr", "ssim")
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "picture", "protocol", "height", "width", *columns])
    for name, rows in scores.items():
        lines: dict[tuple[str, str], list[Any]] = {}
        for row in rows:
            line = lines.setdefault(
                (row.picture, row.protocol), [name, row.picture, row.protocol, row.height, row.width]
            )
            values = (row.before.psnr, row.before.ssim, row.after.psnr, row.after.ssim)
            line += [f"{value:.6f}" for value in values]
        writer.writerows(lines.values())
    write_bytes(path, text.getvalue().encode())


def _as_json(model: str, found: Mapping[str, Sequence[Mean]]) -> dict[str, Any]:
    return {
        "model": model,
        "protocols": PROTOCOL,
        "conventions": CONVENTION,
        "sets": {name: [row.to_json() for row in rows] for name, rows in found.items()},
    }
