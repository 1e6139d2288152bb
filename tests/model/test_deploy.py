"""The wrapper around the network: levels in, levels out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdps.core.spec import Size
from sdps.model import SDPSFNet
from sdps.model.deploy import DeployNet, denormalise, normalise, pad_to_stride


def test_a_network_that_does_nothing_returns_every_level_exactly() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(DeployNet(nn.Identity())(levels), levels)


def test_normalisation_is_imagenets_and_back() -> None:
    x = torch.rand(2, 3, 4, 4)
    red = (x[0, 0, 0, 0] - 0.485) / 0.229
    assert normalise(x)[0, 0, 0, 0] == pytest.approx(red.item(), abs=1e-6)
    assert torch.allclose(denormalise(normalise(x)), x, atol=1e-6)


@pytest.mark.parametrize("size", [Size(61, 90), Size(64, 93), Size(8, 8), Size(10, 11)])
def test_an_odd_size_equals_pytorch_on_the_reflected_picture(size: Size, tiny_network: SDPSFNet) -> None:
    torch.manual_seed(3)
    image = torch.randint(0, 256, (1, size.height, size.width, 3), dtype=torch.uint8)
    x = normalise(image.permute(0, 3, 1, 2) / 255)
    padded = F.pad(x, (0, -size.width % 4, 0, -size.height % 4), mode="reflect")
    assert torch.equal(pad_to_stride(x), padded)
    expected: Tensor = denormalise(tiny_network(padded)[-1])[:, :, : size.height, : size.width]
    restored = DeployNet(tiny_network, size)(image)
    assert restored.shape == image.shape
    assert restored.dtype == torch.uint8
    difference = restored.permute(0, 3, 1, 2).float() - (expected.clamp(0, 1) * 255)
    assert difference.abs().max() <= 0.51  # rounding to the nearest level


def test_overshoot_is_clamped_not_wrapped() -> None:
    class Brighter(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 9

    white = DeployNet(Brighter())(torch.full((1, 8, 8, 3), 200, dtype=torch.uint8))
    assert (white == 255).all()
