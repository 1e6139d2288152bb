"""Words on the picture: figures on request, and the mark of a picture that is no longer the present."""

from __future__ import annotations

import numpy as np

from sdps.core.frame import Image
from sdps.runtime.opencv import opencv

RED, BLACK = (170, 20, 20), (0, 0, 0)


def mark_stale(image: Image, seconds: float) -> Image:
    """A darkened copy with a red bar that says since when nothing came.

    Args:
        image: (H, W, 3) uint8 RGB.
        seconds: Age of the picture.
    """
    dark = (image // 2).astype(np.uint8)
    thick = max(2, min(image.shape[:2]) // 60)
    dark[:thick] = dark[-thick:] = RED
    dark[:, :thick] = dark[:, -thick:] = RED
    return write_lines(dark, [f"NO SIGNAL FOR {seconds:.0f} s"], RED)


def write_lines(image: Image, lines: list[str], ground: tuple[int, int, int] = BLACK) -> Image:
    """A copy with lines of text in the lower left corner, as large as the picture has room for.

    Args:
        image: (H, W, 3) uint8 RGB.
        lines: Top first.
        ground: Colour behind the white letters, RGB.
    """
    cv2 = opencv()
    height, width = image.shape[:2]
    result = image.copy()
    font = cv2.FONT_HERSHEY_SIMPLEX
    widest = max(cv2.getTextSize(line, font, 1.0, 1)[0][0] for line in lines)
    scale = min(max(0.35, min(height, width) / 700), 0.9 * width / widest)
    thick = max(1, round(1.5 * scale))
    (_, tall), base = cv2.getTextSize("Ag", font, scale, thick)
    step, bottom = tall + base + 2, height - base - 2
    for i, line in enumerate(reversed(lines)):
        y = bottom - i * step
        (wide, _), _ = cv2.getTextSize(line, font, scale, thick)
        result[max(0, y - tall - 2) : y + base, 2 : wide + 8] = ground
        cv2.putText(result, line, (5, y), font, scale, (255, 255, 255), thick, cv2.LINE_AA)
    return result
