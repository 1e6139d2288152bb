"""What `sdps-eval` found: a table, a CSV of every picture, and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdps.core.artifact import write_bytes
from sdps.training.protocol import Mean, PictureScore

PROTOCOL = {
    "paper": "the paper's: tiles of 128 by 64 pixels, truncated to 8 bits",
    "frame": "whole pictures, rounded to 8 bits, as sdps-run restores what it does not tile",
}
CONVENTION = {
    "rgb": "RGB; SSIM with a 7x7 uniform window",
    "y": "Y of BT.601, 8 bits; SSIM with an 11x11 Gaussian window",
}


def show(model: str, found: Mapping[str, Sequence[Mean]], partial: str = "") -> None:
    """Prints the means of each set, and what the columns mean; `partial`: what they are of, if not of all."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    meant = _protocols(found)
    used = {row.protocol: meant[row.protocol] for rows in found.values() for row in rows}
    only = f" (partial: {partial})" if partial else ""
    table = Table(title=f"{printable(model)}: PSNR in dB | SSIM{only}")
    for column in ("set", "pictures", "protocol", "on", "rainy", "derained", "gain", "worst gain"):
        table.add_column(column, justify="left" if column in ("set", "protocol", "on") else "right")
    for name, rows in found.items():
        for row in rows:
            before, after = (f"{_db(q.psnr)} | {q.ssim:.4f}" for q in (row.before, row.after))
            label, gains = row.convention.upper(), (_db(row.gain, "+.2f"), _db(row.worst_gain, "+.2f"))
            shown = (printable(name), str(row.pictures), row.protocol, label, before, after, *gains)
            table.add_row(*shown)
        table.add_section()
    console.print(table)
    for line in _equal(found):
        console.print(line, highlight=False, markup=False)
    for label, meaning in (used | {key.upper(): text for key, text in CONVENTION.items()}).items():
        console.print(f"{label}: {meaning}", highlight=False)


def _db(value: float, form: str = ".2f") -> str:
    """A dash for what is not finite: the PSNR of equal pictures, and a gain over it."""
    return format(value, form) if math.isfinite(value) else "-"


def _equal(found: Mapping[str, Sequence[Mean]]) -> Iterator[str]:
    """A line for each mean that leaves some, not all, pictures out because their PSNR is infinite."""
    for name, rows in found.items():
        for row in rows:
            counts = (("rainy", row.equal_before), ("derained", row.equal_after))
            some = [f"{count} equal {what}" for what, count in counts if 0 < count < row.pictures]
            if some:
                where = f"{printable(name)}, {row.protocol}, {row.convention.upper()}"
                yield f"{where}: the mean PSNR is without {' and '.join(some)} (infinite)"


def _protocols(found: Mapping[str, Sequence[Mean]]) -> dict[str, str]:
    """PROTOCOL, and in it how many pictures 'frame' could not take whole."""
    rows = [row for of_set in found.values() for row in of_set if row.protocol == "frame"]
    rows = [row for row in rows if row.convention == next(iter(CONVENTION))]
    tiled, count = sum(row.tiled for row in rows), sum(row.pictures for row in rows)
    if not tiled:
        return PROTOCOL
    cut = f"not whole but in tiles: {tiled} of {count} pictures, larger than the graph takes"
    return PROTOCOL | {"frame": f"{PROTOCOL['frame']}; {cut}"}


def printable(text: str) -> str:
    """File names need not be UTF-8; what is not is shown as `\\udcNN`."""
    return text.encode(errors="backslashreplace").decode()


def to_json(
    model: str, found: Mapping[str, Sequence[Mean]], unread: Sequence[str] = (), partial: str = ""
) -> str:
    """The means as JSON; null stands for what is not finite, `unread` names what could not be read, and
    `partial` says what the means are of, if not of all."""
    return json.dumps(_as_json(model, found, unread, partial), indent=2)


def write_means(
    path: Path,
    model: str,
    found: Mapping[str, Sequence[Mean]],
    unread: Sequence[str] = (),
    partial: str = "",
) -> None:
    """Writes `to_json` to a file."""
    write_bytes(path, (to_json(model, found, unread, partial) + "\n").encode())


def write_csv(path: Path, scores: Mapping[str, Sequence[PictureScore]]) -> None:
    """Writes one line per picture and protocol, both conventions in it; six decimals; UTF-8."""
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
    write_bytes(path, printable(text.getvalue()).encode())


def _as_json(
    model: str, found: Mapping[str, Sequence[Mean]], unread: Sequence[str], partial: str
) -> dict[str, Any]:
    named: dict[str, Any] = {"partial": partial} if partial else {}
    if unread:
        named["unread"] = list(unread)
    return named | {
        "model": model,
        "protocols": _protocols(found),
        "conventions": CONVENTION,
        "sets": {name: [row.to_json() for row in rows] for name, rows in found.items()},
    }
