"""Words on the picture: figures on request, and the mark of a picture that is no longer the present."""

from __future__ import annotations

import numpy as np

from sdps.core.frame import Image
from sdps.runtime.text import render

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
    height, width = image.shape[:2]
    result = image.copy()
    pixels = max(8.0, min(height, width) / 34)
    widest = max(render(line, round(pixels)).width for line in lines)
    pixels = min(pixels, pixels * 0.9 * width / widest)
    drawn = [render(line, max(1, int(pixels))) for line in lines]
    step = drawn[0].height + 4
    for i, words in enumerate(reversed(drawn)):
        top = height - (i + 1) * step
        result[max(0, top - 2) : max(0, top + words.height + 2), 2 : words.width + 8] = ground
        words.draw(result, top, 5)
    return result
