"""`sdps-eval`: the paper's protocol by its definition, and the command on real files."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from typer.testing import CliRunner

from sdps.core.frame import Image
from sdps.model import SDPSFNet, save_checkpoint
from sdps.model.deploy import denormalise, normalise
from sdps.model.zoo import bundled
from sdps.runtime.bundled import resolve
from sdps.training.eval_cli import app
from sdps.training.protocol import paper_tiles, score_pictures
from sdps.training.restorers import NetworkRestorer, open_restorer

Picture = Callable[[int, int], Image]


class Unchanged:
    """Gives levels back as they came."""

    name, exact = "unchanged", True

    def tiles(self, batch: Image) -> np.ndarray[Any, np.dtype[Any]]:
        return batch.astype(np.float32)

    def frame(self, image: Image) -> Image:
        return image.copy()

    def close(self) -> None:
        pass


def save(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())


@pytest.fixture
def folder(tmp_path: Path, picture: Picture) -> Path:
    rng = np.random.default_rng(0)
    for i, size in enumerate([(96, 150), (140, 100)]):
        clean = picture(*size)
        rainy = np.clip(clean + rng.normal(8, 15, clean.shape), 0, 255).astype(np.uint8)
        save(tmp_path / "set" / "input" / f"{i}.png", rainy)
        save(tmp_path / "set" / "target" / f"{i}.png", clean)
    return tmp_path / "set"


@pytest.fixture
def checkpoint(tiny_network: SDPSFNet, tmp_path: Path) -> Path:
    save_checkpoint(tiny_network, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.mark.parametrize("size", [(128, 128), (90, 300), (129, 191), (11, 13)])
def test_tiles_of_an_unchanging_model_are_the_picture(size: tuple[int, int], picture: Picture) -> None:
    image = picture(*size)
    assert np.array_equal(paper_tiles(Unchanged(), image), image)


def test_tiles_are_averaged_uniformly_and_truncated(tiny_network: SDPSFNet, picture: Picture) -> None:
    """Written out for a picture of two tiles in a row: 0..128 and 64..192."""
    image = picture(128, 192)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        left, right = (
            denormalise(tiny_network(normalise(x[:, :, :, start : start + 128]))[-1]) for start in (0, 64)
        )
    mean = torch.cat([left[..., :64], (left[..., 64:] + right[..., :64]) / 2, right[..., 64:]], 3)
    expected = (mean.clamp(0, 1) * 255).byte()[0].permute(1, 2, 0).numpy()
    result = paper_tiles(NetworkRestorer(tiny_network, "tiny"), image)
    # Float32 in another order of operations may fall on the other side of a level.
    assert (result != expected).mean() < 1e-3
    assert np.abs(result.astype(int) - expected).max() <= 1


def test_a_graph_scores_as_its_checkpoint_does(picture: Picture) -> None:
    clean = picture(100, 130)
    rainy = np.clip(clean + np.random.default_rng(0).normal(8, 15, clean.shape), 0, 255).astype(np.uint8)
    values = []
    for model in (str(bundled()["sdps-nano"]), "sdps-nano"):
        restorer = open_restorer(model)
        values.append([score.after.psnr for score in score_pictures([("a", rainy, clean)], restorer)])
        restorer.close()
    # The paper's tiles are truncated from exact numbers, and rounded from a graph's levels.
    assert values[0] == pytest.approx(values[1], abs=0.2)
    assert values[0][2:] == pytest.approx(values[1][2:], abs=1e-3)


def run(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})
    return done.exit_code, done.stdout, done.stderr


def test_the_command_writes_what_scikit_image_says(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, stdout, _ = run(checkpoint, folder, "--protocol", "both", "--out", out, "--json")
    assert code == 0
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert [(row["picture"], row["protocol"]) for row in rows] == [
        (f"{i}.png", protocol) for i in (0, 1) for protocol in ("paper", "frame")
    ]
    for row in rows:
        clean, rainy = (
            cv2.imread(str(folder / side / row["picture"]), cv2.IMREAD_COLOR) for side in ("target", "input")
        )
        assert float(row["psnr_rgb_rainy"]) == pytest.approx(peak_signal_noise_ratio(clean, rainy), abs=5e-5)
        expected = structural_similarity(clean, rainy, channel_axis=2)
        assert float(row["ssim_rgb_rainy"]) == pytest.approx(expected, abs=5e-5)
    found = json.loads(stdout)
    assert found == json.loads((out / "scores.json").read_text())
    mean = found["sets"]["set"][0]
    assert (mean["protocol"], mean["convention"], mean["pictures"]) == ("paper", "rgb", 2)
    derained = [float(row["psnr_rgb_derained"]) for row in rows if row["protocol"] == "paper"]
    assert mean["after"]["psnr"] == pytest.approx(np.mean(derained), abs=1e-5)
    sheet = cv2.imread(str(out / "worst.png"))
    # A head, and for each picture a line of text over four panels of 320 pixels.
    assert sheet.shape == (22 + (22 + round(320 * 96 / 150)) + (22 + round(320 * 140 / 100)), 1280, 3)


@pytest.mark.skipif(not shutil.which("apt-get"), reason="photographs come as a Debian package")
def test_without_pictures_the_held_out_photographs_are_rained_on(tmp_path: Path) -> None:
    code, stdout, _ = run(resolve("sdps-nano"), "--limit", "1", "--out", tmp_path, "--json")
    assert code == 0
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    sets = [row["set"] for row in rows]
    assert sets[:6] == ["heavy", "medium", "light", "drizzle", "dry", "foreign"]
    found = json.loads(stdout)["sets"]
    assert found["dry"][0]["before"]["psnr"] is None  # equal pictures
    assert found["heavy"][0]["protocol"] == "frame"
    assert found["heavy"][0]["worst_gain"] > 3
    assert found["heavy"][0]["before"]["psnr"] < found["light"][0]["before"]["psnr"]
    # A row of each kind of rain.
    assert cv2.imread(str(tmp_path / "worst.png")).shape[0] > 22 + len(sets) * 100


def test_two_folders_and_the_labels(checkpoint: Path, folder: Path) -> None:
    code, stdout, _ = run(checkpoint, folder / "input", folder / "target", "--limit", "1")
    assert code == 0
    for label in ("tiles of 128 by 64", "RGB; SSIM with a 7x7", "BT.601", "11x11 Gaussian", "input "):
        assert label in stdout


def test_what_does_not_fit_is_refused_by_name(
    checkpoint: Path, folder: Path, picture: Picture, capfd: pytest.CaptureFixture[str]
) -> None:
    save(folder / "input" / "lonely.png", picture(40, 40))
    code, _, _ = run(checkpoint, folder)
    assert code == 2
    save(folder / "target" / "lonely.png", picture(40, 44))
    code, _, stderr = run(checkpoint, folder)
    assert code == 2 and "lonely.png is 40x40 pixels, lonely.png is 44x40" in stderr + capfd.readouterr().err


def test_a_graph_of_another_size_says_what_to_do(
    graph_path: Callable[..., Path], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = graph_path("fp32", "61x90")  # the size that other tests have traced already
    code, _, stderr = run(graph, folder)
    assert code == 2 and "--protocol frame" in stderr + capfd.readouterr().err
    code, stdout, _ = run(graph, folder, "--protocol", "frame")
    assert code == 0 and "whole pictures" in stdout
