"""`python -m sdps.benchmarks.training`: a plain training loop against ours, side by side.

The plain one is a step as the authors' train.py takes it: eager PyTorch in FP32 (their autocast names
float32), each loss term by its definition in the normalised space (two FFTs and two Laplacian pyramids
for each output), four `.item()` a step. It is written by us, with our network and our patches, so it
tells what the step itself gains, not the reading of pictures. Ours is `training/trainer.py`. All take
turns step by step, on the same machine, with the same network, patches and optimiser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from sdps.benchmarks.environment import Environment
from sdps.benchmarks.timing import MIN_ROUNDS, Ratio, interleave, summarise, versus
from sdps.core.artifact import write_json
from sdps.core.console import failing_clearly
from sdps.model import SDPSFNet
from sdps.model.deploy import normalise
from sdps.model.presets import network_config
from sdps.training.data import PhotoSource, Source
from sdps.training.losses import EPSILON, EdgeLoss, charbonnier
from sdps.training.photos import load_split
from sdps.training.recipe import PAPER, Recipe
from sdps.training.trainer import Trainer, open_fabric

PLAIN = "plain loop"
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Speed:
    """One contender: its raw samples, and what follows from them."""

    name: str
    samples_ns: tuple[int, ...]
    images_per_second: float
    ratio: Ratio


class PlainLoop:
    """The paper's training step, written down plainly."""

    def __init__(self, network: SDPSFNet, source: Source, recipe: Recipe, device: torch.device) -> None:
        self.network, self.recipe, self.device = network.train().to(device), recipe, device
        _, patch, batch = recipe.phases[0]
        self.patches = source.patches(patch, batch, recipe.seed)
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, betas=(0.9, 0.999))
        self.edge = EdgeLoss().to(device)
        self.step = 0

    def advance(self) -> float:
        """One step; returns the loss."""
        rainy, clean = (part.to(self.device) for part in self.patches.step(self.step))
        self.optimiser.zero_grad()
        outputs, truth = self.network(normalise(rainy)), normalise(clean)
        terms = [
            torch.stack(term).sum() for term in zip(*(self._terms(o, truth) for o in outputs), strict=True)
        ]
        loss = terms[0] + self.recipe.edge * terms[1] + self.recipe.frequency * terms[2]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.step += 1
        for term in terms:
            term.item()
        return float(loss.item())

    def _terms(self, output: Tensor, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        edges = F.mse_loss(self.edge.laplacian(output), self.edge.laplacian(clean), reduction="none")
        spectra = (torch.fft.fft2(output) - torch.fft.fft2(clean)).abs().mean()
        return charbonnier(output, clean), torch.sqrt(edges + EPSILON**2).mean(), spectra


def measure(
    contenders: dict[str, Callable[[], float]], batch: int, rounds: int, budget: float, warmup: int = 2
) -> list[Speed]:
    """Times the steps of each in turn; the first contender is what the others are compared with."""
    samples = interleave(contenders, rounds=rounds, budget_s=budget, warmup=warmup)
    reference = next(iter(samples.values()))
    return [
        Speed(name, values, 1000 * batch / summarise(values).p50_ms, versus(reference, values))
        for name, values in samples.items()
    ]


@app.command()
@failing_clearly
def bench(
    preset: Annotated[str, typer.Option(help="Network.")] = "nano",
    patch: Annotated[int, typer.Option(help="Side of a patch in pixels.")] = 128,
    batch: Annotated[int, typer.Option(help="Patches a step.")] = 2,
    rounds: Annotated[int, typer.Option(min=MIN_ROUNDS, help="Steps of each.")] = 30,
    budget: Annotated[float, typer.Option(help="Seconds for all of them.")] = 300.0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: PyTorch's choice.")] = 0,
    compiled: Annotated[bool, typer.Option("--compile", help="Ours with torch.compile as well.")] = False,
    precision: Annotated[
        str, typer.Option(metavar="fp32|bf16|fp16", help="Of ours; several with commas.")
    ] = "fp32",
    workers: Annotated[int, typer.Option(min=0, help="Of ours.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the raw samples there.")] = None,
) -> None:
    """Time training steps of a plain loop and of ours, in turns."""
    if threads:
        torch.set_num_threads(threads)
    recipe = replace(PAPER, phases=((0.0, patch, batch),))
    source = PhotoSource(load_split("train", 480), "gcompris photographs")
    fabrics = {name: open_fabric("auto", name) for name in precision.split(",")}
    device = next(iter(fabrics.values())).device

    def fresh() -> SDPSFNet:
        torch.manual_seed(recipe.seed)
        return SDPSFNet(network_config(preset))

    plain = PlainLoop(fresh(), source, recipe, device)
    contenders: dict[str, Callable[[], float]] = {PLAIN: plain.advance}
    for arithmetic, fabric in fabrics.items():
        for use in (False, True) if compiled else (False,):
            name = f"sdps-train, {arithmetic}{', compiled' if use else ''}"
            contenders[name] = Trainer(fresh(), source, recipe, fabric, use, workers).advance
    speeds = measure(contenders, batch, rounds, budget)
    _show(preset, patch, batch, speeds)
    if out:
        write_json(out, _report(preset, patch, batch, speeds))


def _show(preset: str, patch: int, batch: int, speeds: list[Speed]) -> None:
    from rich.console import Console
    from rich.table import Table

    count = len(speeds[0].samples_ns)
    table = Table(title=f"Training {preset}, patches of {patch}, batch {batch}: {count} steps each")
    for column in ("loop", "images/s", "times as fast", "95 % interval"):
        table.add_column(column, justify="left" if column == "loop" else "right")
    for speed in speeds:
        ratio = speed.ratio
        interval = f"{ratio.low:.2f} to {ratio.high:.2f}"
        table.add_row(speed.name, f"{speed.images_per_second:.2f}", f"{ratio.median:.2f}", interval)
    Console().print(table)


def _report(preset: str, patch: int, batch: int, speeds: list[Speed]) -> dict[str, Any]:
    return {
        "preset": preset,
        "patch": patch,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "environment": asdict(Environment.capture()),
        "contenders": [asdict(speed) for speed in speeds],
    }


if __name__ == "__main__":
    app()
