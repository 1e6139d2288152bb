"""Early exits: every stage's image is supervised, so a network of tau = 3 is five of rising cost."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from sdps.core.errors import UsageError
from sdps.model.psfnet import SDPSFNet, UStage


class EarlyExit(nn.Module):
    """The stages of an `SDPSFNet` up to one image, and of the last of them no more than that image needs.

    forward: as the network's, float [B,3,H,W] to the exit's image of the same shape.

    Args:
        network: Its stages are shared, not copied.
        exit: From 0, the image of `stage_in`, to tau, that of the last `stage_mid`.
    """

    def __init__(self, network: SDPSFNet, exit: int) -> None:
        super().__init__()
        self.config, self.exit = network.config, exit
        self.stages = nn.ModuleList([network.stage_in, *network.stage_mid][: exit + 1])

    def forward(self, rainy: Tensor) -> Tensor:
        hidden, fused = None, None
        *earlier, last = cast("list[UStage]", list(self.stages))
        for stage in earlier:
            _, hidden, fused = stage(rainy, hidden, fused)
        image, *_ = last.restore(rainy, hidden, fused)
        return image


def exits_of(network: SDPSFNet) -> range:
    """The exits' numbers: 0 to tau + 1, the last being the result of the whole network."""
    return range(network.config.tau + 2)


def cut(network: SDPSFNet, exit: int) -> nn.Module:
    """The network that ends at an exit; the network itself for its last one, or for -1.

    Raises:
        UsageError: there is no such exit.
    """
    exits = exits_of(network)
    if exit in (-1, exits[-1]):
        return network
    if exit not in exits:
        raise UsageError(
            f"There is no exit {exit}: a network of tau = {network.config.tau} has 0 to {exits[-1]}.",
            "Exit 0 is the first stage's image, the last one is the result.",
        )
    return EarlyExit(network, exit).eval()
