"""PSNR and SSIM, once for everybody, by the two conventions that deraining papers print.

- RGB: PSNR over all pixels and channels; SSIM as the mean over channels with a 7x7 uniform window
  (the paper's protocol, docs/network.md).
- Y: BT.601 luma in 16..235, rounded to 8 bits, as MATLAB's `rgb2ycbcr` gives it for uint8
  pictures; PSNR with peak 255; SSIM with an 11x11 Gaussian window of sigma 1.5 where it lies
  wholly inside the picture, as Wang's `ssim_index.m` has it, which those papers' scripts call. It
  reads higher, by one to two dB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdps.core.console import need
from sdps.core.errors import FrameError
from sdps.core.frame import Image

CONVENTIONS = ("rgb", "y")
SMALLEST = 11
"""Pixels of the shortest side: the Gaussian window needs that many."""


@dataclass(frozen=True)
class Quality:
    """PSNR in dB (infinite for equal pictures) and SSIM (at most 1) of one picture."""

    psnr: float
    ssim: float


def psnr(truth: npt.NDArray[np.uint8], image: npt.NDArray[np.uint8]) -> float:
    """PSNR in dB of two uint8 pictures of any shape, over all values; infinite for equal ones.

    Raises:
        FrameError: they differ in shape.
    """
    _check(truth, image)
    return psnr_of(float(np.mean((truth.astype(np.float64) - image) ** 2)))


def psnr_of(error: float) -> float:
    """PSNR in dB of a mean squared error in 8-bit levels; infinite for none."""
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(truth: Image, image: Image) -> float:
    """SSIM of two (H, W, 3) uint8 pictures from 7x7: mean over channels, 7x7 uniform window.

    Raises:
        FrameError: they differ in shape.
        MissingDependency: scikit-image is not installed.
    """
    _check(truth, image)
    metrics = need("skimage.metrics")
    return float(metrics.structural_similarity(truth, image, win_size=7, data_range=255, channel_axis=2))


def luma(image: Image) -> npt.NDArray[np.uint8]:
    """BT.601 luma of (H, W, 3) uint8 RGB as MATLAB has it: (H, W) uint8 in 16..235."""
    return np.round(16 + image @ np.array([65.481, 128.553, 24.966]) / 255).astype(np.uint8)


def ssim_luma(truth: Image, image: Image) -> float:
    """SSIM on Y of two (H, W, 3) uint8 pictures from 11x11: Gaussian window, borders left out.

    Raises:
        FrameError: they differ in shape.
        MissingDependency: scikit-image is not installed.
    """
    _check(truth, image)
    _, values = need("skimage.metrics").structural_similarity(
        luma(truth),
        luma(image),
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return float(values[5:-5, 5:-5].mean())


def quality(truth: Image, image: Image, convention: str = "rgb") -> Quality:
    """PSNR and SSIM of (H, W, 3) uint8 pictures by 'rgb' or 'y' (see above)."""
    if convention == "y":
        return Quality(psnr(luma(truth), luma(image)), ssim_luma(truth, image))
    return Quality(psnr(truth, image), ssim(truth, image))


def _check(truth: npt.NDArray[np.uint8], image: npt.NDArray[np.uint8]) -> None:
    if truth.shape != image.shape:
        raise FrameError(f"Pictures of shapes {truth.shape} and {image.shape} cannot be compared.")
