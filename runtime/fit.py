"""A picture of another size brought to the one that an output began with."""

from __future__ import annotations

import numpy as np

from sdps.core.frame import Image


def fit(image: Image, height: int, width: int) -> Image:
    """Scales (H, W, 3) uint8 RGB into `height` x `width` with its proportions, the rest black."""
    if image.shape[:2] == (height, width):
        return image
    from PIL import Image as Pictures

    scale = min(height / image.shape[0], width / image.shape[1])
    h, w = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    # Pillow's widens with the step when it shrinks, so that no pixel is passed over.
    scaled = Pictures.fromarray(image).resize((w, h), Pictures.Resampling.BILINEAR)
    result = np.zeros((height, width, 3), np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    result[top : top + h, left : left + w] = np.asarray(scaled)
    return result
