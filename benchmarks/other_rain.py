"""`python -m sdps.benchmarks.other_rain MODEL...`: what models make of rain of four recipes more.

Training's looks were chosen with an eye on two renderers that are not trained on (training/foreign_rain.py);
nothing looks at these four but this measurement. Each is how a rain set or a tutorial makes rain: lines drawn
with a brush, noise smeared until it is soft, noise of few pixels smeared and enlarged, and that of an editor
over a scene at dusk. On the 15 held-out photographs, PSNR in dB on RGB.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sdps import __version__
from sdps.core.artifact import write_json
from sdps.core.console import failing_clearly, need
from sdps.core.frame import Image
from sdps.core.metrics import psnr
from sdps.runtime.derainer import Derainer
from sdps.training.evaluate import held_out
from sdps.training.foreign_rain import foreign_rain

app = typer.Typer(add_completion=False)


def drawn_lines(image: Image, seed: int) -> Image:
    """Bright lines of one direction, one or two pixels wide, softened and blended over the picture."""
    cv2 = need("cv2")
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.float32)
    angle = rng.uniform(-0.4, 0.4)
    for _ in range(int(height * width * rng.uniform(0.0008, 0.0016))):
        length, x, y = rng.uniform(20, 60), rng.uniform(0, width), rng.uniform(0, height)
        end = int(x + length * np.sin(angle)), int(y + length * np.cos(angle))
        strength, thickness = float(rng.uniform(0.4, 1.0)), int(rng.integers(1, 3))
        cv2.line(mask, (int(x), int(y)), end, strength, thickness, cv2.LINE_AA)
    mask = 0.85 * cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.4, 0.9))[..., None]
    return _levels(image / 255 * (1 - mask) + mask)


def soft_noise(image: Image, seed: int) -> Image:
    """Gaussian noise, smeared until it is soft streaks all over, and screened."""
    cv2 = need("cv2")
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, image.shape[:2]).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.5, 1.2))
    streaks = _smeared(noise, int(rng.integers(25, 60)), rng.uniform(-30, 30))
    mask = ((streaks / streaks.std() - rng.uniform(0.3, 0.9)) * 0.6).clip(0, 1)[..., None]
    return _levels(1 - (1 - image / 255) * (1 - 0.9 * mask))


def coarse_noise(image: Image, seed: int) -> Image:
    """Few dots of all strengths, smeared, two or three times enlarged, and added: short wide streaks."""
    cv2 = need("cv2")
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    times = int(rng.integers(2, 4))
    size = height // times + 1, width // times + 1
    dots = ((rng.random(size) > 0.97) * rng.random(size)).astype(np.float32)
    length = int(rng.integers(9, 25))
    streaks = (_smeared(dots, length, rng.uniform(-25, 25)) * length * 0.6).clip(0, 1)
    streaks = cv2.resize(streaks, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    return _levels(image / 255 + 0.7 * streaks[:height, :width, None].clip(0, 1))


def _smeared(image: np.ndarray, length: int, degrees: float) -> np.ndarray:
    """A mean along a line of `length` pixels, by `degrees` from vertical."""
    cv2 = need("cv2")
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1
    middle = ((length - 1) / 2, (length - 1) / 2)
    turn = cv2.getRotationMatrix2D(middle, 90 + degrees, 1)
    kernel = cv2.warpAffine(kernel, turn, (length, length))
    smeared: np.ndarray = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    return smeared


def _levels(image: np.ndarray) -> Image:
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def _dusk(image: Image) -> Image:
    return _levels((image / 255) ** 2.2)


RECIPES: dict[str, tuple[Callable[[Image], Image], Callable[[Image, int], Image]]] = {
    "drawn lines": (np.asarray, drawn_lines),
    "soft noise": (np.asarray, soft_noise),
    "coarse noise": (np.asarray, coarse_noise),
    "editor's, at dusk": (_dusk, foreign_rain),
}
"""What happens to the scene, and how it rains: (H, W, 3) uint8 RGB and a seed to the same."""


@app.command()
@failing_clearly
def measure(
    models: Annotated[list[str], typer.Argument(help="As for sdps-run.")],
    provider: Annotated[str, typer.Option(help="As for sdps-run.")] = "auto",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write each picture there (JSON).")] = None,
) -> None:
    """Measure what models make of rain that nothing was chosen for."""
    from rich.progress import track

    derainers = {name: Derainer.load(name, provider=provider) for name in models}
    photos = [(name, clean) for name, _, clean in held_out("dry")]
    rows = []
    for recipe, (scene, rain) in RECIPES.items():
        for number, (name, photo) in enumerate(track(photos, recipe, transient=True)):
            clean = scene(photo)
            rainy = rain(clean, 2_000_000 + number)
            row: dict[str, str | float] = {"rain": recipe, "picture": name, "rainy_db": psnr(rainy, clean)}
            rows.append(row | {name: psnr(derain(rainy), clean) for name, derain in derainers.items()})
    print(table(rows, models))
    if out:
        write_json(out, {"sdps": __version__, "models": models, "rows": rows})


def table(rows: list[dict[str, str | float]], models: list[str]) -> str:
    """Markdown: of each rain the rainy pictures' mean, and each model's mean gain and (worst gain)."""
    lines = [f"| rain | rainy | {' | '.join(models)} |", "|---|" + "---:|" * (1 + len(models))]
    for recipe in RECIPES:
        chosen = [row for row in rows if row["rain"] == recipe]
        before = np.array([row["rainy_db"] for row in chosen], float)
        gains = [np.array([row[model] for row in chosen], float) - before for model in models]
        figures = [f"{gain.mean():+.2f} ({gain.min():+.2f})" for gain in gains]
        lines.append(f"| {recipe} | {before.mean():.2f} | {' | '.join(figures)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    app()
