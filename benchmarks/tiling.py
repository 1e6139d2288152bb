"""What tiles cost in PSNR: `python -m sdps.benchmarks.tiling`.

The network takes means over all that it sees, so a tile of a picture is restored with other means than
the whole picture. Measured on the held-out photographs with synthetic rain, against the clean photograph
and against the whole picture's result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sdps.benchmarks.environment import Environment
from sdps.core.artifact import write_json
from sdps.core.console import failing_clearly
from sdps.core.metrics import psnr
from sdps.runtime.backends import open_backend
from sdps.runtime.context import FrameContext
from sdps.runtime.tiling import restore

LOOKS = ("heavy", "medium", "light", "drizzle")
WHOLE = "whole"


@dataclass(frozen=True)
class Way:
    """How a picture is cut, as for sdps-run: --tile, --overlap, --context."""

    tile: int
    overlap: int | None = None
    context: str = "tile"


WAYS = {
    "tile 128, overlap 64, uniform (the paper's)": Way(128, 64),
    "tile 128": Way(128),
    "tile 128, frame context": Way(128, context="frame"),
    "tile 256": Way(256),
    "tile 256, frame context": Way(256, context="frame"),
    "tile 512": Way(512),
    "tile 512, frame context": Way(512, context="frame"),
}
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Row:
    """One way on one rainy picture: PSNR in dB on RGB against the photograph and the whole's result."""

    look: str
    picture: int
    way: str
    truth_db: float
    whole_db: float | None


@app.command()
@failing_clearly
def main(
    model: Annotated[str, typer.Option(help="As for sdps-run.")] = "sdps-nano",
    provider: Annotated[str, typer.Option(help="As for sdps-run.")] = "auto",
    photos: Annotated[int, typer.Option(min=1, help="How many of the 15.")] = 15,
    longest: Annotated[int, typer.Option(min=256, help="Their longer side.")] = 960,
    threads: Annotated[int, typer.Option(min=0, help="0 leaves it to the engine.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write every figure to this JSON file.")] = None,
) -> None:
    """PSNR of tiles of several sizes and contexts against the whole picture."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from sdps.training.evaluate import rainy_pairs
    from sdps.training.photos import load_split

    environment = Environment.capture()
    backend = open_backend(model, provider, threads)
    originals = load_split("evaluate", longest)[:photos]
    pairs = [(look, pair) for look in LOOKS for pair in enumerate(rainy_pairs(originals, look))]
    ways = {name: way for name, way in WAYS.items() if way.context == "tile" or backend.manifest.tile_means}
    if len(ways) < len(WAYS):
        typer.echo("No frame context: the model is not of sdps-export --tile-means.", err=True)
    rows: list[Row] = []
    for look, (number, (rainy, clean)) in track(pairs, console=Console(stderr=True)):
        whole = restore(backend, rainy)
        rows.append(Row(look, number, WHOLE, psnr(whole, clean), None))
        for name, way in ways.items():
            context = FrameContext() if way.context == "frame" else None
            tiled = restore(backend, rainy, way.tile, way.overlap, context)
            rows.append(Row(look, number, name, psnr(tiled, clean), psnr(tiled, whole)))
    backend.close()
    table = Table("way", *LOOKS, "all", "worst", "like the whole", title=f"{backend.name}, dB")
    truth = {(row.look, row.picture, row.way): row.truth_db for row in rows}
    for name in (WHOLE, *ways):
        lost = {
            (look, number): truth[look, number, name] - truth[look, number, WHOLE]
            for look, number, other in truth
            if other == name
        }
        means = [float(np.mean([v for key, v in lost.items() if key[0] == look])) for look in LOOKS]
        alike = [row.whole_db for row in rows if row.way == name and row.whole_db is not None]
        table.add_row(
            name,
            *(f"{mean:+.2f}" for mean in means),
            f"{np.mean(list(lost.values())):+.2f}",
            f"{min(lost.values()):+.2f}",
            f"{np.median(alike):.1f}" if alike else "",
        )
    Console().print(table)
    if out:
        write_json(out, {"environment": asdict(environment), "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    app()
