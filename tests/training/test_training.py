"""Losses against their definitions; patches and steps, exact; steps that are not finite."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.metrics import psnr
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.model.deploy import denormalise, normalise
from sdps.training import data, recording
from sdps.training.data import PairPatches, PairSource, PhotoSource, RainyPatches, Steps
from sdps.training.datasets import Pair
from sdps.training.evaluate import rainy_pairs
from sdps.training.losses import EdgeLoss, StageLoss, charbonnier, frequency
from sdps.training.recipe import PAPER, Clock, Recipe, in_epochs
from sdps.training.run_folder import RunFolder
from sdps.training.trainer import Trainer, open_fabric

NET = SDPSFNetConfig(tau=0, features=4, scale_unet=4, scale_orb=4, cabs=1, psf_channels=8)
QUICK = Recipe(steps=12, phases=((0.0, 48, 2), (0.5, 64, 1)), warmup=2, seed=3)


@pytest.fixture
def photos() -> list[Image]:
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (9, 12, 3), dtype=np.uint8) for _ in range(3)]
    return [np.ascontiguousarray(c.repeat(10, 0).repeat(10, 1)) for c in coarse]


def trainer(photos: list[Image]) -> Trainer:
    torch.manual_seed(QUICK.seed)
    return Trainer(SDPSFNet(NET), PhotoSource(photos), QUICK)


def test_charbonnier_and_frequency_by_definition() -> None:
    x, y = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    assert charbonnier(x, x) == pytest.approx(1e-3)
    assert charbonnier(x, y).item() == pytest.approx(np.sqrt((x - y).numpy() ** 2 + 1e-6).mean(), rel=1e-5)
    whole = np.abs(np.fft.fft2(x.numpy()) - np.fft.fft2(y.numpy())).mean()
    assert frequency(x, y).item() == pytest.approx(whole, rel=1e-4)


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


def test_scenes_come_in_other_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paler, stronger, or with channels that changed places; a grey scene stays grey."""
    monkeypatch.setattr(recording, "COMPRESSED", 0)
    monkeypatch.setattr(recording, "NOISY", 0)
    monkeypatch.setattr(recording, "FILTERED", 0)
    plain = np.broadcast_to(np.array([120, 150, 90], np.uint8), (40, 40, 3))
    grey = np.broadcast_to(np.array([130, 130, 130], np.uint8), (40, 40, 3))
    spans, firsts = set(), set()
    for index in range(200):
        clean = RainyPatches([plain], 32, 1, seed=2).pair(index)[1]
        assert (clean.amax((1, 2)) == clean.amin((1, 2))).all()
        spans.add(round(float(clean.max() - clean.min()), 2))
        firsts.add(int(clean[:, 0, 0].argmax()))
        clean = RainyPatches([grey], 32, 1, seed=2).pair(index)[1]
        assert clean.max() == clean.min()
    assert firsts == {0, 1, 2}
    assert min(spans) < 0.18 < 0.3 < max(spans)  # of 0.24


def test_patches_as_they_were_photographed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As --qat has them: no other colours, no noise, no compression; only the exposure may differ."""
    for name in ("COMPRESSED", "NOISY", "FILTERED"):
        monkeypatch.setattr(recording, name, 1.0)
    plain = np.broadcast_to(np.array([120, 150, 90], np.uint8), (40, 40, 3))
    source = PhotoSource([plain], varied=False)
    assert source.fingerprint() != PhotoSource([plain]).fingerprint()
    rainy, clean = source.patches(32, 60, seed=2).step(0)
    assert (clean.amax((2, 3)) == clean.amin((2, 3))).all()
    assert (clean[:, :, 0, 0].argmax(1) == 1).all() and (clean[:, :, 0, 0].argmin(1) == 2).all()
    assert not torch.equal(rainy, clean)
    varied = PhotoSource([plain]).patches(32, 60, seed=2).step(0)[1]
    assert (varied.amax((2, 3)) > varied.amin((2, 3))).any()


def test_a_dry_patch_stays_as_it_is(photos: list[Image], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also compressed, in a film whose camera moves, with noise and sharpened."""
    monkeypatch.setattr(data, "MIX", {"": 1.0})
    for name in ("COMPRESSED", "VIDEO", "NOISY", "FILTERED"):
        monkeypatch.setattr(recording, name, 1.0)
    rainy, clean = RainyPatches(photos, 48, 12, seed=3).step(0)
    assert torch.equal(rainy, clean)


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


