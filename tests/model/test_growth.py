"""Growing: the wider network computes what the narrow one does, and all of it can learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdps.core.errors import UsageError
from sdps.model import SDPSFNet, load_checkpoint
from sdps.model.growth import grow
from sdps.model.presets import NANO, SMALL
from sdps.model.psfnet import SDPSFNetConfig

NARROW = SDPSFNetConfig(tau=1, features=4, scale_unet=4, scale_orb=2, cabs=1, psf_channels=4)
WIDE = replace(NARROW, features=8, scale_unet=6, scale_orb=6, cabs=3)


def outputs(network: SDPSFNet, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return list(network.eval()(x))


@pytest.mark.parametrize(
    "wide",
    [WIDE, replace(NARROW, features=12), replace(NARROW, scale_unet=8), replace(NARROW, cabs=4), NARROW],
)
def test_every_output_stays(wide: SDPSFNetConfig) -> None:
    torch.manual_seed(0)
    network, x = SDPSFNet(NARROW), torch.randn(2, 3, 36, 28)
    for before, after in zip(outputs(network, x), outputs(grow(network, wide), x), strict=True):
        assert torch.allclose(before, after, atol=1e-5)


def test_the_bundled_nano_grows_into_the_small_preset() -> None:
    nano = load_checkpoint(Path(__file__).parents[2] / "model/weights/sdps-nano.safetensors")
    assert nano.config == NANO
    x = torch.randn(1, 3, 64, 48)
    for before, after in zip(outputs(nano, x), outputs(grow(nano, SMALL), x), strict=True):
        assert torch.allclose(before, after, atol=1e-4)


def test_all_that_is_new_learns() -> None:
    torch.manual_seed(0)
    network = grow(SDPSFNet(NARROW), WIDE)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(3):  # a gradient passes one zeroed layer more with each step
        optimiser.zero_grad()
        sum(output.square().mean() for output in network(torch.randn(2, 3, 32, 32))).backward()
        optimiser.step()
    # Squeezed maps of a channel or two may have died in a ReLU, as in any network this small.
    stuck = [
        name
        for name, value in network.named_parameters()
        if not any(part in name for part in ("unused", "squeeze", "excite", "reduce", "attention"))
        and (value.grad is None or not value.grad.any())
    ]
    assert not stuck
    # The old channels read the new ones by now.
    assert network.stage_osr.tail.weight[:, NARROW.features + NARROW.scale_orb :].abs().min() > 0
    assert network.stage_osr.orbs[0].cabs[2].conv2.weight.abs().min() > 0


def test_what_does_not_fit_is_refused() -> None:
    network = SDPSFNet(WIDE)
    with pytest.raises(UsageError, match="features 8 cannot grow into one with 4"):
        grow(network, replace(WIDE, features=4))
    with pytest.raises(UsageError, match="tau 1 cannot grow"):
        grow(network, replace(WIDE, tau=2))
