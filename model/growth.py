"""A wider network that begins as a trained narrower one, so that training goes on instead of anew.

After Net2Net (Chen, Goodfellow and Shlens, ICLR 2016), with zeros in place of copies: the old
channels read nothing of the new ones at first, so the outputs are the narrow network's; the new
ones begin at random, so gradients reach both from the first step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdps.core.errors import UsageError
from sdps.model.psfnet import Gate, PSFAttention, SDPSFNet, SDPSFNetConfig

FIXED = ("tau", "psf_channels", "reduction", "ablation")
WIDENED = ("features", "scale_unet", "scale_orb", "cabs")


def grow(network: SDPSFNet, config: SDPSFNetConfig) -> SDPSFNet:
    """A network of another `config` that computes what `network` does.

    Args:
        network: Stays as it is.
        config: As wide or wider in each of features, scale_unet and scale_orb, with as many CABs
            or more; all else equal. Its new weights are drawn by PyTorch's global generator.

    Raises:
        UsageError: the narrow network does not fit into that one.
    """
    for key in (*FIXED, *WIDENED):
        before, after = getattr(network.config, key), getattr(config, key)
        if before != after if key in FIXED else before > after:
            raise UsageError(
                f"A network with {key} {before!r} cannot grow into one with {after!r}.",
                f"Networks grow, in {', '.join(WIDENED)} only; choose a preset that is larger in those.",
            )
    grown = SDPSFNet(config)
    trained, places = dict(network.named_parameters()), _places(network, grown)
    transposed = {f"{n}.weight" for n, m in grown.named_modules() if isinstance(m, nn.ConvTranspose2d)}
    with torch.no_grad():
        for name, value in grown.named_parameters():
            if name not in trained:
                if name.endswith("conv2.weight"):
                    value.zero_()  # a CAB more: the identity, until it is trained
                continue
            given: Tensor = trained[name]
            outputs = places.get((name, "out"), torch.arange(given.shape[int(name in transposed)]))
            if value.ndim == 1:
                value[outputs] = given
                continue
            inputs = places.get((name, "in"), torch.arange(given.shape[int(name not in transposed)]))
            view: Tensor = value
            if name in transposed:
                view, given = view.transpose(0, 1), given.transpose(0, 1)
            view[outputs] = 0.0
            view[outputs[:, None], inputs] = given
    return grown


def _places(network: SDPSFNet, grown: SDPSFNet) -> dict[tuple[str, str], Tensor]:
    """Where channels go that do not simply come first: those of maps that are put side by side."""
    narrow, places = dict(network.named_modules()), {}
    for name, module in grown.named_modules():
        if name not in narrow:
            continue
        before = narrow[name]
        if isinstance(module, Gate) and isinstance(before, Gate):
            old, new = before.excite.out_channels, module.excite.out_channels
            places[f"{name}.squeeze.weight", "in"] = _halves(old, new)  # of x and of y
        if isinstance(module, PSFAttention) and isinstance(before, PSFAttention):
            old, new = before.affine2.out_features // 2, module.affine2.out_features // 2
            for part in ("weight", "bias"):
                places[f"{name}.affine2.{part}", "out"] = _halves(old, new)  # gamma and beta
            places[f"{name}.spatial1.weight", "in"] = torch.tensor([*range(old), new])  # the PSF comes last
    return places


def _halves(old: int, new: int) -> Tensor:
    return torch.cat([torch.arange(old), new + torch.arange(old)])
