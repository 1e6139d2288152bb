"""The training loop: AdamW, warm-up and cosine, moving average, atomic checkpoints, exact resume.

`python -m sdps.training.loop --out runs/nano --minutes 90` trains the bundled nano on the CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdps.core.artifact import atomic_path, write_json
from sdps.core.frame import Image
from sdps.model import SDPSFNet, SDPSFNetConfig, load_checkpoint, save_checkpoint
from sdps.model.deploy import DeployNet, denormalise, normalise, pad_to_stride
from sdps.training.data import RainyPatches
from sdps.training.evaluate import Score, evaluate, summarise
from sdps.training.losses import StageLoss
from sdps.training.photos import load_split

NANO = SDPSFNetConfig(tau=0, features=8, scale_unet=4, scale_orb=4, cabs=2)


@dataclass(frozen=True)
class Recipe:
    """What a run depends on, beside the network and the photographs.

    Attributes:
        steps: Length of the schedule.
        phases: (share of the schedule at which it begins, side of a patch in pixels, patches per
            step). Larger patches at the end, because the network's global means must learn to rest
            on whole frames (Restormer trains so, too).
        rate, final_rate: Learning rate after warm-up and at the end (cosine between).
        warmup: Steps of linear warm-up.
        edge, frequency, decibels: Weights of the loss terms (losses.py).
        clip: Bound of the gradient norm.
        average: Decay of the moving average of the weights, which is what is kept.
        seed: Of the weights, the patches and the rain.
    """

    steps: int = 10_000
    phases: tuple[tuple[float, int, int], ...] = ((0.0, 96, 8), (0.8, 160, 3))
    rate: float = 2e-3
    final_rate: float = 1e-6
    warmup: int = 300
    edge: float = 0.05
    frequency: float = 0.0
    decibels: float = 0.01
    clip: float = 2.0
    average: float = 0.999
    seed: int = 0

    def learning_rate(self, step: int) -> float:
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.final_rate + 0.5 * (self.rate - self.final_rate) * (1 + math.cos(math.pi * progress))


class Trainer:
    """Trains one network; everything it holds is in `state()`."""

    def __init__(
        self, network: SDPSFNet, photos: Sequence[Image], recipe: Recipe, compiled: bool = False
    ) -> None:
        # Not channels_last: no faster here (CPU), and its backward crashes on maps of one channel.
        self.network, self.recipe = network.train(), recipe
        # Fuses what stands between the convolutions; it takes two minutes, once per patch size.
        self.forward = torch.compile(network) if compiled else network
        self.average = {key: value.detach().clone() for key, value in network.named_parameters()}
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, betas=(0.9, 0.999))
        self.loss = StageLoss(recipe.edge, recipe.frequency, recipe.decibels)
        self.phases = [
            (math.floor(share * recipe.steps), RainyPatches(photos, patch, batch, recipe.seed))
            for share, patch, batch in recipe.phases
        ]
        self.step, self.skipped = 0, 0

    def advance(self) -> float:
        """One step; returns the loss. A loss or gradient that is not finite is skipped and counted."""
        recipe = self.recipe
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate(self.step)
        patches = [patches for begin, patches in self.phases if begin <= self.step][-1]
        rainy, clean = patches.step(self.step)
        outputs = self.forward(normalise(rainy))
        loss: Tensor = self.loss([denormalise(output) for output in outputs], clean)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        self.step += 1
        if not torch.isfinite(loss) or not torch.isfinite(norm):
            self.skipped += 1
            return math.nan
        self.optimiser.step()
        decay = min(recipe.average, self.step / (self.step + 10))
        with torch.no_grad():
            for key, value in self.network.named_parameters():
                self.average[key].lerp_(value, 1 - decay)
        return float(loss.detach())

    def averaged(self) -> SDPSFNet:
        """A network of the averaged weights, in eval mode."""
        network = SDPSFNet(self.network.config)
        names = dict(network.named_parameters())
        with torch.no_grad():
            for key, value in self.average.items():
                names[key].copy_(value)
        return network.eval().requires_grad_(False)

    def state(self) -> dict[str, Any]:
        return {
            "config": asdict(self.network.config),
            "recipe": asdict(self.recipe),
            "network": dict(self.network.named_parameters()),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for key, value in self.network.named_parameters():
                value.copy_(state["network"][key])
                self.average[key].copy_(state["average"][key])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.skipped = state["step"], state["skipped"]


def score(network: SDPSFNet, photos: Sequence[Image], looks: Sequence[str]) -> list[Score]:
    """Scores a network as it will be deployed: 8-bit in, 8-bit out."""
    deploy = DeployNet(network).eval()

    def restore(image: Image) -> Image:
        height, width = image.shape[:2]
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        x = pad_to_stride(x).permute(0, 2, 3, 1).to(torch.uint8)
        with torch.inference_mode():
            return deploy(x)[0, :height, :width].numpy()

    return evaluate(restore, photos, looks)


def train(
    trainer: Trainer, out: Path, minutes: float, held_out: Sequence[Image], every: float = 10.0
) -> None:
    """Trains until the schedule or the time ends; saves and scores every `every` minutes.

    `out/last.pt` holds everything to go on from; `out/last.safetensors` the averaged weights;
    `out/log.jsonl` a line per evaluation.
    """
    from rich.progress import Progress

    last = out / "last.pt"
    if last.is_file():
        trainer.restore(torch.load(last, weights_only=True))
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "recipe.json", {"config": asdict(trainer.network.config), **asdict(trainer.recipe)})
    begin = marked = time.monotonic()
    losses: list[float] = []
    with Progress() as progress:
        task = progress.add_task("training", total=trainer.recipe.steps, completed=trainer.step)
        while trainer.step < trainer.recipe.steps and time.monotonic() - begin < 60 * minutes:
            losses.append(trainer.advance())
            progress.update(task, completed=trainer.step, description=f"loss {losses[-1]:.4f}")
            if time.monotonic() - marked > 60 * every or trainer.step == trainer.recipe.steps:
                marked = time.monotonic()
                with atomic_path(last) as temporary:
                    torch.save(trainer.state(), temporary)
                network = trainer.averaged()
                save_checkpoint(network, out / "last.safetensors", {"step": str(trainer.step)})
                rows = summarise(score(network, held_out, ("heavy", "light")))
                finite = [value for value in losses if math.isfinite(value)]
                entry = {
                    "step": trainer.step,
                    "minutes": round((marked - begin) / 60, 1),
                    "loss": sum(finite) / max(1, len(finite)),
                    "skipped": trainer.skipped,
                    **{row[0]: [round(value, 2) for value in row[1:]] for row in rows},
                }
                losses.clear()
                with (out / "log.jsonl").open("a") as stream:
                    stream.write(json.dumps(entry) + "\n")
                progress.console.print(entry)
    with atomic_path(last) as temporary:
        torch.save(trainer.state(), temporary)
    save_checkpoint(trainer.averaged(), out / "last.safetensors", {"step": str(trainer.step)})


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the bundled nano on photographs with rendered rain.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--rate", type=float, default=Recipe.rate)
    parser.add_argument("--from", dest="start", type=Path, help="checkpoint to begin with")
    parser.add_argument("--compile", action="store_true", help="about 1.4 times as fast; needs a C++ compiler")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(steps=arguments.steps, rate=arguments.rate)
    torch.manual_seed(recipe.seed)
    network = load_checkpoint(arguments.start).requires_grad_() if arguments.start else SDPSFNet(NANO)
    trainer = Trainer(network, load_split("train"), recipe, arguments.compile)
    train(trainer, arguments.out, arguments.minutes, load_split("evaluate", 512)[::2])


if __name__ == "__main__":
    main()
