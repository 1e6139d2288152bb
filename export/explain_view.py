"""`--explain`: what each exact rewrite did, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sdps.export.graph_cost import GraphCost
from sdps.export.rewrite import Step


def show_steps(steps: Sequence[Step], size: str, console: Console) -> None:
    """Prints one line for each rewrite, the plain graph above and the rewritten one below."""
    where = "256x256" if size == "dynamic" else size
    table = Table(title=f"Exact rewrites, one picture of {where}", caption=CAPTION, caption_justify="left")
    table.add_column("rewrite", no_wrap=True)
    for heading in ("places", "nodes", "GMACs", "weights MB", "written MB", "alive MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("(as traced)", "", *_figures(steps[0].before))
    for step in steps:
        table.add_row(step.name, str(step.places), *_change(step.before, step.after))
    table.add_section()
    table.add_row("(rewritten)", "", *_figures(steps[-1].after))
    console.print(table)
    for step in steps:
        console.print(f"[bold]{step.name}[/]: {step.purpose}", highlight=False)
    if any(cost.macs is None for step in steps for cost in (step.before, step.after)):
        console.print(
            "-: cannot be told, as the graph computes shapes that ONNX does not infer.", highlight=False
        )


CAPTION = (
    "written: activations that the nodes write in all; alive: most at once, in the file's order.\n"
    "MB are 1e6 bytes. Engines fuse and reuse on top of this; docs/export.md has measured times."
)


def _figures(cost: GraphCost) -> list[str]:
    parts = (cost.macs, 1e9), (cost.weight_bytes, 1e6), (cost.moved_bytes, 1e6), (cost.peak_bytes, 1e6)
    return [f"{cost.nodes}", *("-" if value is None else f"{value / unit:,.2f}" for value, unit in parts)]


def _change(before: GraphCost, after: GraphCost) -> list[str]:
    """Before -> after where it changed."""
    pairs = zip(_figures(before), _figures(after), strict=True)
    return [f"{old} → {new}" if old != new else new for old, new in pairs]
