"""One training run: a pure function of its recipe, its pictures and the step it is at."""

from __future__ import annotations

import atexit
import copy
import math
import signal
import weakref
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sdps.calibration.fake_quant import compile_rounding, parameter_groups, rounds
from sdps.core.console import need
from sdps.core.errors import SdpsError, UsageError
from sdps.model import SDPSFNet
from sdps.model.deploy import denormalise, normalise
from sdps.training.data import Source, Steps
from sdps.training.losses import StageLoss, drift, within_budget
from sdps.training.recipe import Clock, Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Of the arithmetic while training, and what Lightning Fabric calls it. Weights stay in FP32."""


def open_fabric(device: str = "auto", precision: str = "fp32") -> Fabric:
    """Lightning Fabric on this process' device, or on all that `torchrun` started processes for.

    Args:
        device: 'auto', 'cpu' or 'cuda'.
        precision: One of PRECISIONS.

    Raises:
        UsageError: no such precision, or no such device here.
        MissingDependency: the extra `train` is not installed.
    """
    import os

    if precision not in PRECISIONS:
        raise UsageError(f"There is no precision {precision!r}.", f"Choose from {', '.join(PRECISIONS)}.")
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"There is no device {device!r}.", "Choose from auto, cpu, cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("PyTorch sees no CUDA GPU here.", "Use --device cpu, or PyTorch's CUDA build.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    lightning = need("lightning_fabric", "train")
    local, world = (int(os.environ.get(name, "1")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    strategy: Any = "auto"
    if world > 1:
        strategies = need("lightning_fabric.strategies", "train")
        # Two up-samplings stand in the checkpoints and are used by nothing (psfnet.py).
        strategy = strategies.DDPStrategy(find_unused_parameters=True)
    fabric: Fabric = lightning.Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world // local,
        strategy=strategy,
        precision=PRECISIONS[precision],
    )
    fabric.launch()
    return fabric


class Trainer:
    """Trains one network; everything it holds is in `state()`.

    Args:
        network: Trained in place.
        source: The pictures.
        recipe: The schedule.
        fabric: Device, precision and processes; None for one process on the CPU in FP32.
        compiled: Whether to use torch.compile.
        workers: Processes that prepare batches ahead; 0 prepares them in step with the training.
        teacher: A network whose outputs are aimed at, for the recipe's share `taught`, in the place of
            the clean pictures (fine-tuning for INT8; knowledge distillation). It stays as it is.

    Raises:
        UsageError: no picture is as large as a patch, or the patches of a step cannot be shared
            among the processes.
    """

    def __init__(
        self,
        network: SDPSFNet,
        source: Source,
        recipe: Recipe,
        fabric: Fabric | None = None,
        compiled: bool = False,
        workers: int = 0,
        teacher: SDPSFNet | None = None,
    ) -> None:
        self.network, self.recipe, self.workers = network.train(), recipe, workers
        self.fabric = fabric = fabric or open_fabric("cpu")
        for _, _, batch in recipe.phases:
            if batch % fabric.world_size:
                raise UsageError(
                    f"{batch} patches a step cannot be shared among {fabric.world_size} processes.",
                    f"Use --batch {fabric.world_size * max(1, batch // fabric.world_size)}.",
                )
        self._channels_last(network)
        optimiser = torch.optim.AdamW(parameter_groups(network), lr=recipe.rate, betas=(0.9, 0.999))
        # Compiling fuses what stands between the convolutions; it takes minutes, once per patch size.
        rounding = rounds(network)
        if compiled and rounding:
            compile_rounding(network)
        module: Any = torch.compile(network) if compiled and not rounding else network
        self.forward, self.optimiser = fabric.setup(module, optimiser)
        self.teacher: Any = None
        if teacher is not None:
            frozen = copy.deepcopy(teacher).eval().requires_grad_(False).to(fabric.device)
            self._channels_last(frozen)
            self.teacher = torch.compile(frozen) if compiled else frozen
        self.average = {key: value.detach().clone() for key, value in network.named_parameters()}
        self.loss = StageLoss(recipe.edge, recipe.frequency, recipe.decibels).to(fabric.device)
        self.steps = Steps(
            [source.patches(patch, batch, recipe.seed) for _, patch, batch in recipe.phases],
            (fabric.global_rank, fabric.world_size),
        )
        self.step, self.skipped, self.clock = 0, 0, Clock()
        self.ahead: Iterator[tuple[Tensor, Tensor]] | None = None
        self._at_exit = partial(_close, weakref.ref(self))

    @property
    def position(self) -> float:
        """Where in the schedule the next step is; it is over at `recipe.steps`."""
        return self.clock.at(self.step)

    @property
    def pixels(self) -> int:
        """Of the next step, in all processes together."""
        _, patch, batch = self.recipe.phases[self.recipe.phase(self.position)]
        return batch * patch * patch

    def advance(self) -> float:
        """One step; returns the loss. A loss or gradient that is not finite is skipped and counted."""
        recipe, fabric = self.recipe, self.fabric
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate(self.position) * group.get("pace", 1.0)
        rainy, clean = (part.to(fabric.device, non_blocking=True) for part in self._batch())
        seen = normalise(rainy).contiguous(memory_format=torch.channels_last)
        outputs = self.forward(seen)
        loss = self._loss(outputs, seen, clean)
        self.optimiser.zero_grad(set_to_none=True)
        fabric.backward(loss)
        norm = fabric.clip_gradients(
            self.forward, self.optimiser, max_norm=recipe.clip, error_if_nonfinite=False
        )
        mean: Any = fabric.all_reduce(loss.detach()) if fabric.world_size > 1 else loss.detach()
        self.step += 1
        finite = bool(torch.isfinite(mean)) and norm is not None and bool(torch.isfinite(norm))
        if finite or getattr(fabric.strategy.precision, "scaler", None) is not None:
            self.optimiser.step()  # FP16's scaler leaves out what is not finite, and must learn of it
        if not finite:
            self.skipped += 1
            return math.nan
        decay = min(recipe.average, self.step / (self.step + 10))
        with torch.no_grad():
            for key, value in self.network.named_parameters():
                self.average[key].lerp_(value, 1 - decay)
        return float(mean)

    def fit(self, steps_left: float) -> None:
        """Changes the pace so that the schedule ends after so many more steps."""
        self.clock = self.clock.fitted(self.step, self.recipe.steps, steps_left)
        self.close()  # what was prepared ahead may be of another phase now

    def close(self) -> None:
        """Ends the processes that prepare batches, if any; the next step begins others.

        They heed no signal, so Python's exit would wait for them for ever: whoever forgets this has it then.
        """
        ahead: Any = self.ahead
        self.ahead = None
        if ahead is not None:
            atexit.unregister(self._at_exit)
            # Not left to the garbage collector: the traceback of an error may hold it until that exit.
            ahead._shutdown_workers()

    def averaged(self) -> SDPSFNet:
        """A network of the averaged weights, in eval mode, on the run's device."""
        network = copy.deepcopy(self.network)
        names = dict(network.named_parameters())
        with torch.no_grad():
            for key, value in self.average.items():
                names[key].copy_(value)
        return network.eval().requires_grad_(False)

    def state(self) -> dict[str, Any]:
        """Everything to go on from, as tensors and plain values."""
        return {
            "config": asdict(self.network.config),
            "recipe": asdict(self.recipe),
            "network": dict(self.network.named_parameters()),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "clock": asdict(self.clock),
            "step": self.step,
            "skipped": self.skipped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state()` of a run with the same network, recipe and pictures.

        Raises:
            UsageError: it is of another network or recipe.
        """
        for part, own in (("config", asdict(self.network.config)), ("recipe", asdict(self.recipe))):
            stored = {**asdict(Recipe()), **state[part]} if part == "recipe" else state[part]
            if other := {key: value for key, value in own.items() if stored.get(key, value) != value}:
                changed = ", ".join(f"{key} {stored[key]} to {value}" for key, value in other.items())
                raise UsageError(
                    f"That run cannot go on: its {part} would change ({changed}).",
                    "Give the same options again, or another --out.",
                )
        names = dict(self.network.named_parameters()).keys()
        if state["network"].keys() != names:
            raise UsageError(
                "That run cannot go on: it rounds other layers than this one, or none.",
                "Give the same options again, or another --out.",
            )
        with torch.no_grad():
            for key, value in self.network.named_parameters():
                value.copy_(state["network"][key])
                self.average[key].copy_(state["average"][key])
        self.optimiser.load_state_dict(state["optimiser"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.step, self.skipped, self.clock = state["step"], state["skipped"], Clock(**state["clock"])
        self.close()

    def _channels_last(self, network: Any) -> None:  # PyTorch's stubs of `to` lack this form in some versions
        """Lays the weights out as the patches are; a CPU does it on the way at no cost that counts."""
        if self.fabric.device.type == "cuda":
            network.to(memory_format=torch.channels_last)

    def _space(self, output: Tensor) -> Tensor:
        """An output of the network in the space that pictures are compared in."""
        return output if self.recipe.normalised else denormalise(output)

    def _loss(self, outputs: list[Tensor], seen: Tensor, clean: Tensor) -> Tensor:
        """Of all outputs against the clean picture in that space, each against the teacher's, or both."""
        taught = self.recipe.taught if self.teacher is not None else 0.0
        compared = [self._space(output) for output in outputs]
        loss: Tensor = outputs[0].new_zeros(())
        if taught < 1:
            loss = (1 - taught) * self.loss(compared, normalise(clean) if self.recipe.normalised else clean)
        if not taught:
            return loss
        with torch.no_grad(), self.fabric.autocast():
            aims = [aim.float() for aim in self.teacher(seen)]
        if len(aims) != len(outputs):  # of another number of stages: what it ends with
            aims = aims[-1:] * len(outputs)
        loss = loss + taught * self.loss(compared, [self._space(aim) for aim in aims])
        if self.recipe.drift:
            lost = drift(denormalise(outputs[-1]), denormalise(aims[-1]), clean)
            loss = loss + self.recipe.drift * within_budget(lost)
        return loss

    def _batch(self) -> tuple[Tensor, Tensor]:
        if not self.workers:
            return self.steps[self.step, self.recipe.phase(self.position)]
        if self.ahead is None:
            loader = DataLoader(
                self.steps,
                batch_size=None,
                sampler=self._upcoming(),
                num_workers=self.workers,
                prefetch_factor=4,
                pin_memory=self.fabric.device.type == "cuda",
                worker_init_fn=_leave_signals_to_the_main_process,
            )
            self.ahead = iter(loader)
            atexit.register(self._at_exit)
        try:
            return next(self.ahead)
        except SdpsError as error:  # before its line PyTorch puts the whole traceback of the other process
            line = error.message.splitlines()[-1]
            raise type(error)(line.partition(f"{type(error).__name__}: ")[2] or line) from None

    def _upcoming(self) -> Iterator[tuple[int, int]]:
        """Steps from the next one on, with their phases, until the schedule ends."""
        step, clock = self.step, self.clock
        while True:
            yield step, self.recipe.phase(clock.at(step))
            step += 1


def _close(trainer: weakref.ref[Trainer]) -> None:
    """Ends the processes of a trainer that is still there, without keeping it there."""
    alive = trainer()
    if alive is not None:
        alive.close()


def _leave_signals_to_the_main_process(worker: int) -> None:
    """In a process that prepares batches: Ctrl-C, SLURM and systemd signal it as well, and the main process,
    which saves then, fails as soon as one of them has died."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows lacks the last
            signal.signal(getattr(signal, name), signal.SIG_IGN)
