"""The clips that frame context is measured on are films: the scene pans, the rain falls."""

from __future__ import annotations

import numpy as np

from sdps.benchmarks.tiling_video import PAN, clip


def test_a_clip_pans_over_its_photograph_in_rain() -> None:
    photo = np.random.default_rng(0).integers(0, 200, (80, 120, 3), dtype=np.uint8)
    frames = list(clip(photo, 0, 3))
    assert len(frames) == 3
    (first_rainy, first), (second_rainy, second) = frames[:2]
    assert first.shape == first_rainy.shape == (80 - 3 * PAN, 120 - 3 * PAN, 3)
    assert np.array_equal(first[PAN:, PAN:], second[:-PAN, :-PAN])
    assert (first_rainy != first).mean() > 0.05
    assert not np.array_equal(first_rainy[PAN:, PAN:], second_rainy[:-PAN, :-PAN]), "the rain has moved on"
