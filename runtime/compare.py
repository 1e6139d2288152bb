"""Before and after in one picture."""

from __future__ import annotations

import math

import numpy as np

from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.runtime.text import render

MODES = ("off", "side", "wipe")
SWEEP_SECONDS = 6.0
"""Time in which the divider of a wipe crosses a video and comes back."""


def compose(mode: str, rainy: Image, clean: Image, position: float = 0.5) -> Image:
    """What is shown: the result, or both.

    Args:
        mode: 'off' for the result alone; 'side' for both, twice as wide; 'wipe' for the rainy
            picture left of a divider and the result right of it.
        rainy, clean: (H, W, 3) uint8 RGB of equal shape.
        position: Where the divider stands, 0 (left) to 1.

    Raises:
        UsageError: there is no such mode.
    """
    if mode == "off":
        return clean
    if mode == "side":
        return np.hstack([label(rainy, "rainy", 0.0), label(clean, "derained", 1.0)])
    if mode == "wipe":
        width = clean.shape[1]
        cut = round(min(max(position, 0.0), 1.0) * width)
        left, right = label(rainy, "rainy", 0.0), label(clean, "derained", 1.0)
        result = np.concatenate([left[:, :cut], right[:, cut:]], axis=1)
        thick = max(1, width // 400)
        result[:, max(0, cut - thick) : cut + thick] = 255
        return np.ascontiguousarray(result)
    raise UsageError(f"There is no comparison {mode!r}.", f"Choose from {', '.join(MODES)}.")


def sweep(seconds: float) -> float:
    """Position of a wipe's divider at a moment: to and fro over the middle of the picture."""
    return 0.5 - 0.35 * math.cos(2 * math.pi * seconds / SWEEP_SECONDS)


def label(image: Image, text: str, side: float) -> Image:
    """A copy with a word in the upper left (side 0) or right (side 1) corner, if there is room."""
    height, width = image.shape[:2]
    result = image.copy()
    words = render(text, round(max(9.0, min(height, width) / 24)))
    margin = words.height // 3
    if words.width + 4 * margin > width // 2 or words.height + 4 * margin > height:
        return result
    left = 2 * margin if side == 0 else width - words.width - 2 * margin
    box = result[margin : words.height + 3 * margin, left - margin : left + words.width + margin]
    box[:] = box // 3  # darkened, so that white letters stand out on a white sky
    words.draw(result, 2 * margin, left)
    return result