def test_fewer_steps_at_a_faster_pace_end_the_schedule(photos: list[Image]) -> None:
    run = trainer(photos)
    run.advance()
    run.advance()
    run.fit(5)
    assert run.position == 2
    for _ in range(5):
        assert run.position < QUICK.steps
        run.advance()
    assert run.position == pytest.approx(QUICK.steps)
    clock = Clock().fitted(10, 100, 30)
    assert (clock.at(10), clock.at(40)) == (10, 100)


def test_the_papers_recipe() -> None:
    recipe = in_epochs(PAPER, 2000, 1800)
    assert recipe.steps == 2000 * 900 and recipe.warmup == 3 * 900
    assert recipe.learning_rate(0) == pytest.approx(1e-4 / recipe.warmup)
    assert recipe.learning_rate(recipe.warmup) == pytest.approx(1e-4)
    assert recipe.learning_rate(recipe.steps) == pytest.approx(1e-6)
    assert (recipe.frequency, recipe.edge, recipe.clip, recipe.phases) == (0.01, 0.05, 2.0, ((0, 128, 2),))


def test_the_papers_loss_is_taken_in_the_normalised_space(photos: list[Image]) -> None:
    recipe = replace(PAPER, steps=2, phases=((0.0, 32, 2),))
    run = Trainer(network := SDPSFNet(NET), PhotoSource(photos), recipe)
    rainy, clean = run.steps[0, 0]
    with torch.no_grad():
        expected = StageLoss()(network(normalise(rainy)), normalise(clean))
    assert run.advance() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("stages", [0, 1])
def test_a_teacher_is_aimed_at_for_its_share(stages: int, photos: list[Image]) -> None:
    """A teacher of another number of stages shows what it ends with; it learns nothing itself."""
    teacher = SDPSFNet(replace(NET, tau=stages))
    told = teacher.state_dict()
    recipe = replace(QUICK, taught=0.3)
    run = Trainer(SDPSFNet(NET), PhotoSource(photos), recipe, teacher=teacher)
    rainy, clean = run._batch()
    with torch.no_grad():
        seen = normalise(rainy)
        outputs = [denormalise(output) for output in run.network(seen)]
        aims = [denormalise(aim) for aim in teacher.eval()(seen)]
        aims = aims if stages == 0 else [aims[-1]] * 2
        wanted = 0.7 * run.loss(outputs, clean) + 0.3 * run.loss(outputs, aims)
    assert run._loss(run.network(seen), seen, clean).item() == pytest.approx(wanted.item(), rel=1e-5)
    run.advance()
    assert run.teacher is not None
    for key, value in run.teacher.state_dict().items():
        assert torch.equal(value, told[key]), key


def test_workers_prepare_the_very_same_patches(photos: list[Image]) -> None:
    straight = trainer(photos)
    ahead = Trainer(straight.network, PhotoSource(photos), QUICK, workers=2)
    for step in range(QUICK.steps):
        ahead.step = straight.step = step
        for a, b in zip(ahead._batch(), straight._batch(), strict=True):
            assert torch.equal(a, b)
    ahead.close()


