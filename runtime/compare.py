"""Before and after in one picture."""

from __future__ import annotations

import math

import numpy as np

from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.runtime.opencv import opencv

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
    cv2 = opencv()
    height, width = image.shape[:2]
    result = image.copy()
    scale = max(0.4, min(height, width) / 500)
    thick = max(1, round(1.6 * scale))
    (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    margin = round(0.6 * h)
    if w + 4 * margin > width // 2 or h + 4 * margin > height:
        return result
    x = margin * 2 if side == 0 else width - w - 2 * margin
    y = h + 2 * margin
    box = result[y - h - margin : y + base + margin // 2, x - margin : x + w + margin]
    box[:] = box // 3  # darkened, so that white letters stand out on a white sky
    cv2.putText(result, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thick, cv2.LINE_AA)
    return result
