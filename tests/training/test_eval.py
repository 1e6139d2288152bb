"""`sdps-eval` on real files."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from typer.testing import CliRunner

from sdps.core.frame import Image
from sdps.model import SDPSFNet, save_checkpoint
from sdps.runtime.backends import open_backend
from sdps.runtime.bundled import resolve
from sdps.runtime.tiling import restore
from sdps.training.eval_cli import app
from sdps.training.restorers import BackendRestorer, open_restorer

Picture = Callable[[int, int], Image]


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


@pytest.mark.usefixtures("photographs")
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


def test_only_the_part_that_is_scored_must_be_intact(
    checkpoint: Path, folder: Path, picture: Picture, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, folder / "test")
    shutil.copytree(folder, folder / "train", ignore=shutil.ignore_patterns("test"))
    for side in ("input", "target"):
        shutil.rmtree(folder / side)
    save(folder / "train" / "input" / "stray.png", picture(40, 40))
    code, stdout, stderr = run(checkpoint, folder, "--json")
    assert code == 0 and list(json.loads(stdout)["sets"]) == ["test"]
    assert "In parts that are not scored, 1 pictures do not fit: " in stderr and "stray.png has no" in stderr
    save(folder / "test" / "target" / "lonely.png", picture(40, 40))
    code, _, stderr = run(checkpoint, folder)
    assert code == 2 and "lonely.png has no rainy picture" in stderr + capfd.readouterr().err


def test_a_graph_of_another_size_says_what_to_do(
    graph_path: Callable[..., Path], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = graph_path("fp32", "61x90")  # the size that other tests have traced already
    code, _, stderr = run(graph, folder)
    assert code == 2 and "--protocol frame" in stderr + capfd.readouterr().err
    code, stdout, _ = run(graph, folder, "--protocol", "frame")
    assert code == 0 and "frame: whole pictures" in stdout
    assert "in tiles: 2 of 2 pictures, larger than the graph takes" in " ".join(stdout.split())


def test_a_graph_takes_whole_pictures_however_little_memory_is_free(
    graph_path: Callable[..., Path], tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Larger than the tiles of 256 that `sdps-run` falls back to; it would cut this picture."""
    clean = picture(260, 300)
    for side, image in (("input", np.maximum(clean, 10) - 10), ("target", clean)):
        save(tmp_path / "set" / side / "a.png", image)
    graph, found = graph_path(), []
    for free in (1 << 40, 1):

        def told(root: Path = Path("/"), free: int = free) -> int:
            return free

        monkeypatch.setattr("sdps.runtime.room.free_memory", told)
        code, stdout, _ = run(graph, tmp_path / "set", "--protocol", "frame", "--provider", "cpu", "--json")
        assert code == 0
        found.append(json.loads(stdout))
    assert found[0] == found[1]
    assert [row["tiled"] for row in found[0]["sets"]["set"]] == [0, 0]
    with closing(open_backend(graph, "cpu")) as backend:
        image = clean[:, :, ::-1].copy()
        assert not np.array_equal(restore(backend, image), restore(backend, image, tile=300))


def test_pictures_that_a_graph_is_too_small_for_are_counted(
    graph_path: Callable[..., Path], tmp_path: Path, picture: Picture
) -> None:
    graph, pictures = graph_path("fp32", "61x90"), tmp_path / "set"
    for i, size in enumerate([(61, 90), (61, 91), (40, 50)]):
        for side in ("input", "target"):
            save(pictures / side / f"{i}.png", picture(*size))
    code, stdout, _ = run(graph, pictures, "--protocol", "frame", "--json")
    assert code == 0
    found = json.loads(stdout)
    assert [row["tiled"] for row in found["sets"]["set"]] == [1, 1]
    assert "in tiles: 1 of 3 pictures" in found["protocols"]["frame"]


def test_an_output_that_cannot_be_written_is_found_first(
    checkpoint: Path, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "taken" / "scores.csv").mkdir(parents=True)
    for out, says in (("file", "Nothing can be written to"), ("taken", "scores.csv is a folder")):
        code, stdout, stderr = run(checkpoint, folder, "--out", tmp_path / out)
        assert code == 2 and not stdout and says in stderr + capfd.readouterr().err
    code, _, _ = run(checkpoint, folder, "--limit", "1", "--out", tmp_path / "a" / "b")
    assert code == 0
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {
        "scores.csv",
        "scores.json",
        "worst.png",
    }


def test_the_table_does_not_wait_for_the_files(
    checkpoint: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A disk that is full from the second file on."""
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    out = tmp_path / "out"
    code, stdout, stderr = run(checkpoint, folder, "--limit", "1", "--out", out)
    assert code == 1 and "gain" in stdout
    told = (stderr + capfd.readouterr().err).splitlines()
    assert told[-2:] == [
        f"wrote {out / 'scores.csv'}",
        f"error: {out / 'scores.json'} cannot be written: No space left on device. "
        "Is there room, and may this user write there?",
    ]
    assert [path.name for path in out.iterdir()] == ["scores.csv"]


def test_a_broken_picture_is_named_and_the_rest_is_scored(
    checkpoint: Path, folder: Path, tmp_path: Path, picture: Picture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its head is whole, so that only reading it can tell."""
    jpeg = cv2.imencode(".jpg", picture(60, 70))[1].tobytes()
    broken = folder / "input" / "0a.jpg"
    broken.write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "target" / "0a.jpg").write_bytes(jpeg)
    code, stdout, stderr = run(checkpoint, folder, "--out", tmp_path / "out", "--json")
    told = stderr + capfd.readouterr().err
    assert code == 1
    assert f"not scored: {broken} is not a readable picture" in told
    assert "1 of 3 pictures could not be read" in told
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert {row["picture"] for row in rows} == {"0.png", "1.png"}
    found = json.loads(stdout)
    assert found == json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["sets"]["set"][0]["pictures"] == 2
    assert len(found["unread"]) == 1 and str(broken) in found["unread"][0]


