"""Parameters and multiply-accumulates, stage by stage.

Convention: convolutions, transposed convolutions and linear layers only; one multiply-accumulate is
one MAC (2 FLOPs); no bias, activation, pooling, normalisation, interpolation or element-wise work.
It equals `torch.utils.flop_counter.FlopCounterMode` / 2 to the digit (tests). At 256x256 the paper's
network (tau = 3) has 211.34 G. The paper prints 244.83 G without naming its counter or size: counters
that add PReLU, pooling and element-wise work say more (ptflops 0.7.5 on PyTorch 2.13: 238.22 G).
"""

from __future__ import annotations

import copy
import math
from collections import Counter

import torch
from torch import Tensor, nn

from sdps.benchmarks.measurement import StageCost
from sdps.core.spec import Size


def stage_costs(network: nn.Module, size: Size) -> tuple[StageCost, ...]:
    """Counts each stage of an `SDPSFNet` for one picture.

    The network runs once on PyTorch's meta device: shapes only, no arithmetic, no memory, so any
    size takes milliseconds.

    Args:
        network: An `SDPSFNet`; left as it is.
        size: Height and width; the next multiples of 4 are counted, as they are computed.

    Returns:
        stage_in, each stage_mid.N, stage_osr, in order. Shared parameters (the one PReLU slope)
        are counted where they first stand, so the sum is the network's.
    """
    network = copy.deepcopy(network).to("meta")
    parameters: Counter[str] = Counter()
    macs: Counter[str] = Counter()
    for name, value in network.named_parameters():
        parameters[_stage(name)] += value.numel()

    def count(stage: str) -> object:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            macs[stage] += _layer_macs(layer, inputs[0], output)

        return hook

    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            layer.register_forward_hook(count(_stage(name)))  # type: ignore[arg-type]
    with torch.no_grad():
        network(torch.empty(1, 3, size.padded.height, size.padded.width, device="meta"))
    return tuple(StageCost(stage, parameters[stage], macs[stage]) for stage in parameters)


def _layer_macs(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    if isinstance(layer, nn.Linear):
        return y.numel() * layer.in_features
    assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
    taps = math.prod(layer.kernel_size)
    if isinstance(layer, nn.ConvTranspose2d):  # each input value is scattered over the kernel
        return x.numel() * layer.out_channels // layer.groups * taps
    return y.numel() * layer.in_channels // layer.groups * taps


def _stage(name: str) -> str:
    first, second = (*name.split("."), "")[:2]
    return f"{first}.{second}" if second.isdigit() else first
