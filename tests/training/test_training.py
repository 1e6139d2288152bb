"""Losses against their definitions; patches and resuming, exact; training that learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.model import SDPSFNet, SDPSFNetConfig, load_checkpoint
from sdps.training.data import RainyPatches
from sdps.training.evaluate import evaluate, psnr, rainy_pairs, summarise
from sdps.training.loop import Recipe, Trainer, score, train
from sdps.training.losses import EdgeLoss, StageLoss, charbonnier, frequency

NET = SDPSFNetConfig(tau=0, features=4, scale_unet=4, scale_orb=4, cabs=1, psf_channels=8)
QUICK = Recipe(steps=12, phases=((0.0, 48, 2), (0.5, 64, 1)), warmup=2, seed=3)


@pytest.fixture
def photos() -> list[Image]:
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (9, 12, 3), dtype=np.uint8) for _ in range(3)]
    return [np.ascontiguousarray(c.repeat(10, 0).repeat(10, 1)) for c in coarse]


def trainer(photos: list[Image]) -> Trainer:
    torch.manual_seed(QUICK.seed)
    return Trainer(SDPSFNet(NET), photos, QUICK)


def test_charbonnier_and_frequency_by_definition() -> None:
    x, y = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    assert charbonnier(x, x) == pytest.approx(1e-3)
    assert charbonnier(x, y).item() == pytest.approx(np.sqrt((x - y).numpy() ** 2 + 1e-6).mean(), rel=1e-5)
    half = np.abs(np.fft.rfft2(x.numpy()) - np.fft.rfft2(y.numpy())).mean()
    assert frequency(x, y).item() == pytest.approx(half, rel=1e-4)


def test_edge_loss_ignores_constants_and_sees_edges() -> None:
    edge = EdgeLoss()
    flat = torch.zeros(1, 3, 32, 32)
    step = flat.clone()
    step[:, :, :, 16:] = 1
    # Zero-inserting decimation of a constant, blurred, is that constant again inside the picture.
    inner = edge.laplacian(flat + 0.5)[:, :, 4:-4, 4:-4]
    assert inner.abs().max() < 1e-6
    assert edge(step, flat) > 10 * edge(flat, flat)


def test_stage_loss_sums_over_the_outputs() -> None:
    x, y = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    loss = StageLoss()
    assert loss([x, x], y).item() == pytest.approx(2 * loss([x], y).item(), rel=1e-6)


def test_patches_depend_on_seed_and_step_alone(photos: list[Image]) -> None:
    first, second = (RainyPatches(photos, 32, 3, seed=7) for _ in range(2))
    first.step(0)  # having been asked before changes nothing
    for a, b in zip(first.step(5), second.step(5), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.step(5)[0], first.step(6)[0])
    rainy, clean = first.step(5)
    assert rainy.shape == clean.shape == (3, 3, 32, 32)
    assert torch.equal((rainy * 255).round() / 255, rainy)


def test_patches_larger_than_every_picture(photos: list[Image]) -> None:
    with pytest.raises(UsageError, match="None of the 3 pictures is 400"):
        RainyPatches(photos, 400, 1)


def test_a_killed_run_resumes_to_the_very_same_weights(photos: list[Image], tmp_path: Path) -> None:
    straight = trainer(photos)
    losses = [straight.advance() for _ in range(8)]

    broken = trainer(photos)
    for _ in range(4):
        broken.advance()
    torch.save(broken.state(), tmp_path / "last.pt")
    resumed = trainer(photos)
    resumed.restore(torch.load(tmp_path / "last.pt", weights_only=True))
    assert [resumed.advance() for _ in range(4)] == losses[4:]
    for a, b in zip(straight.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_step_that_is_not_finite_is_skipped_and_counted(photos: list[Image]) -> None:
    run = trainer(photos)
    run.advance()
    with torch.no_grad():
        run.network.stage_osr.tail.weight.fill_(float("inf"))
    before = [value.clone() for value in run.average.values()]
    assert np.isnan(run.advance())
    assert run.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, run.average.values(), strict=True))


def test_a_short_training_run_learns_and_leaves_a_checkpoint(photos: list[Image], tmp_path: Path) -> None:
    run = trainer(photos)
    first = run.advance()
    train(run, tmp_path, minutes=5, held_out=photos[:1])
    network = load_checkpoint(tmp_path / "last.safetensors")
    assert run.step == QUICK.steps
    assert run.loss is not None and run.advance() < first
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    (heavy,) = summarise(score(network, photos[:1], ("heavy",)))
    assert heavy[0] == "heavy" and np.isfinite(heavy[2])


def test_evaluation_counts_what_a_model_gains(photos: list[Image]) -> None:
    pairs = {rainy.tobytes(): clean for rainy, clean in rainy_pairs(photos, "heavy")}
    scores = evaluate(lambda image: image, photos, ("heavy", "dry"))
    assert [s.gain for s in scores if s.look == "heavy"] == [0.0] * 3
    perfect = evaluate(lambda image: pairs[image.tobytes()], photos, ("heavy",))
    assert all(np.isinf(s.after) for s in perfect)


def test_psnr_by_definition() -> None:
    a = np.zeros((4, 4, 3), np.uint8)
    assert psnr(a, a) == float("inf")
    assert psnr(a, a + 1) == pytest.approx(20 * np.log10(255))
