"""The terms of the loss against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from sdps.training.losses import StageLoss, decibels, drift, frequency, within_budget


@pytest.mark.parametrize("width", [12, 13])
def test_frequency_is_the_mean_over_the_whole_spectrum(width: int) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(2, 3, 10, width), torch.rand(2, 3, 10, width)
    expected = np.abs(np.fft.fft2(x.numpy()) - np.fft.fft2(y.numpy())).mean()
    assert float(frequency(x, y)) == pytest.approx(expected, rel=1e-4)
    # A shift of colour is one coefficient of H * W, of H * W * shift.
    assert float(frequency(x, x + 0.05)) == pytest.approx(0.05, rel=1e-3)


def test_decibels_is_the_mean_of_minus_psnr() -> None:
    torch.manual_seed(0)
    x, y = torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16)
    expected = [
        -peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=1.0) for a, b in zip(x, y, strict=True)
    ]
    assert float(decibels(x, y)) == pytest.approx(sum(expected) / 3, abs=1e-3)


def test_a_decibel_is_worth_the_same_in_any_rain() -> None:
    """Ten times the error, the same gradient for halving it: what Charbonnier does not give."""
    target = torch.zeros(1, 3, 8, 8)
    slopes = []
    for error in (0.02, 0.2):
        scale = torch.ones((), requires_grad=True)
        decibels(scale * error + target, target).backward()
        assert scale.grad is not None
        slopes.append(float(scale.grad))
    assert slopes[0] == pytest.approx(slopes[1], rel=0.01)


def test_drift_is_the_psnr_that_noise_costs() -> None:
    torch.manual_seed(0)
    clean = torch.rand(2, 3, 128, 128)
    reference = clean + 0.03 * torch.randn_like(clean)
    noisy = reference + 0.01 * torch.randn_like(clean)

    def psnr(picture: torch.Tensor) -> float:
        return float(-decibels(picture, clean))

    assert float(drift(noisy, reference, clean).mean()) == pytest.approx(
        psnr(reference) - psnr(noisy), abs=0.02
    )
    assert drift(reference, reference, clean).tolist() == [0, 0]
    # Where the reference is all but exact, a change counts as if it were off by 45 dB.
    expected = 10 * torch.log10(((noisy - reference) ** 2).mean() / 10**-4.5 + 1)
    assert float(drift(noisy, reference, reference).mean()) == pytest.approx(float(expected), rel=0.01)


def test_the_worst_patch_weighs_as_much_as_its_bound() -> None:
    """Of 0.1 dB in the mean and 0.5 in the worst tile, 0.1 dB everywhere costs less than 0.5 in a fifth."""
    even, uneven = torch.full((10,), 0.1), torch.tensor([0.5, 0.5] + 8 * [0.0])
    assert float(within_budget(even)) == pytest.approx(0.12)
    assert float(within_budget(uneven)) == pytest.approx(0.2)
    assert float(within_budget(torch.zeros(3))) == 0


def test_equal_pictures_have_a_finite_loss_and_gradient() -> None:
    x = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    loss = StageLoss(0.05, 0.01, 0.01)([x], x.detach())
    loss.backward()
    assert torch.isfinite(loss)
    assert x.grad is not None and torch.isfinite(x.grad).all()
