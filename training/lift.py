"""Which layers a quantisation-aware run leaves in floating point: those that cost most for their work.

A tenth of the work is enough to be rid of most of the drift, if it is the right tenth. Every layer is
rounded alone, and what that costs the restored patches in decibels is measured, as the loss of the run
has it; then those that cost most per multiply-accumulate are lifted out while the work allows. Those that
read or make a picture always are: their error is the picture's own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from sdps.calibration.fake_quant import Site, attach
from sdps.calibration.layers import picture_facing
from sdps.calibration.observe import Step
from sdps.core.errors import UsageError
from sdps.export.graph_macs import REFERENCE
from sdps.export.module_map import Mapped
from sdps.model import SDPSFNet
from sdps.model.deploy import denormalise, normalise
from sdps.training.data import Source
from sdps.training.losses import drift
from sdps.training.recipe import Recipe

SIDES = (128, 64, 32)
"""Pixels a side of the patches that layers are ranked on; smaller ones where FEWEST are too much work."""
FEWEST, MOST = 8, 48
"""How many patches."""
WORK = 2e12
"""Multiply-accumulates that the ranking is cut down to: about five minutes of one core. A network with tau=3
takes four times that even on FEWEST of the smallest patches."""


def lifted(
    network: SDPSFNet,
    mapped: Mapped,
    steps: Mapping[str, float],
    source: Source,
    recipe: Recipe,
    device: torch.device | str = "cpu",
    step: Step = lambda *_: None,
) -> set[str]:
    """Names of the layers that stay in floating point.

    Args:
        network: In FP32; stays as it is.
        mapped: Its graph and layers.
        steps: The step of every site's input, by the site's key.
        source: Pictures to rank on.
        recipe: The run's, for its seed and patches; at least `int8_share` of the graph's
            multiply-accumulates stay in INT8.
        device: Where to measure.
        step: Told how far it is.

    Raises:
        UsageError: that share is more than can be INT8.
    """
    work = {layer.name: layer.macs for layer in mapped.layers}
    out = picture_facing(mapped.model, mapped.layers)
    room = room_for_lifting(mapped, recipe.int8_share)
    # The parts of a split convolution are one module, and are rounded or lifted together.
    groups: dict[tuple[str, ...], list[Site]] = {}
    for site in mapped.sites:
        if site.layer not in out:
            groups.setdefault(site.modules, []).append(site)
    macs = {key: sum(work[site.layer] for site in sites) for key, sites in groups.items()}
    if min(macs.values(), default=0) > room:
        return out
    costs = {}
    rainy, clean = (
        part.to(device) for part in _patches(source, recipe, len(groups) * sum(mapped.macs.values()))
    )
    rainy = rainy.contiguous(memory_format=torch.channels_last)  # which CPUs are faster at
    with torch.inference_mode():
        reference = denormalise(copy.deepcopy(network).to(device)(rainy)[-1])
        for done, (key, sites) in enumerate(groups.items()):
            alone = copy.deepcopy(network)
            attach(alone, sites, steps)
            alone = alone.to(device)
            costs[key] = float(drift(denormalise(alone(rainy)[-1]), reference, clean).mean())
            step("Measuring layers alone", done + 1, len(groups))
    for key in sorted(groups, key=lambda key: costs[key] / max(1, macs[key]), reverse=True):
        if macs[key] <= room:
            out |= {site.layer for site in groups[key]}
            room -= macs[key]
    return out


def room_for_lifting(mapped: Mapped, share: float) -> float:
    """Multiply-accumulates that may be lifted out beside the picture-facing layers.

    Args:
        mapped: The graph and its layers.
        share: The least part of all that stays in INT8.

    Raises:
        UsageError: that share is more than can be INT8.
    """
    facing = picture_facing(mapped.model, mapped.layers)
    most = sum(layer.macs for layer in mapped.layers if layer.name not in facing)
    total = sum(mapped.macs.values())
    if most < share * total:
        raise UsageError(
            f"{share:.1%} of the work cannot be INT8: {most / total:.1%} is the most.",
            f"Give --int8-share {int(1000 * most / total) / 1000:g} or less.",
        )
    return most - share * total


def _patches(source: Source, recipe: Recipe, macs: int) -> tuple[Tensor, Tensor]:
    """Patches as the network sees them and clean ones, as many as WORK allows.

    Args:
        source: The run's pictures.
        recipe: The run's.
        macs: Of all passes together over a picture of the reference size.
    """
    largest = max(patch for _, patch, _ in recipe.phases)
    for side in (min(side, largest) for side in SIDES):
        affordable = WORK * REFERENCE.height * REFERENCE.width / max(1, macs * side**2)
        if affordable >= FEWEST:
            break
    rainy, clean = source.patches(side, int(min(MOST, max(FEWEST, affordable))), recipe.seed).step(0)
    return normalise(rainy), clean
