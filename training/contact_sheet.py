"""`python -m sdps.training.contact_sheet FILE.jpg`: what the rain renderer does, on one sheet.

Rows: each look on held-out photographs; a veil, refracting drops and hard streaks; what compression leaves of
rain (`recording.py`); another renderer's rain (`foreign_rain.py`); and four frames of falling rain, one after
the other.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sdps.core.artifact import write_bytes
from sdps.core.console import need
from sdps.core.frame import Image
from sdps.training.foreign_rain import foreign_rain
from sdps.training.photos import load_split
from sdps.training.rain import Rain, RainField, render, sample_rain
from sdps.training.recording import jpeg

CELL = (213, 320)
"""Height and width of a picture on the sheet."""
COLUMNS = 4
PICTURES = (0, 3, 6, 10)
"""Of the held-out photographs."""
LOOKS = ("drizzle", "light", "medium", "heavy", "dense")
QUALITIES = (90, 70, 40)
"""Of JPEG."""
FALLING = Rain(rate=30, coverage=0.25, opacity=0.8, length=30, width=1.8, angles=(0.15,), spread=0.02)


def rained_on(photo: Image, rain: Rain, seed: int, frame: float = 0.0) -> Image:
    """A (H, W, 3) uint8 RGB picture in a rain."""
    clean = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
    rainy = render(clean, RainField(rain, photo.shape[0], photo.shape[1], seed), frame)
    result: Image = (rainy * 255).round().byte().permute(1, 2, 0).numpy()
    return result


def sheet() -> Image:
    """The sheet, (H, W, 3) uint8 RGB; the same each time."""
    cv2 = need("cv2")
    photos = load_split("evaluate", 480)
    photos = [_fill(photos[i % len(photos)]) for i in PICTURES]
    rows: list[tuple[str, list[Image]]] = []
    for number, look in enumerate(LOOKS):
        rains = [sample_rain(np.random.default_rng((7, number, i)), look) for i in range(COLUMNS)]
        rows.append((look, [rained_on(photo, rains[i], i) for i, photo in enumerate(photos)]))
    steady = replace(sample_rain(np.random.default_rng(3), "medium"), additive=0.0, edge=0.0)
    kinds = {
        "medium": steady,
        "the same, refracting": replace(steady, refraction=1.0),
        "with a veil": replace(steady, veil=0.35),
        "hard, alike": replace(steady, edge=1.0, alike=1.0),
    }
    rows.append((" | ".join(kinds), [rained_on(photos[3], rain, 5) for rain in kinds.values()]))
    light = _middle(rained_on(photos[1], replace(steady, length=40, width=1.5), 5))
    recorded = [light, *(jpeg(light, quality) for quality in QUALITIES)]
    names = " | ".join(["enlarged", *(f"JPEG {quality}" for quality in QUALITIES)])
    rows.append((names, [image.repeat(2, 0).repeat(2, 1)[: CELL[0]] for image in recorded]))
    foreign = [foreign_rain(photo, i) for i, photo in enumerate(photos)]
    rows.append(("another renderer (never trained on)", foreign))
    frames = [rained_on(photos[2], FALLING, 9, frame) for frame in range(COLUMNS)]
    rows.append(("four frames of a video", frames))
    parts = []
    for text, pictures in rows:
        strip = np.full((24, COLUMNS * CELL[1], 3), 32, np.uint8)
        cv2.putText(strip, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255,) * 3, 1, cv2.LINE_AA)
        parts += [strip, np.concatenate(pictures, 1)]
    return np.concatenate(parts)


def _middle(picture: Image) -> Image:
    """The middle of a cell, a quarter of it: (107, 160, 3)."""
    top, left = CELL[0] // 4, CELL[1] // 4
    return picture[top : top + (CELL[0] + 1) // 2, left : left + CELL[1] // 2]


def _fill(photo: Image) -> Image:
    """The middle of a photograph, scaled to a cell."""
    cv2 = need("cv2")
    scale = max(CELL[0] / photo.shape[0], CELL[1] / photo.shape[1])
    size = (max(CELL[1], round(photo.shape[1] * scale)), max(CELL[0], round(photo.shape[0] * scale)))
    scaled = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    top, left = (scaled.shape[0] - CELL[0]) // 2, (scaled.shape[1] - CELL[1]) // 2
    return np.ascontiguousarray(scaled[top : top + CELL[0], left : left + CELL[1]])


def main(path: Path) -> None:
    """Writes the sheet as JPEG."""
    cv2 = need("cv2")
    encoded = cv2.imencode(".jpg", sheet()[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    write_bytes(path, encoded.tobytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
