"""From image to image around the network: what every backend would otherwise repeat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdps.core.spec import STRIDE, Size

MEAN = (0.485, 0.456, 0.406)
"""ImageNet mean of RGB in [0, 1] (docs/network.md)."""
STD = (0.229, 0.224, 0.225)
"""ImageNet standard deviation."""


@dataclass(frozen=True)
class Space:
    """What a network takes and gives.

    Attributes:
        mean, std: Normalisation of RGB in [0, 1]; 0 and 1 for a network that works on [0, 1].
        stride: What heights and widths must be a multiple of; itself a multiple of 4.
    """

    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    stride: int = STRIDE


def space_of(network: nn.Module) -> Space:
    """A network's own `space`, or SD-PSFNet's."""
    space = getattr(network, "space", None)
    return space if isinstance(space, Space) else Space()


def normalise(image: Tensor) -> Tensor:
    """[B,3,H,W] RGB in [0,1] to the network's space."""
    return (image - _channels(MEAN, image)) / _channels(STD, image)


def denormalise(image: Tensor) -> Tensor:
    """The network's space to [B,3,H,W] RGB, nominally in [0,1], not clamped."""
    return image * _channels(STD, image) + _channels(MEAN, image)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


class DeployNet(nn.Module):
    """uint8 picture in, uint8 picture out, with the network between.

    forward: uint8 [B,H,W,3] RGB to uint8 [B,H,W,3] RGB. Rounds to the nearest level.

    Args:
        network: An `SDPSFNet`, or any module from a normalised [B,3,H,W] to a list of images, of which the
            last one counts, or one image in the same space, which its attribute `space` tells if it is not
            SD-PSFNet's.
        size: With a size that the stride does not divide, the picture is reflected at the
            bottom and right and the result cropped, inside the graph. Without a size, heights
            and widths must be multiples of the stride (the runtime pads and crops: docs/nvidia.md says why
            a dynamic graph cannot).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, size: Size | None = None) -> None:
        super().__init__()
        self.network = network
        space = space_of(network)
        # One multiply and one add from levels to the network's space, and back.
        self.register_buffer("scale", (255.0 * torch.tensor(space.std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (255.0 * torch.tensor(space.mean)).view(1, 3, 1, 1))
        self.crop = size
        padded = size.padded_to(space.stride) if size else None
        self.pad = (padded.width - size.width, padded.height - size.height) if size and padded else (0, 0)

    def forward(self, image: Tensor) -> Tensor:
        # Cast before anything else: TensorRT refuses a transpose of uint8 (docs/nvidia.md).
        x = image.to(torch.float32).permute(0, 3, 1, 2)  # [B,3,H,W], 0..255
        x = (x - self.shift) / self.scale
        if any(self.pad):
            # A reflection is shorter than the picture; a long stride on a small picture needs more.
            short = self.pad[0] >= x.shape[3] or self.pad[1] >= x.shape[2]
            x = F.pad(x, (0, self.pad[0], 0, self.pad[1]), mode="replicate" if short else "reflect")
        y = self.network(x)
        if isinstance(y, (list, tuple)):
            y = y[-1]
        if any(self.pad) and self.crop:
            y = y[:, :, : self.crop.height, : self.crop.width]
        y = (y * self.scale + self.shift).clamp(0, 255).round()
        return y.permute(0, 2, 3, 1).to(torch.uint8)


def pad_to_stride(x: Tensor) -> Tensor:
    """Reflects [B,C,H,W] at the bottom and right up to the next multiple of 4."""
    pad_h, pad_w = -x.shape[2] % STRIDE, -x.shape[3] % STRIDE
    return F.pad(x, (0, pad_w, 0, pad_h), mode="reflect") if pad_h or pad_w else x
