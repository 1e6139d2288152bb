"""A rain renderer: drops of a size distribution, seen by a camera, as motion-blurred streaks.

What is physical, and where it is from:
- drop diameters follow Marshall and Palmer (1948): N(D) ~ exp(-L D), L = 4.1 R^-0.21 per mm for
  a rain rate of R mm/h;
- they fall at Atlas's (1973) terminal velocity, v(D) = 9.65 - 10.3 exp(-0.6 D) m/s;
- a drop at distance z is D/z wide and v T/z long for an exposure T, so near drops are few, wide
  and long, and far ones many and fine; it covers a pixel for D/v of the exposure only, so it is
  the more opaque the bigger the drop and the shorter the exposure (Garg and Nayar, "Vision and
  Rain", IJCV 2007);
- a drop refracts a wide field of view, so its colour is near the scene's bright average, whatever
  stands behind it (same source), and it oscillates, which modulates the streak along its length.

The looks (`LOOKS`) scale density and opacity beyond nature where the benchmark sets do: their
heavy rain is artist's rain. Everything is deterministic by seed and runs where the picture is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sdps.core.errors import UsageError


@dataclass(frozen=True)
class Rain:
    """One rain as one camera sees it. Lengths are pixels.

    Attributes:
        rate: Rain rate R in mm/h; a higher one has more big drops.
        coverage: Expected sum of streak areas over the picture's area.
        opacity: Opacity of the median drop, 0 to 1.
        length: Streak length of a 2 mm drop at the nearest distance.
        width: Streak width of the same drop.
        depth: Farthest distance in units of the nearest.
        angles: Directions of fall in radians from vertical, one per gust.
        spread: Standard deviation of the direction within a gust, radians.
        additive: 0 blends drops over the scene (as nature does), 1 adds them (as some sets do).
        light: Brightness of drops relative to the scene's bright average.
        white: 0 gives drops that light, 1 white whatever the scene (as sets drawn by hand do).
        edge: 0 for the soft streaks of real drops, 1 for hard ones of even brightness, as drawn
            with a line tool (some sets and augmentation libraries have such).
        alike: 0 for drops of all sizes, 1 for drops of one size (some sets draw all streaks alike).
        veil: Share of the light scattered by far rain, 0 to 1 (fog-like).
        refraction: 0 gives all drops the colour of the scene's bright average, 1 that of what each
            refracts: a wide part of the scene around it, upside down. No look uses it by itself.
    """

    rate: float
    coverage: float
    opacity: float
    length: float
    width: float
    depth: float = 4.0
    angles: tuple[float, ...] = (0.0,)
    spread: float = 0.03
    additive: float = 0.0
    light: float = 1.0
    white: float = 0.0
    edge: float = 0.0
    alike: float = 0.0
    veil: float = 0.0
    refraction: float = 0.0


# Per look: log-uniform ranges of coverage, opacity, length, width. `dense` is rain as photo editors make
# it from noise: so many fine streaks that they run together and no pixel between them is left dry.
LOOKS: dict[str, dict[str, tuple[float, float]]] = {
    "drizzle": {"coverage": (0.03, 0.12), "opacity": (0.20, 0.50), "length": (6, 30), "width": (0.9, 1.8)},
    "light": {"coverage": (0.04, 0.14), "opacity": (0.35, 0.70), "length": (15, 60), "width": (1.0, 2.8)},
    "medium": {"coverage": (0.18, 0.45), "opacity": (0.45, 0.85), "length": (15, 80), "width": (1.2, 3.4)},
    "heavy": {"coverage": (0.35, 0.85), "opacity": (0.65, 1.00), "length": (20, 110), "width": (1.1, 4.5)},
    "dense": {"coverage": (0.60, 2.00), "opacity": (0.20, 0.55), "length": (12, 60), "width": (0.8, 2.2)},
    "any": {"coverage": (0.03, 1.10), "opacity": (0.20, 1.00), "length": (5, 120), "width": (0.8, 5.0)},
}


def sample_rain(rng: np.random.Generator, look: str = "any") -> Rain:
    """Draws a rain of a look.

    Raises:
        UsageError: there is no such look.
    """
    if look not in LOOKS:
        raise UsageError(f"There is no rain look {look!r}.", f"Choose from {', '.join(LOOKS)}.")
    values = {
        key: float(np.exp(rng.uniform(math.log(low), math.log(high))))
        for key, (low, high) in LOOKS[look].items()
    }
    gusts = int(rng.choice([1, 1, 1, 1, 2, 3])) if look in ("heavy", "dense", "any") else 1
    main = float(np.clip(rng.normal(0, 0.3), -0.9, 0.9))
    others = rng.normal(main, 0.35, gusts - 1)
    return Rain(
        rate=float(np.exp(rng.uniform(math.log(2), math.log(100)))),
        depth=float(rng.uniform(1.05, 4)),
        angles=(main, *(float(a) for a in np.clip(others, -1, 1))),
        spread=float(rng.uniform(0.0, 0.08)),
        additive=float(rng.choice([0.0, 0.0, 0.0, 1.0, 1.0, rng.uniform()])),
        light=float(rng.choice([rng.uniform(0.85, 1.2), rng.uniform(1.2, 1.5)], p=[0.75, 0.25])),
        edge=float(rng.choice([0.0, 0.0, rng.uniform(), 1.0])),
        alike=float(rng.choice([0.0, 0.0, rng.uniform(), 1.0])),
        # The last draw: what is measured on the other looks keeps its rain.
        white=float(rng.choice([0.0, 0.0, rng.uniform(), 1.0])) if look in ("dense", "any") else 0.0,
        **values,
    )


class RainField:
    """The drops of one rain over one picture size, fixed by a seed; `opacity(t)` draws them.

    Args:
        rain: What falls.
        height, width: Picture size in pixels.
        seed: Same seed, same drops, on any device.
        device: Where to draw.
        blur: Duty cycle of the shutter: exposure over frame interval. With it and the streak's
            length follows how far a drop falls from frame to frame.
    """

    def __init__(
        self,
        rain: Rain,
        height: int,
        width: int,
        seed: int,
        device: torch.device | str = "cpu",
        blur: float = 0.5,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.rain, self.size, self.blur = rain, (height, width), blur
        margin = rain.length * 1.5  # streaks enter and leave the picture
        self.span = (height + 2 * margin, width + 2 * margin)
        self.margin = margin
        diameter = _diameters(rng, rain, 512)
        depth = _depths(rng, rain.depth, 512)
        mean_area = float(np.mean(_length(rain, diameter, depth) * _width(rain, diameter, depth)[0]))
        count = rng.poisson(rain.coverage * self.span[0] * self.span[1] / max(mean_area, 1.0))
        count = int(np.clip(count, 1, 200_000))

        diameter, depth = _diameters(rng, rain, count), _depths(rng, rain.depth, count)
        drawn, thin = _width(rain, diameter, depth)
        # Opacity ~ D / v(D); in units of the 2 mm drop's.
        solid = (diameter / _velocity(diameter)) / (2.0 / _velocity(np.array(2.0)))
        gust = rng.choice(np.asarray(rain.angles), count) + rng.normal(0, rain.spread, count)
        values = {
            "y": rng.uniform(0, self.span[0], count),
            "x": rng.uniform(0, self.span[1], count),
            "length": _length(rain, diameter, depth),
            "width": drawn,
            "alpha": np.clip(rain.opacity * solid * thin * rng.uniform(0.6, 1.4, count), 0, 0.97),
            "angle": gust,
            "wobble": rng.uniform(0, 0.5 * (1 - rain.edge), count),
            "phase": rng.uniform(0, 2 * np.pi, count),
            "cycles": rng.uniform(0.5, 3, count),
        }
        self.drops = {
            key: torch.as_tensor(value, dtype=torch.float32, device=device) for key, value in values.items()
        }

    def opacity(self, frame: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """How much of the scene the drops hide at a moment.

        Args:
            frame: Time in frames. Drops fall on from frame to frame and re-enter at the top.
            shift: (down, right) pixels by which the camera has panned, added to the fall.

        Returns:
            float32 [1,H,W] in 0..1.
        """
        d, (height, width) = self.drops, self.size
        fall = d["length"] / self.blur * frame
        y0 = (d["y"] + fall * d["angle"].cos() + shift[0]) % self.span[0] - self.margin
        x0 = (d["x"] + fall * d["angle"].sin() + shift[1]) % self.span[1] - self.margin

        # Drops beside the picture go first; in a small patch they are most of them.
        reach = d["length"] * d["angle"].sin().abs() + 2 * d["width"]
        near = (y0 + d["length"] > 0) & (y0 < height) & (x0 + reach > 0) & (x0 - reach < width)
        if not near.any():
            return torch.zeros(1, height, width, device=y0.device)
        d, y0, x0 = {key: value[near] for key, value in d.items()}, y0[near], x0[near]

        # Each drop is drawn row by row: along the streak by rows, across it by a few columns.
        rise, run = d["length"] * d["angle"].cos(), d["length"] * d["angle"].sin()
        steps = int(torch.ceil(rise.max()).item()) + 2
        row = torch.arange(steps, device=y0.device)[:, None]  # [rows,1]
        y = y0.floor() + row  # [rows,drops]
        along = (y - y0 + 0.5) / rise.clamp(min=0.5)  # 0..1 on the streak
        x = x0 + run * along
        half = int(torch.ceil((1.5 * d["width"] / d["angle"].cos()).max()).item())
        slope = 4 + 26 * self.rain.edge
        ends = (slope * along).clamp(0, 1) * (slope * (1 - along)).clamp(0, 1)
        wave = 1 - d["wobble"] * (0.5 + 0.5 * torch.sin(2 * np.pi * d["cycles"] * along + d["phase"]))
        strength = d["alpha"] * ends * wave
        keep = (strength > 0.004) & (y >= 0) & (y < height)
        drop = keep.nonzero()[:, 1]
        y, x, strength = y[keep], x[keep], strength[keep]
        sigma = 0.5 * d["width"][drop] / d["angle"][drop].cos()
        column = x.floor()[:, None] + torch.arange(-half, half + 1, device=x.device)  # [points,columns]
        # From a Gaussian to nearly a box.
        power = 2 + 4 * self.rain.edge
        across = torch.exp(-0.5 * ((column - x[:, None]).abs() / sigma[:, None]) ** power)
        value = strength[:, None] * across
        keep = (value > 0.003) & (column >= 0) & (column < width)
        index = (y[:, None] * width + column)[keep].long()
        # Drops over one another: 1 - prod(1 - a), summed as logarithms.
        clear = torch.zeros(height * width, device=x.device).index_add_(
            0, index, torch.log1p(-value[keep].clamp(max=0.97))
        )
        return (1 - clear.exp()).view(1, height, width)


def render(
    image: Tensor, field: RainField, frame: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    """Rains on a picture.

    Args:
        image: float [3,H,W], RGB in 0..1.
        field: Drops for that size, on the picture's device.
        frame, shift: See `RainField.opacity`.

    Returns:
        float [3,H,W] in 0..1.
    """
    rain = field.rain
    alpha = field.opacity(frame, shift)
    # What the drops show: the scene's bright average, nearly grey.
    bright = torch.quantile(image.flatten(1)[:, :: max(1, image[0].numel() // 4096)], 0.85, dim=1)
    grey = bright.mean()
    light = ((0.35 * bright + 0.65 * grey) * 0.5 + 0.5 * grey.clamp(min=0.75)).clamp(0, 1)[
        :, None, None
    ] * rain.light
    light = torch.lerp(light, torch.ones_like(light), rain.white)
    scene = image * (1 - rain.veil) + light * rain.veil if rain.veil else image
    if rain.refraction:
        light = torch.lerp(light.expand_as(image), _refracted(image) * rain.light, rain.refraction)
    blended = scene * (1 - alpha) + light * alpha
    added = scene + 0.8 * light * alpha
    return torch.lerp(blended, added, rain.additive).clamp(0, 1)


def _refracted(image: Tensor) -> Tensor:
    """What a drop in front of each pixel shows: [3,H,W] to [3,H,W].

    A drop takes in about 165 degrees and turns them upside down (Garg and Nayar 2007), that is
    nearly all of the picture and some of the sky above: here means over a grid of four by four,
    flipped, drawn towards the brightest of them.
    """
    grid = F.adaptive_avg_pool2d(image[None], 4).flip(2)  # [1,3,4,4]
    grid = torch.lerp(grid, grid.amax((2, 3), keepdim=True), 0.5)
    return F.interpolate(grid, image.shape[1:], mode="bilinear", align_corners=False)[0]


def _diameters(rng: np.random.Generator, rain: Rain, count: int) -> np.ndarray:
    """Marshall-Palmer diameters in mm, from 1 (smaller ones are mist) to 6 (larger ones break)."""
    slope = 4.1 * rain.rate**-0.21
    low, high = math.exp(-slope * 1.0), math.exp(-slope * 6.0)
    natural = -np.log(rng.uniform(high, low, count)) / slope
    return natural ** (1 - rain.alike) * 2.0**rain.alike


def _depths(rng: np.random.Generator, far: float, count: int) -> np.ndarray:
    """Distances from 1 to `far`; the volume seen grows with the square of the distance."""
    return rng.uniform(1, far**3, count) ** (1 / 3)


def _velocity(diameter: np.ndarray) -> np.ndarray:
    return 9.65 - 10.3 * np.exp(-0.6 * diameter)


def _length(rain: Rain, diameter: np.ndarray, depth: np.ndarray) -> np.ndarray:
    return np.maximum(rain.length * _velocity(diameter) / _velocity(np.array(2.0)) / depth, 2.0)


def _width(rain: Rain, diameter: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Width to draw, and the opacity left when a drop is thinner than can be drawn."""
    true = rain.width * diameter / 2.0 / depth
    drawn = np.maximum(true, 0.8)
    return drawn, np.minimum(true / drawn, 1.0) ** 0.5
