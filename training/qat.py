"""The beginning of a quantisation-aware run: the network with what will be INT8 rounded as INT8.

The ranges begin where calibration would put them, on rainy pictures of the run's own; from there
they are trained with the weights (calibration/fake_quant.py). Which layers stay in floating point is
settled before (training/lift.py).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from sdps.calibration.equalise import equalise
from sdps.calibration.fake_quant import attach
from sdps.calibration.layers import prepare, weights_of
from sdps.calibration.observe import Step
from sdps.calibration.recipe import Options, calibrate
from sdps.calibration.trained import TrainedRanges
from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.export.module_map import Mapped, map_checkpoint
from sdps.model import SDPSFNet, load_checkpoint
from sdps.training.data import Source
from sdps.training.lift import lifted, room_for_lifting
from sdps.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PICTURES, SIDE = 48, 128
"""What the first ranges are observed on: so many patches, and their most pixels a side."""


def load_original(weights: Path) -> SDPSFNet:
    """The FP32 network to fine-tune.

    Raises:
        CheckpointError: it is no checkpoint.
        UsageError: it was fine-tuned for INT8 already.
    """
    network = load_checkpoint(weights)
    if TrainedRanges.read(weights):
        raise UsageError(
            f"{weights} was fine-tuned for INT8 already.",
            "Give the same command again to go on with it, or the original weights to begin anew.",
        )
    return network


def begin(
    original: SDPSFNet,
    weights: Path,
    source: Source,
    recipe: Recipe,
    known: Mapping[str, float] | None = None,
    fabric: Fabric | None = None,
    step: Step = lambda *_: None,
) -> SDPSFNet:
    """A copy of the network that is trained as INT8 will see it.

    Args:
        original: The FP32 network; stays as it is.
        weights: Its file.
        source: The run's pictures.
        recipe: The run's, for its seed, its patches, and the work that is to be INT8.
        known: Of a run that goes on, and whose weights are restored afterwards: the sites that it rounds, by
            key, with their steps.
        fabric: Device to measure layers on, and processes that must agree on them; None for this one's CPU.
        step: Told how far it is.

    Returns:
        The network with the same function but for the rounding: channels are equalised first.

    Raises:
        ExportError: it cannot be traced, or its weights give NaN.
        UsageError: more of the work is to be INT8 than can be.
    """
    network = copy.deepcopy(original)
    mapped = map_checkpoint(network, weights)
    if known:
        attach(network, [site for site in mapped.sites if site.key in known], known)
        return network.requires_grad_()
    room_for_lifting(mapped, recipe.int8_share)  # refused now, and not after minutes
    pictures = _pictures(source, recipe)
    mapped = _equalise(network, mapped, pictures)
    options = Options(equalise=False, compensate=False, correct_bias=False)
    with TemporaryDirectory() as folder:  # other weights every time: nothing to keep the statistics for
        statistics = Path(folder) / "statistics"
        calibrated = calibrate(mapped.model, mapped.layers, pictures, options, statistics, step)
    steps = {site.key: calibrated.quantised[site.layer].scale for site in mapped.sites}
    out = lifted(network, mapped, steps, source, recipe, fabric.device if fabric else "cpu", step)
    if fabric and fabric.world_size > 1:  # a tie may be decided otherwise on another GPU
        out = fabric.broadcast(out)
    attach(network, [site for site in mapped.sites if site.layer not in out], steps)
    return network.requires_grad_()


def _equalise(network: SDPSFNet, mapped: Mapped, pictures: list[Image]) -> Mapped:
    """Equalises what is one convolution in the graph as in the network, in both."""
    alike = {site.layer: site.modules[0] for site in mapped.sites if len(site.modules) == 1 and not site.part}
    layers = [layer for layer in mapped.layers if layer.name in alike]
    model = equalise(prepare(mapped.model), layers, pictures)
    weights = weights_of(model)
    with torch.no_grad():
        for layer in layers:
            values = torch.tensor(weights[layer.weight])
            network.get_parameter(f"{alike[layer.name]}.weight").copy_(values)
    return replace(mapped, model=model)


def _pictures(source: Source, recipe: Recipe) -> list[Image]:
    """Rainy patches of the run's pictures, uint8 [S,S,3] each."""
    side = min(SIDE, max(patch for _, patch, _ in recipe.phases))
    rainy, _ = source.patches(side, PICTURES, recipe.seed).step(0)
    levels = (rainy * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return [np.ascontiguousarray(picture) for picture in levels.numpy()]
