"""A Report in a form: tables on the console, Markdown, and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdps.benchmarks.archive import to_json
from sdps.benchmarks.measurement import Report
from sdps.benchmarks.tables import DIFFERENT, TOTAL, grids, network, notes, place, verdicts
from sdps.core.artifact import write_bytes, write_json

if TYPE_CHECKING:
    from rich.console import Console


def show(report: Report, console: Console) -> None:
    """Prints the tables, verdicts and notes."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, markup=False)

    say("")
    console.print(f"[bold]{escape(report.model)}[/]  [dim]{network(report)}[/]", highlight=False)
    for line in place(report):
        say(line, "dim")
    for grid in grids(report):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for i, column in enumerate(grid.columns):
            justify, style = ("right", "") if i else ("left", "cyan")
            # Where the console is narrow, names are wrapped; a number is never cut.
            table.add_column(column, justify=justify, style=style, no_wrap=i > 0)  # type: ignore[arg-type]
        for row in grid.rows:
            table.add_row(*map(escape, row), style="bold" if row[0] == TOTAL else "")
        say(f"\n{grid.heading}", "bold")
        console.print(table)
        say(grid.footnote, "dim")
    say("\nIn words", "bold")
    words = Table.grid(padding=(0, 2))
    for name, sentence in verdicts(report):
        style = "bold red" if DIFFERENT in sentence else "green"
        words.add_row(f"[cyan]{escape(name)}[/]", f"[{style}]{sentence}[/]")
    console.print(words)
    say("\nNotes", "bold")
    remarks = Table.grid(padding=(0, 1))
    for line in notes(report):
        remarks.add_row("-", f"[dim]{escape(line)}[/]")
    console.print(remarks)


def markdown(report: Report) -> str:
    """The same as Markdown."""
    lines = [f"# {report.model}", "", network(report), "", "  \n".join(place(report)), ""]
    for grid in grids(report):
        rule = ["---", *["---:"] * (len(grid.columns) - 1)]
        table = [_row(cells) for cells in (grid.columns, rule, *grid.rows)]
        lines += [f"## {grid.heading}", "", *table, "", grid.footnote, ""]
    lines += ["## In words", "", *(f"- {name}: {sentence}" for name, sentence in verdicts(report)), ""]
    lines += ["## Notes", "", *(f"- {line}" for line in notes(report))]
    return "\n".join(lines) + "\n"


def claim(folder: Path) -> None:
    """Finds out before the work, rather than after it, that a report cannot be written there.

    Raises:
        SdpsError: the folder cannot be made or written to.
    """
    probe = folder / ".sdps-bench"
    write_bytes(probe, b"")
    probe.unlink()


def write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Writes report.json and report.md, each whole or not at all; returns their paths."""
    json_path, markdown_path = folder / "report.json", folder / "report.md"
    write_json(json_path, to_json(report))
    write_bytes(markdown_path, markdown(report).encode())
    return json_path, markdown_path


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
