"""The count of parameters and MACs against the facts and against PyTorch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sdps.benchmarks.macs import stage_costs
from sdps.core.spec import Size
from sdps.model import SDPSFNet, SDPSFNetConfig

SQUARE = Size(256, 256)


@pytest.mark.parametrize(("tau", "giga"), [(0, 127.18), (1, 155.23), (2, 183.28), (3, 211.34)])
def test_totals_are_those_of_the_facts(tau: int, giga: float) -> None:
    stages = stage_costs(SDPSFNet(SDPSFNetConfig(tau=tau)), SQUARE)
    assert round(sum(stage.macs for stage in stages) / 1e9, 2) == giga


def test_stages_of_the_papers_network() -> None:
    stages = stage_costs(SDPSFNet(), SQUARE)
    assert [stage.name for stage in stages] == [
        "stage_in",
        "stage_mid.0",
        "stage_mid.1",
        "stage_mid.2",
        "stage_osr",
    ]
    assert [round(stage.macs / 1e9, 2) for stage in stages] == [28.05, 28.05, 28.05, 28.05, 99.12]
    assert sum(stage.parameters for stage in stages) == 9_629_577


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (SDPSFNetConfig(), SQUARE),
        (SDPSFNetConfig(tau=0), Size(128, 64)),
        (SDPSFNetConfig(tau=2, features=12, scale_unet=8, scale_orb=4, cabs=3, reduction=2), Size(64, 96)),
        (SDPSFNetConfig(tau=1, features=8, scale_unet=4, scale_orb=4, cabs=1, psf_channels=20), Size(61, 90)),
    ],
)
def test_equal_to_the_digit_to_pytorchs_flop_counter(config: SDPSFNetConfig, size: Size) -> None:
    with torch.device("meta"):
        network = SDPSFNet(config)
        picture = torch.empty(1, 3, size.padded.height, size.padded.width)
    with FlopCounterMode(display=False) as counter:
        network(picture)
    assert sum(stage.macs for stage in stage_costs(network, size)) * 2 == counter.get_total_flops()


def test_counting_leaves_the_network_as_it_was(tiny_network: SDPSFNet) -> None:
    stage_costs(tiny_network, Size(64, 64))
    assert {value.device.type for value in tiny_network.parameters()} == {"cpu"}
    assert not any(layer._forward_hooks for layer in tiny_network.modules())
