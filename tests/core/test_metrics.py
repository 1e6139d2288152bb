"""PSNR and SSIM equal scikit-image's, and the Y convention is MATLAB's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import correlate1d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sdps.core.errors import FrameError
from sdps.core.frame import Image
from sdps.core.metrics import luma, psnr, quality, ssim, ssim_luma


@pytest.fixture
def pair(picture: Callable[[int, int], Image]) -> tuple[Image, Image]:
    clean = picture(61, 83)
    noise = np.random.default_rng(1).normal(0, 12, clean.shape)
    return clean, np.clip(clean + noise, 0, 255).astype(np.uint8)


def test_psnr_and_ssim_equal_scikit_images(pair: tuple[Image, Image]) -> None:
    clean, noisy = pair
    assert psnr(clean, noisy) == pytest.approx(peak_signal_noise_ratio(clean, noisy), abs=1e-6)
    expected = structural_similarity(clean, noisy, channel_axis=2)
    assert ssim(clean, noisy) == pytest.approx(expected, abs=1e-6)
    assert quality(clean, noisy).psnr == psnr(clean, noisy)


def test_luma_of_known_colours_is_that_of_rgb2ycbcr() -> None:
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (100, 150, 200)]
    image = np.array([colours], np.uint8)
    assert luma(image)[0].tolist() == [16, 235, 81, 145, 41, 137]


def ssim_index(a: np.ndarray, b: np.ndarray) -> float:
    """Wang's definition, written out: 11x11 Gaussian of sigma 1.5, only where it fits."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def blur(x: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(x, taps, 0), taps, 1)[5:-5, 5:-5]

    a, b = a.astype(float), b.astype(float)
    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top, bottom = (2 * ma * mb + c1) * (2 * cov + c2), (ma**2 + mb**2 + c1) * (va + vb + c2)
    return float((top / bottom).mean())


def test_ssim_on_y_is_wangs(pair: tuple[Image, Image]) -> None:
    clean, noisy = pair
    assert ssim_luma(clean, noisy) == pytest.approx(ssim_index(luma(clean), luma(noisy)), abs=1e-6)


def test_y_reads_higher_than_rgb(pair: tuple[Image, Image]) -> None:
    clean, noisy = pair
    assert quality(clean, noisy, "y").psnr > quality(clean, noisy).psnr + 1


def test_equal_pictures(pair: tuple[Image, Image]) -> None:
    clean, _ = pair
    for convention in ("rgb", "y"):
        same = quality(clean, clean, convention)
        assert same.psnr == math.inf and same.ssim == pytest.approx(1)


def test_pictures_of_different_sizes_are_refused(pair: tuple[Image, Image]) -> None:
    with pytest.raises(FrameError, match="61, 83"):
        quality(pair[0], pair[1][:-1])
