"""The paper's loss: Charbonnier + 0.05 edge + 0.01 frequency, summed over all stage outputs.

And two terms of our own, off in the paper's recipe: `decibels` for the bundled models, `drift` for
fine-tuning towards INT8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdps.calibration.drift import VISIBLE_DB, DriftBudget

EPSILON = 1e-3


def charbonnier(x: Tensor, y: Tensor) -> Tensor:
    """mean sqrt((x - y)^2 + eps^2), a smooth L1."""
    return torch.sqrt((x - y) ** 2 + EPSILON**2).mean()


def frequency(x: Tensor, y: Tensor) -> Tensor:
    """mean |FFT2(x) - FFT2(y)|, unnormalised and whole: of half of it, two columns would count double."""
    return torch.fft.fft2(x - y).abs().mean()


def decibels(x: Tensor, y: Tensor) -> Tensor:
    """Mean over the pictures of 10 log10(MSE), that is of minus PSNR (as HINet and NAFNet train with).

    A dB is worth the same in a picture that is nearly dry as in a downpour, whose errors are a
    hundred times as large and would otherwise drown the other's. Beyond 60 dB it levels out.
    """
    return 10 * torch.log10(((x - y) ** 2).mean(dim=(1, 2, 3)) + 1e-6).mean()


def drift(x: Tensor, reference: Tensor, clean: Tensor) -> Tensor:
    """What each picture loses to a reference in dB of PSNR, were the change mere noise; a vector.

    10 log10(1 + MSE(x, reference) / MSE(reference, clean)): a change counts for as much as the
    reference's own error lets it be seen, errors beyond VISIBLE_DB being no smaller than that, as the
    drift budget has it (calibration/drift.py). Unlike the loss itself it never falls below 0, so
    that nothing is gained by restoring better than the reference what happens to be trained on.
    """
    error, own = (((a - b) ** 2).mean(dim=(1, 2, 3)) for a, b in ((x, reference), (reference, clean)))
    return 10 * torch.log10(1 + error / own.clamp_min(10 ** (-VISIBLE_DB / 10)))


def within_budget(lost: Tensor) -> Tensor:
    """A loss of what pictures lost in dB: their mean, and their squares over what the worst tile may lose.

    A budget bounds the mean and the worst tile; a mean alone would hardly see the one patch in a
    hundred that loses ten times as much as the others.
    """
    return (lost + lost**2 / DriftBudget().tile_db).mean()


class EdgeLoss(nn.Module):
    """Charbonnier between one level of the Laplacian pyramids of two images."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([0.05, 0.25, 0.4, 0.25, 0.05])
        self.register_buffer("kernel", torch.outer(taps, taps).expand(3, 1, 5, 5).contiguous())

    def blur(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), self.kernel, groups=3)

    def laplacian(self, x: Tensor) -> Tensor:
        low = self.blur(x)
        spread = torch.zeros_like(low)
        spread[:, :, ::2, ::2] = 4 * low[:, :, ::2, ::2]  # decimate by 2, zero-insert
        return x - self.blur(spread)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        # The Laplacian is linear, so that of the difference is the difference of the two.
        return torch.sqrt(self.laplacian(x - y) ** 2 + EPSILON**2).mean()


class StageLoss(nn.Module):
    """Weighted sum of the terms over all outputs of the network; Charbonnier's weight is 1.

    forward(outputs, targets): [B,3,H,W] in RGB 0..1 and what each is compared with, or one picture for
    all of them; returns a scalar.
    """

    def __init__(self, edge: float = 0.05, frequency: float = 0.01, decibels: float = 0.0) -> None:
        super().__init__()
        self.edge = EdgeLoss()
        self.edge_weight, self.frequency_weight, self.decibels_weight = edge, frequency, decibels

    def forward(self, outputs: Sequence[Tensor], targets: Sequence[Tensor] | Tensor) -> Tensor:
        total = outputs[0].new_zeros(())
        targets = [targets] * len(outputs) if isinstance(targets, Tensor) else targets
        for output, target in zip(outputs, targets, strict=True):
            total = total + charbonnier(output, target)
            if self.edge_weight:
                total = total + self.edge_weight * self.edge(output, target)
            if self.frequency_weight:
                total = total + self.frequency_weight * frequency(output, target)
            if self.decibels_weight:
                total = total + self.decibels_weight * decibels(output, target)
        return total
