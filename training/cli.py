"""`sdps-train`: weights from pairs of pictures, or from photographs that it rains on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sdps.core.command import Command, new_app
from sdps.core.console import failing_clearly
from sdps.core.errors import UsageError
from sdps.training import options as o

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from sdps.model import SDPSFNet
    from sdps.training.data import Source
    from sdps.training.loop import Ending
    from sdps.training.recipe import Recipe
    from sdps.training.run_folder import RunFolder

Say = Callable[[str], None]

app = new_app()

BUNDLED = ("nano", "small")


@app.command(cls=Command)
@failing_clearly
def train(
    data: o.Data = None,
    photos: o.Photos = None,
    out: o.Out = None,
    preset: o.Preset = None,
    start: o.From = None,
    qat: o.Qat = None,
    int8_share: o.Int8Share = None,
    teacher: o.Teacher = None,
    teacher_share: o.TeacherShare = None,
    epochs: o.Epochs = None,
    steps: o.Steps = None,
    budget: o.Budget = None,
    patch: o.Patch = None,
    batch: o.Batch = None,
    rate: o.Rate = None,
    average: o.Average = None,
    seed: o.Seed = 0,
    every: o.Every = 10.0,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    compiled: o.Compile = False,
    workers: o.Workers = None,
    threads: o.Threads = 0,
    version: o.Version = False,
) -> None:
    """Train SD-PSFNet. The defaults are the paper's recipe.

    A run that was stopped or killed goes on to the very same weights when the same command is given again.
    """
    if patch is not None and patch % 4:
        raise UsageError(f"--patch {patch} is no multiple of 4.", f"Use {patch // 4 * 4}.")
    if sum(value is not None for value in (epochs, steps)) == 2:
        raise UsageError("--epochs and --steps both give the length.", "Give one of them.")
    if qat is not None:
        _check_qat(preset, start, teacher, precision)
    elif int8_share is not None:
        raise UsageError("--int8-share is of --qat only.", "Give --qat WEIGHTS, or leave it out.")
    if teacher is None and teacher_share is not None:
        raise UsageError("--teacher-share is of --teacher only.", "Give --teacher WEIGHTS, or leave it out.")
    minutes = parse_minutes(budget) if budget else float("inf")
    given, preset = preset, preset or ("qat" if qat else "paper")
    from sdps.core.console import need

    torch = need("torch", "train")
    need("lightning_fabric", "train")
    if threads:
        torch.set_num_threads(threads)
    from sdps.core.machine import cpu
    from sdps.training.loop import train as run
    from sdps.training.pictures import choose
    from sdps.training.run_folder import RunFolder
    from sdps.training.trainer import Trainer, open_fabric

    recipe = _recipe(preset, patch, batch, rate, average, seed, int8_share)
    if teacher is not None:
        recipe = replace(recipe, taught=0.5 if teacher_share is None else teacher_share)
    fabric = open_fabric(device, precision)
    say = (lambda text: typer.echo(text, err=True)) if fabric.is_global_zero else (lambda text: None)
    # For INT8 patches stay as they were photographed: what INT8 then costs is less (docs/int8.md).
    largest = max(size for _, size, _ in recipe.phases)
    source, validate = choose(data, photos, largest, say, varied=not qat)
    recipe = _long(recipe, preset, epochs, steps, source.count)
    torch.manual_seed(recipe.seed)
    original = None
    if qat:
        from sdps.model.zoo import find_weights
        from sdps.training.qat import load_original

        weights = find_weights(qat)
        preset, original = f"{weights.stem}-qat", load_original(weights)
    begun = {"precision": precision}
    if not qat:
        begun |= {"from": _content(start, "random weights"), "teacher": _content(teacher, "none")}
    folder = RunFolder(out or Path("runs") / preset, source, original, begun)
    # Before what takes minutes: another process there, or a folder that cannot be written to, is found out.
    with folder.alone(fabric.is_global_zero):
        if original:
            network = _rounded(original, weights, folder, source, recipe, fabric, say)
        else:
            network = _network(given, start)
        if workers is None:
            workers = 0 if fabric.device.type == "cpu" else min(8, (torch.get_num_threads() + 1) // 2)
        taught_by = original or (_network(None, teacher) if teacher else None)
        trainer = Trainer(network, source, recipe, fabric, compiled, workers, taught_by)
        say(f"{source.count} pictures ({source.name}), {preset}, {recipe.steps} steps, into {folder.path}")
        begins = not qat and not (folder.path / "last.pt").exists()
        if begins and precision == "fp32" and fabric.device.type == "cpu" and "amx_bf16" in cpu().features:
            say("This processor multiplies BF16 itself (AMX): --precision bf16 may train faster.")
        ending = run(trainer, folder, validate, every, minutes)
    _tell(ending, folder, say)
    if ending.signal:
        raise typer.Exit(128 + ending.signal)


def _tell(ending: Ending, folder: RunFolder, say: Say) -> None:
    """How the run ended, in a line or two."""
    skipped = f", {ending.skipped} of them skipped as not finite" if ending.skipped else ""
    scored = ending.best > float("-inf")
    best = f"best {ending.best:.2f} dB" if scored else "no validation"
    if ending.finished and not ending.here:
        say(
            f"The run in {folder.path} is finished already, or its budget spent: {ending.step} steps, "
            f"{best}; nothing was trained."
        )
        return
    say(f"{ending.step} steps{skipped}, {ending.images_per_second:.1f} images/s, {best}")
    if ending.signal:
        say(f"Stopped and saved; the same command goes on from step {ending.step}.")
        return
    written = ("best.safetensors and last" if scored else "last") + ".safetensors"
    say(f"wrote {folder.path}/{written}")


def _check_qat(preset: str | None, start: str | None, teacher: str | None, precision: str) -> None:
    if preset is not None or start is not None:
        raise UsageError("--qat brings its own network and weights.", "Leave --preset and --from out.")
    if teacher is not None:
        raise UsageError("What --qat learns from is what it began with.", "Leave --teacher out.")
    if precision != "fp32":
        raise UsageError(
            f"--qat trains in FP32: the levels of INT8 do not fit into {precision}.", "Leave --precision out."
        )


def parse_minutes(text: str) -> float:
    """'45m', '2h', '1h30m', '90s' or '1h30m10s' in minutes.

    Raises:
        UsageError: it is none of them.
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 60 * hours + minutes + seconds / 60
    if total <= 0:
        raise UsageError(f"{text!r} is no time.", "Write for example 45m or 1h30m.")
    return total