def test_pictures_that_are_all_broken_leave_earlier_scores_alone(
    checkpoint: Path, folder: Path, tmp_path: Path, picture: Picture, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, _, stderr = run(checkpoint, folder, "--out", out)
    assert code == 0
    assert f"wrote {out / 'scores.csv'}, scores.json and worst.png" in stderr + capfd.readouterr().err
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    jpeg = cv2.imencode(".jpg", picture(60, 70))[1].tobytes()
    for side, data in (("input", jpeg[: len(jpeg) // 2]), ("target", jpeg)):
        (tmp_path / "broken" / side).mkdir(parents=True)
        (tmp_path / "broken" / side / "a.jpg").write_bytes(data)
    code, stdout, stderr = run(checkpoint, tmp_path / "broken", "--out", out)
    told = stderr + capfd.readouterr().err
    assert code == 1 and not stdout
    assert "1 of 1 pictures could not be read" in told and "wrote" not in told
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("provider", ["cuda", "openvino", "nonsense"])
def test_a_checkpoint_runs_by_no_provider_but_pytorch(
    provider: str, checkpoint: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, stdout, stderr = run(checkpoint, folder, "--provider", provider)
    told = stderr + capfd.readouterr().err
    assert code == 2 and not stdout
    assert f"tiny.safetensors is a checkpoint, which PyTorch runs and not --provider {provider}." in told


def test_an_equal_pair_does_not_blank_the_mean(
    checkpoint: Path, folder: Path, tmp_path: Path, picture: Picture
) -> None:
    for side in ("input", "target"):
        save(folder / side / "dry.png", picture(60, 70))
    code, stdout, _ = run(checkpoint, folder, "--out", tmp_path / "out")
    assert code == 0
    assert "set, paper, RGB: the mean PSNR is without 1 equal rainy (infinite)" in stdout
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    before = [float(row["psnr_rgb_rainy"]) for row in rows]
    after = [float(row["psnr_rgb_derained"]) for row in rows]
    wet = [i for i, value in enumerate(before) if math.isfinite(value)]
    mean = json.loads((tmp_path / "out" / "scores.json").read_text())["sets"]["set"][0]
    assert (mean["pictures"], mean["equal_before"], mean["equal_after"]) == (3, 1, 0)
    assert mean["before"]["psnr"] == pytest.approx(np.mean([before[i] for i in wet]), abs=1e-5)
    assert mean["after"]["psnr"] == pytest.approx(np.mean(after), abs=1e-5)
    # Not the difference of the two: the dry picture has no gain.
    assert mean["gain"] == pytest.approx(np.mean([after[i] - before[i] for i in wet]), abs=1e-5)


@pytest.mark.parametrize("device", ["tpu", "cuda"])
def test_a_device_that_is_not_here(
    device: str, checkpoint: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    code, _, stderr = run(checkpoint, folder, "--device", device)
    says = "There is no device 'tpu'" if device == "tpu" else "PyTorch sees no CUDA GPU here"
    assert code == 2 and says in stderr + capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="names are UTF-16 there")
def test_file_names_that_are_not_utf_8(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    for side in ("input", "target"):
        (folder / side / "0.png").rename(folder / side / os.fsdecode(b"caf\xe9.png"))
    odd = tmp_path / os.fsdecode(b"s\xe9t")
    folder.rename(odd)
    code, stdout, _ = run(checkpoint, odd, "--out", tmp_path / "out")
    assert code == 0 and "s\\udce9t" in stdout
    names = [row["picture"] for row in csv.DictReader((tmp_path / "out" / "scores.csv").open())]
    assert names == ["1.png", "caf\\udce9.png"]


def test_the_folder_one_is_in_has_a_name(
    checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    code, stdout, _ = run(checkpoint, ".", "--limit", "1", "--json")
    assert code == 0 and list(json.loads(stdout)["sets"]) == ["set"]
    monkeypatch.chdir(folder / "input")
    code, stdout, _ = run(checkpoint, "..", "--limit", "1", "--json")
    assert code == 0 and list(json.loads(stdout)["sets"]) == ["set"]


def test_a_checkpoint_by_another_name_is_one(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("net.SAFETENSORS", "net.ckpt", "net"):
        path = checkpoint.rename(tmp_path / name)
        for opened in (open_restorer(str(path)), BackendRestorer(open_backend(path), "net")):
            assert "torch" in opened.name
            opened.close()
        checkpoint = path
