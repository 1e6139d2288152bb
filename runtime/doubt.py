"""Is it a result at all? Engines fail silently: black, constant or frozen pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdps.core.frame import Image

GRID = 96
"""Points along a side at which pictures are looked at: a thousandth of the cost of all of them."""
FLAT, LIVELY = 2, 24
"""Levels between the darkest and lightest point: of a picture that shows nothing, of one that does."""
MOVED = 1.0
"""Mean difference in levels between two inputs that must show in the outputs."""


class Doubt:
    """Judges results by their inputs, so that a black night may stay black."""

    def __init__(self) -> None:
        self._seen: tuple[Image, Image] | None = None

    def of(self, rainy: Image, clean: Any) -> str:
        """Why a result is not to be believed, one word; empty if it is.

        'odd' is no picture of the input's shape and dtype, 'nan' holds what is no number, 'flat'
        shows nothing where the input shows something (black is what most engines make of NaN), and
        'frozen' is the result of another frame.
        """
        if not isinstance(clean, np.ndarray) or clean.shape != rainy.shape:
            return "odd"
        if clean.dtype != np.uint8:
            return "nan" if clean.dtype.kind == "f" and not np.isfinite(clean).all() else "odd"
        before, after = _points(rainy), _points(clean)
        last, self._seen = self._seen, (before, after)
        if int(np.ptp(after)) <= FLAT and int(np.ptp(before)) >= LIVELY:
            return "flat"
        if (
            last is not None
            and last[1].shape == after.shape
            and np.array_equal(last[1], after)
            and float(np.abs(last[0].astype(np.int16) - before).mean()) > MOVED
        ):
            return "frozen"
        return ""


def _points(image: Image) -> Image:
    height, width = image.shape[:2]
    return np.ascontiguousarray(image[:: max(1, height // GRID), :: max(1, width // GRID)])
