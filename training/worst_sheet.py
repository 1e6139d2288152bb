"""A sheet of the pictures that came out worst: rainy | result | truth | error, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdps.core.artifact import write_bytes
from sdps.core.console import need
from sdps.core.frame import Image
from sdps.training.protocol import PictureScore

WIDTH = 320
"""Of a picture on the sheet, in pixels."""
STRIP = 22
"""Height of the line of text over a row."""
AMPLIFIED = 4
"""The error is shown so many times as large."""


class WorstSheet:
    """Keeps each set's pictures of the lowest PSNR as they come; so memory does not grow with the set.

    Args:
        rows: How many to keep, shared among the sets; at least one of each.
        sets: How many sets there are.
    """

    def __init__(self, rows: int = 6, sets: int = 1) -> None:
        self.rows = max(1, rows // sets)
        self.kept: dict[str, list[tuple[float, Image]]] = {}

    def add(self, group: str, score: PictureScore, rainy: Image, result: Image, clean: Image) -> None:
        """Considers a picture of a set; images are (H, W, 3) uint8 RGB of one size."""
        kept = self.kept.setdefault(group, [])
        if len(kept) == self.rows and score.after.psnr >= kept[-1][0]:
            return
        text = (
            f"{group} {score.picture}: {score.before.psnr:.2f} -> {score.after.psnr:.2f} dB, "
            f"SSIM {score.before.ssim:.3f} -> {score.after.ssim:.3f}"
        )
        kept.append((score.after.psnr, _row(text, rainy, result, clean)))
        kept.sort(key=lambda row: row[0])
        del kept[self.rows :]

    def write(self, path: Path) -> None:
        """Writes the sheet as PNG, each set's worst first. Without a picture nothing is written."""
        if not self.kept:
            return
        cv2 = need("cv2")
        head = _text(f"rainy | restored | truth | error x{AMPLIFIED}", 4 * WIDTH)
        sheet = np.concatenate([head, *(row for kept in self.kept.values() for _, row in kept)])
        write_bytes(path, cv2.imencode(".png", sheet[:, :, ::-1])[1].tobytes())


def _row(text: str, rainy: Image, result: Image, clean: Image) -> Image:
    cv2 = need("cv2")
    error = np.abs(result.astype(np.int16) - clean)
    shown = np.minimum(error * AMPLIFIED, 255).astype(np.uint8)
    height = max(1, round(WIDTH * rainy.shape[0] / rainy.shape[1]))
    panels = [
        cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
        for picture in (rainy, result, clean, shown)
    ]
    return np.concatenate([_text(text, 4 * WIDTH), np.concatenate(panels, 1)])


def _text(text: str, width: int) -> Image:
    """A line of white text on dark grey, (STRIP, width, 3) uint8."""
    cv2 = need("cv2")
    strip: Image = np.full((STRIP, width, 3), 32, np.uint8)
    # OpenCV's font has ASCII only.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(strip, plain, (6, STRIP - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255,) * 3, 1, cv2.LINE_AA)
    return strip
