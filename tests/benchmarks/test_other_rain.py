"""Rain of other recipes: heavy, the same every time, and only ever brighter."""

from __future__ import annotations

import numpy as np
import pytest

from sdps.benchmarks.other_rain import RECIPES, table
from sdps.core.metrics import psnr


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_rains(recipe: str) -> None:
    ramp = np.linspace(20, 160, 200).round().astype(np.uint8)
    photo = np.repeat(np.repeat(ramp[None, :, None], 151, 0), 3, 2)
    scene, rain = RECIPES[recipe]
    clean = scene(photo)
    rainy = rain(clean, 3)
    assert rainy.shape == clean.shape and rainy.dtype == np.uint8
    assert np.array_equal(rainy, rain(clean, 3))
    assert not np.array_equal(rainy, rain(clean, 4))
    assert (rainy >= clean).all()
    assert 8 < psnr(rainy, clean) < 28
    # Streaks: columns are more alike than rows.
    added = rainy[..., 0].astype(float) - clean[..., 0]
    down, across = (np.abs(np.diff(added, axis=axis)).mean() for axis in (0, 1))
    assert across > 1.2 * down


def test_the_table_tells_mean_and_worst_gain() -> None:
    rows = [
        {"rain": recipe, "picture": name, "rainy_db": 15.0, "a": 15.0 + gain}
        for recipe in RECIPES
        for name, gain in (("x", 4.0), ("y", -1.0))
    ]
    assert table(rows, ["a"]).splitlines()[2] == "| drawn lines | 15.00 | +1.50 (-1.00) |"
