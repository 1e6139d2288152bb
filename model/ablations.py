"""The rungs of the paper's ablation below the whole network: what `config.ablation` takes out.

The paper climbs from MPRNet to SD-PSFNet by gates, the hierarchical update, the enhanced CSFF, a PSF
of one channel and one of 40. It publishes weights of the last rung only; how the lower ones were
built is **our reading**, from MPRNet's own connections (Zamir et al., CVPR 2021) where SD-PSFNet has
something else:

| `ablation` | previous stage's features H | previous O into the encoder | H handed on | CSFF | PSF |
|---|---|---|---|---|---|
| mprnet | concatenated, 3x3 convolution | added | as it comes | sum of two 1x1 convolutions | none |
| gates | gated | gated | as it comes | sum of two 1x1 convolutions | none |
| hierarchical | gated | gated | gated with its predecessor | sum of two 1x1 convolutions | none |
| csff | gated | gated | gated with its predecessor | the whole network's | none |

With the PSF head go the PSF-aware blocks; 'psf1' is the whole network with `psf_channels=1`, whose
reducer has one channel throughout. Every rung reads the whole picture in every stage, as SD-PSFNet
does, and keeps its widths; MPRNet's patches of quarters and halves, and its own widths, are not
rebuilt. Without a middle stage (tau = 0) 'gates' and 'hierarchical' are the same network.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from sdps.core.errors import UsageError
from sdps.model.psfnet import SDPSFNet, conv

ABLATIONS = ("mprnet", "gates", "hierarchical", "csff")


class Add(nn.Module):
    """x + y, in place of a gate."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Concat(nn.Module):
    """Both, one after the other: [B,C,h,w] twice to [B,2C,h,w]."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], 1)


class First(nn.Module):
    """x, whatever the second argument: no gate, no PSF."""

    def forward(self, x: Tensor, y: object) -> Tensor:
        return x


class Sum1x1(nn.Module):
    """MPRNet's CSFF: a 1x1 convolution of the encoder's and one of the decoder's level, added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoded = conv(channels, channels, 1)
        self.decoded = conv(channels, channels, 1)

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        result: Tensor = self.encoded(encoded) + self.decoded(decoded)
        return result


class NoPSF(nn.Module):
    """In place of the PSF head."""

    def forward(self, features: list[Tensor]) -> None:
        return None


def ablate(network: SDPSFNet) -> None:
    """Takes out of a network what its `config.ablation` says.

    Raises:
        UsageError: there is no such rung.
    """
    config = network.config
    if config.ablation not in ABLATIONS:
        raise UsageError(f"There is no ablation {config.ablation!r}.", f"Choose from {', '.join(ABLATIONS)}.")
    rung = ABLATIONS.index(config.ablation)
    for stage in (network.stage_in, *network.stage_mid):
        stage.psf = NoPSF()
        stage.decoder.psf_blocks = nn.ModuleList(First() for _ in config.widths)
        if rung < ABLATIONS.index("csff"):
            csff = stage.csff
            csff.fuse = nn.ModuleList(Sum1x1(channels) for channels in config.widths)
            csff.conv1, csff.conv2 = (nn.ModuleList(nn.Identity() for _ in config.widths) for _ in range(2))
            csff.update = None
        if rung < ABLATIONS.index("hierarchical") and stage.gate is not None:
            stage.gate = First()
        if rung < ABLATIONS.index("gates") and stage.encoder.gates is not None:
            stage.encoder.gates = nn.ModuleList(Add() for _ in config.widths)
    if rung < ABLATIONS.index("gates"):
        for shallow in [stage.shallow for stage in (*network.stage_mid, network.stage_osr)]:
            shallow.gate = Concat()
            shallow.conv_out = conv(2 * config.features, shallow.conv_out.out_channels, 3)


def ablation_of(keys: Collection[str]) -> str:
    """Which rung has weights of these names, the authors' or ours; '' for the whole network."""

    def has(*names: str) -> bool:
        return any(name in keys for name in names)

    if has("stage_in.psf.fusion.1.weight", "stage_in.psf.expand.weight"):
        return ""
    if has("stage_in.CSFF.update_gates.0.2.weight", "stage_in.csff.conv1.0.weight"):
        return "csff"
    if not has("stage_osr.shallow_feat.gate.gate.1.weight", "stage_osr.shallow.gate.squeeze.weight"):
        return "mprnet"
    if has("stage_mid.0.gate.gate.1.weight", "stage_mid.0.gate.squeeze.weight"):
        return "hierarchical"
    return "gates"
