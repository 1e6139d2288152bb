"""The rain renderer: deterministic, bounded, and as heavy as its looks say."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sdps.core.errors import MissingDependency, UsageError
from sdps.core.metrics import psnr
from sdps.training.foreign_rain import albumentations_rain, foreign_rain
from sdps.training.rain import LOOKS, Rain, RainField, render, sample_rain

STEADY = Rain(rate=20, coverage=0.3, opacity=0.8, length=30, width=2, angles=(0.0,), spread=0.0)


def scene(height: int = 120, width: int = 160) -> Tensor:
    ramp = torch.linspace(0.1, 0.6, width).expand(3, height, width)
    return ramp * torch.tensor([1.0, 0.9, 0.8])[:, None, None]


@pytest.mark.parametrize("look", LOOKS)
def test_same_seed_same_rain(look: str) -> None:
    rains = [sample_rain(np.random.default_rng(5), look) for _ in range(2)]
    assert rains[0] == rains[1]
    first, second = (render(scene(), RainField(rain, 120, 160, seed=9)) for rain in rains)
    assert torch.equal(first, second)
    assert not torch.equal(first, render(scene(), RainField(rains[0], 120, 160, seed=10)))
    assert first.min() >= 0 and first.max() <= 1
    assert torch.isfinite(first).all()


def test_heavier_looks_cost_more_decibels() -> None:
    def severity(look: str) -> float:
        values = []
        for seed in range(6):
            rain = sample_rain(np.random.default_rng(seed), look)
            rainy = render(scene(), RainField(rain, 120, 160, seed))
            values.append(psnr((rainy * 255).byte().numpy(), (scene() * 255).byte().numpy()))
        return float(np.mean(values))

    drizzle, light, medium, heavy = (severity(look) for look in ("drizzle", "light", "medium", "heavy"))
    assert drizzle > light > medium > heavy
    assert heavy < 20 < light


def test_rain_brightens_and_never_darkens_a_dark_scene() -> None:
    rainy = render(scene(), RainField(STEADY, 120, 160, seed=0))
    assert (rainy >= scene() - 1e-6).all()
    assert (rainy - scene()).max() > 0.1


def test_streaks_follow_the_wind() -> None:
    def slant(angle: float) -> float:
        thick = replace(STEADY, angles=(angle,), width=6, length=80, depth=1.0001)
        mask = RainField(thick, 240, 320, seed=1).opacity()[0]
        gy, gx = torch.gradient(mask)
        # Structure tensor: the direction along which the picture changes least.
        xx, yy, xy = (gx * gx).sum(), (gy * gy).sum(), (gx * gy).sum()
        return float(0.5 * torch.atan2(2 * xy, xx - yy))  # of the normal; 0 for vertical streaks

    assert slant(0.0) == pytest.approx(0.0, abs=0.05)
    assert slant(0.4) == pytest.approx(-0.4, abs=0.1)


def test_drops_fall_from_frame_to_frame() -> None:
    field = RainField(replace(STEADY, depth=1.0001, coverage=0.05), 200, 160, seed=2, blur=0.5)
    first, second = field.opacity(0)[0], field.opacity(1)[0]
    shifts = range(120)
    match = [float((first[: 200 - s] * second[s:]).sum()) for s in shifts]
    # Exposure is half the frame interval, so drops fall twice a streak's length per frame.
    assert 30 < int(np.argmax(match)) < 90
    assert max(match) > 2 * match[0]


def test_more_coverage_hides_more() -> None:
    hidden = [
        float(RainField(replace(STEADY, coverage=c), 120, 160, seed=3).opacity().mean())
        for c in (0.1, 0.4, 1.6)
    ]
    assert hidden[0] < hidden[1] < hidden[2] < 1


def test_a_patch_that_no_drop_touches_stays_as_it_was() -> None:
    field = RainField(STEADY, 32, 32, seed=4)
    field.drops["x"][:] = 0.0  # the far left of the margin
    assert torch.equal(render(scene(32, 32), field), scene(32, 32))


def test_refracting_drops_take_the_colour_of_the_other_half() -> None:
    """A blue sky over a dark red ground: drops before the ground turn bluer, and no look changes."""
    sky = torch.tensor([0.2, 0.3, 0.9])[:, None, None].expand(3, 60, 160)
    ground = torch.tensor([0.3, 0.05, 0.05])[:, None, None].expand(3, 60, 160)
    image = torch.cat([sky, ground], 1)
    usual, bent = (
        render(image, RainField(replace(STEADY, refraction=share), 120, 160, seed=5)) for share in (0.0, 1.0)
    )
    hit = (usual - image).abs().sum(0) > 0.2
    hit[:60] = False
    tint = [float((picture[2] / picture[0])[hit].mean()) for picture in (usual, bent)]
    assert tint[1] > 1.2 * tint[0]
    assert bent.min() >= 0 and bent.max() <= 1
    rng = np.random.default_rng(0)
    assert all(sample_rain(rng, look).refraction == 0 for look in LOOKS)


def test_white_drops_are_white_at_dusk() -> None:
    dusk = scene() * 0.2
    usual, white = (
        render(dusk, RainField(replace(STEADY, opacity=1.0, white=share), 120, 160, seed=6))
        for share in (0.0, 1.0)
    )
    assert usual.max() < 0.7
    assert white.max() > 0.9
    assert torch.equal(white == dusk, usual == dusk)


def test_dense_rain_leaves_hardly_a_pixel_dry() -> None:
    for seed in range(8):
        rain = sample_rain(np.random.default_rng(seed), "dense")
        wet = [
            float((RainField(fallen, 120, 160, seed).opacity() > 0.03).float().mean())
            for fallen in (rain, replace(rain, coverage=0.1))
        ]
        assert wet[0] > 0.6 > wet[1]


def test_no_look_that_is_measured_has_white_drops() -> None:
    """They were added after models had been compared on those."""
    for look in set(LOOKS) - {"dense", "any"}:
        assert sample_rain(np.random.default_rng(1), look).white == 0
    assert any(sample_rain(np.random.default_rng(seed), "any").white for seed in range(20))


def test_an_unknown_look() -> None:
    with pytest.raises(UsageError, match="drizzle"):
        sample_rain(np.random.default_rng(0), "monsoon")


def test_the_foreign_rain_is_heavy_and_the_same_every_time() -> None:
    photo = (scene().permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    rainy = foreign_rain(photo, 3)
    assert np.array_equal(rainy, foreign_rain(photo, 3))
    assert not np.array_equal(rainy, foreign_rain(photo, 4))
    assert 8 < psnr(rainy, photo) < 18


def test_without_albumentations_its_rain_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No extra of sdps brings it."""
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(MissingDependency, match=r"pip install albumentations$"):
        albumentations_rain(np.zeros((32, 32, 3), np.uint8), 0)