def test_processes_share_the_patches_of_a_step(photos: list[Image]) -> None:
    patches = RainyPatches(photos, 32, 4, seed=1)
    whole = patches.step(3)[0]
    parts = [patches.step(3, (rank, 2))[0] for rank in (0, 1)]
    assert torch.equal(whole, torch.stack([parts[0][0], parts[1][0], parts[0][1], parts[1][1]]))


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision_trains_weights_in_fp32(precision: str, photos: list[Image]) -> None:
    torch.manual_seed(QUICK.seed)
    run = Trainer(SDPSFNet(NET), PhotoSource(photos), QUICK, open_fabric("cpu", precision))
    exact = trainer(photos)
    assert run.advance() == pytest.approx(exact.advance(), rel=0.05)
    assert {value.dtype for value in run.network.parameters()} == {torch.float32}
    assert run.skipped == 0


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Rainy pictures are their clean ones, 40 levels brighter."""
    rng = np.random.default_rng(1)
    made = []
    for i in range(3):
        clean = rng.integers(0, 200, (24, 30 + i, 3), dtype=np.uint8)
        pair = Pair(f"{i}.png", tmp_path / f"{i}.png", tmp_path / f"clean{i}.png")
        for path, image in ((pair.rainy, clean + 40), (pair.clean, clean)):
            path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
        made.append(pair)
    return made


def test_pairs_are_cut_turned_and_flipped_alike(pairs: list[Pair]) -> None:
    patches = PairPatches(pairs, 16, 4, seed=2)
    rainy, clean = patches.step(0)
    assert rainy.shape == (4, 3, 16, 16)
    assert torch.allclose(rainy - clean, torch.tensor(40 / 255), atol=1e-6)
    assert torch.equal(rainy, PairPatches(pairs, 16, 4, seed=2).step(0)[0])
    turned = {patches.pair(index)[1].numpy().tobytes() for index in range(30)}
    assert len(turned) == 30


def test_a_damaged_picture_is_passed_over_and_named_once(
    pairs: list[Pair], capfd: pytest.CaptureFixture[str]
) -> None:
    pairs[1].rainy.write_bytes(b"\x89PNG\r\n\x1a\n")
    source = PairSource(pairs)
    for patch in (16, 18):  # two phases of a run
        rainy, clean = source.patches(patch, 6, seed=0).step(0)
        assert torch.allclose(rainy - clean, torch.tensor(40 / 255), atol=1e-6)
    assert capfd.readouterr().err == f"skipped {pairs[1].rainy} is not a readable picture.\n"


def test_a_damaged_picture_is_named_once_by_all_workers(
    pairs: list[Pair], capfd: pytest.CaptureFixture[str]
) -> None:
    pairs[1].rainy.write_bytes(b"\x89PNG\r\n\x1a\n")
    source = PairSource(pairs)
    for _ in range(2):
        list(
            DataLoader(
                Steps([source.patches(16, 6, 0)], (0, 1)), batch_size=None, sampler=[(0, 0)], num_workers=1
            )
        )
    assert capfd.readouterr().err.count("skipped") == 1


def test_names_of_files_need_not_be_utf_8(pairs: list[Pair], tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"\xff.png")
    odd.write_bytes(pairs[0].rainy.read_bytes())
    moved = [Pair(odd.name, odd, pairs[0].clean), *pairs[1:]]
    assert PairSource(moved).fingerprint() != PairSource(pairs).fingerprint()
    folder = RunFolder(tmp_path / "run", PairSource(moved, odd.name))
    folder.begin(Trainer(SDPSFNet(NET), PairSource(moved), replace(QUICK, phases=((0.0, 16, 1),))))
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["pictures"]["name"] == "\\udcff.png"


def test_the_held_out_rain_is_the_same_for_every_model(photos: list[Image]) -> None:
    first, again = (list(rainy_pairs(photos, "heavy")) for _ in range(2))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert all(clean is photo for (_, clean), photo in zip(first, photos, strict=True))
    assert all(psnr(clean, rainy) < 25 for rainy, clean in first)
    assert all(np.array_equal(rainy, clean) for rainy, clean in rainy_pairs(photos, "dry"))


def test_psnr_by_definition() -> None:
    a = np.zeros((4, 4, 3), np.uint8)
    assert psnr(a, a) == float("inf")
    assert psnr(a, a + 1) == pytest.approx(20 * np.log10(255))
