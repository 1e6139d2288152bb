"""Are the previous frame's means as good as the frame's own? `python -m sdps.benchmarks.tiling_video`.

`--context frame` gives the tiles of a video the means of the frame before, which saves a pass. Measured on
clips out of held-out photographs: the camera pans by four pixels a frame, the rain falls on, and one clip
follows another without warning, so that the change of scene is in the figures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sdps.benchmarks.environment import Environment
from sdps.benchmarks.tiling import LOOKS
from sdps.core.artifact import write_json
from sdps.core.console import failing_clearly
from sdps.core.frame import Image
from sdps.core.metrics import psnr
from sdps.runtime.backends import open_backend
from sdps.runtime.context import FrameContext
from sdps.runtime.tiling import restore

PAN = 4
"""Pixels per frame, down and right."""
SIZE = (384, 512)
app = typer.Typer(add_completion=False)


@app.command()
@failing_clearly
def main(
    model: Annotated[str, typer.Option(help="Of sdps-export --tile-means.")],
    provider: Annotated[str, typer.Option(help="As for sdps-run.")] = "auto",
    tile: Annotated[int, typer.Option(min=64, help="Side of the tiles.")] = 128,
    clips: Annotated[int, typer.Option(min=1, max=15, help="Each of another photograph.")] = 6,
    frames: Annotated[int, typer.Option(min=2, help="Frames in a clip.")] = 6,
    threads: Annotated[int, typer.Option(min=0, help="0 leaves it to the engine.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write every figure to this JSON file.")] = None,
) -> None:
    """PSNR of tiles of a video against the whole frame: own means, two passes, and the frame before's."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from sdps.training.photos import load_split

    environment = Environment.capture()
    backend = open_backend(model, provider, threads)
    ways = {
        "its own": None,
        "its frame, two passes": FrameContext(),
        "the frame before": FrameContext(video=True),
    }
    photos = load_split("evaluate", 768)[:clips]
    shots = [shot for number, photo in enumerate(photos) for shot in clip(photo, number, frames)]
    lost: dict[str, list[float]] = defaultdict(list)
    alike: dict[str, list[float]] = defaultdict(list)
    for rainy, clean in track(shots, console=Console(stderr=True)):
        whole = restore(backend, rainy)
        for name, context in ways.items():
            tiled = restore(backend, rainy, tile, None, context)
            lost[name].append(psnr(tiled, clean) - psnr(whole, clean))
            alike[name].append(psnr(tiled, whole))
    backend.close()
    table = Table("means of", "all", "worst", "like the whole", title=f"tile {tile}, {backend.name}, dB")
    for name, values in lost.items():
        table.add_row(name, f"{np.mean(values):+.2f}", f"{min(values):+.2f}", f"{np.median(alike[name]):.1f}")
    Console().print(table)
    if out:
        write_json(out, {"environment": asdict(environment), "lost_db": lost, "like_the_whole_db": alike})


def clip(photo: Image, number: int, frames: int) -> Iterator[tuple[Image, Image]]:
    """A photograph as a film, with rain and without: (h, w, 3) uint8 each, at most SIZE."""
    import torch

    from sdps.training.rain import RainField, render, sample_rain

    seed = 2_000_000 + number  # far from the training seeds
    rain = sample_rain(np.random.default_rng(seed), LOOKS[number % len(LOOKS)])
    height, width = (min(most, side - PAN * frames) for most, side in zip(SIZE, photo.shape[:2], strict=True))
    field = RainField(rain, height, width, seed)
    for index in range(frames):
        at = PAN * index
        clean = np.ascontiguousarray(photo[at : at + height, at : at + width])
        scene = torch.from_numpy(clean).permute(2, 0, 1).float() / 255
        rainy = render(scene, field, float(index), (-float(at), -float(at)))
        yield (rainy * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(), clean


if __name__ == "__main__":
    app()