def _recipe(
    preset: str,
    patch: int | None,
    batch: int | None,
    rate: float | None,
    average: float | None,
    seed: int,
    int8_share: float | None,
) -> Recipe:
    from sdps.model.presets import network_config
    from sdps.training import recipe as recipes

    if preset == "qat":
        recipe = recipes.QAT
    else:
        network_config(preset)
        recipe = recipes.BUNDLED if preset in BUNDLED else recipes.PAPER
    recipe = replace(recipe.resized(patch, batch), seed=seed)
    if preset == "small":
        recipe = replace(recipe, rate=1.5e-3)
    if int8_share is not None:
        recipe = replace(recipe, int8_share=int8_share)
    if rate is not None:
        recipe = replace(recipe, rate=rate, final_rate=min(rate, recipe.final_rate))
    return recipe if average is None else replace(recipe, average=average)


def _long(recipe: Recipe, preset: str, epochs: int | None, steps: int | None, pictures: int) -> Recipe:
    """With its length; a warm-up is at most a tenth of it."""
    from sdps.training.recipe import PAPER_EPOCHS, in_epochs

    if preset not in (*BUNDLED, "qat") or epochs is not None:
        recipe = in_epochs(recipe, epochs or PAPER_EPOCHS, pictures)
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    return replace(recipe, warmup=min(recipe.warmup, max(1, recipe.steps // 10)))


def _content(weights: str | None, none: str) -> str:
    """What --from or --teacher names, by content: a run goes on with nothing else."""
    from sdps.core.artifact import sha256_of
    from sdps.model.zoo import find_weights

    return none if weights is None else f"sha256:{sha256_of(find_weights(weights))}"


def _rounded(
    original: SDPSFNet,
    weights: Path,
    folder: RunFolder,
    source: Source,
    recipe: Recipe,
    fabric: Fabric,
    say: Say,
) -> SDPSFNet:
    """The network of --qat, which rounds as INT8 does: the layers that the run began with, or chosen now."""
    from sdps.export.screen import progress
    from sdps.training.qat import begin

    known = folder.rounded()
    say(f"Tracing {weights}" if known else f"Tracing and calibrating {weights}")
    with progress(quiet=not fabric.is_global_zero) as (bar, task):

        def step(what: str, done: int, steps: int) -> None:
            bar.update(task, description=what, completed=done, total=steps or None)

        return begin(original, weights, source, recipe, known, fabric, step)


def _network(preset: str | None, start: str | None) -> SDPSFNet:
    from sdps.model import SDPSFNet, load_checkpoint
    from sdps.model.growth import grow
    from sdps.model.presets import network_config
    from sdps.model.zoo import find_weights

    if start is None:
        return SDPSFNet(network_config(preset or "paper"))
    network = load_checkpoint(find_weights(start))
    return (grow(network, network_config(preset)) if preset else network).requires_grad_()


def main() -> None:
    """Console entry."""
    app()


if __name__ == "__main__":  # for torchrun -m
    main()
