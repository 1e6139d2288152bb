"""What recording does to pictures, on the bundled one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from sdps.core.frame import Image
from sdps.core.metrics import psnr
from sdps.core.samples import PICTURE, sample
from sdps.training import recording
from sdps.training.evaluate import held_out
from sdps.training.recording import h264, jpeg, recorded


@pytest.fixture(scope="module")
def picture() -> Image:
    with Pillow.open(sample(PICTURE)) as opened:
        return np.ascontiguousarray(np.asarray(opened.convert("RGB"))[100:260, 200:360])


@pytest.mark.parametrize("quality", [40, 75, 97])
def test_jpeg_is_that_of_another_library(quality: int, picture: Image) -> None:
    """Both are libjpeg's, whose decoders may smooth colour in other ways."""
    stored = io.BytesIO()
    Pillow.fromarray(picture).save(stored, "jpeg", quality=quality, subsampling=2)
    theirs = np.asarray(Pillow.open(stored))
    ours = jpeg(picture, quality)
    assert psnr(ours, picture) == pytest.approx(psnr(theirs, picture), abs=0.2)
    assert psnr(ours, theirs) > psnr(ours, picture) + 6


def test_a_part_of_a_compressed_picture_has_its_blocks_elsewhere(picture: Image) -> None:
    """A jump of colour is spread over its block of 8 pixels, and not over the next one."""
    halves = np.full((32, 32, 3), 60, np.uint8)
    halves[:, 12:] = 190
    for left in range(8):
        changed = np.abs(jpeg(halves, 40, False, (0, left)).astype(int) - halves).max((0, 2)) > 3
        blocks = (np.arange(32) + left) // 8
        assert set(blocks[changed]) == ({(12 + left) // 8} if left != 4 else set())
    assert jpeg(picture, 75, True, (5, 2)).shape == picture.shape


def test_h264_loses_more_the_higher_its_rate_factor(picture: Image) -> None:
    qualities = [psnr(h264([picture], crf, (3, 6)), picture) for crf in (16, 22, 28, 34)]
    assert qualities == sorted(qualities, reverse=True)
    assert 27 < qualities[-1] < qualities[0] < 45
    assert h264([picture[:33, :47]], 20).shape == (33, 47, 3)


def test_a_later_frame_of_h264_keeps_something_of_the_one_before(picture: Image) -> None:
    """A square that is in the first frame only: predicted from it, the second is not what it is alone."""
    square = picture.copy()
    square[60:100, 60:100] = 255 - square[60:100, 60:100]
    alone, after = h264([picture], 30), h264([square, picture], 30)
    assert psnr(after, picture) > 25
    here, there = after[60:100, 60:100], after[120:160, 120:160]
    assert psnr(here, picture[60:100, 60:100]) < psnr(there, picture[120:160, 120:160])
    assert psnr(after, alone) < psnr(h264([picture, picture], 30), alone)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 40, 30), (20, 90, 220)])
def test_h264_keeps_plain_colours(colour: tuple[int, int, int]) -> None:
    plain = np.full((32, 48, 3), colour, np.uint8)
    assert np.abs(h264([plain], 16).astype(int) - plain).max() <= 4


def test_where_pyav_has_no_encoder_of_h264_all_are_jpeg(
    picture: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pick(seed: int) -> Image:
        return recorded(np.random.default_rng(seed), lambda frame: picture)[0]

    before = [pick(seed) for seed in range(20)]
    monkeypatch.setattr(recording.av, "codecs_available", {"h264"})
    monkeypatch.setattr(recording, "h264", None)
    after = [pick(seed) for seed in range(20)]
    same = sum(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert 10 < same < 20


def test_all_pictures_of_a_scene_are_recorded_alike(picture: Image) -> None:
    other = picture[::-1].copy()
    changed = 0
    for seed in range(200):
        pictures = picture, other, picture
        scenes = [lambda frame, image=image: image for image in pictures]
        first, second, third = recorded(np.random.default_rng(seed), *scenes)
        assert np.array_equal(first, third)
        assert first.dtype == np.uint8
        assert first.shape == picture.shape
        changed += not np.array_equal(first, picture)
        assert np.array_equal(first, picture) == np.array_equal(second, other)
    untouched = (1 - recording.COMPRESSED) * (1 - recording.FILTERED) * (1 - recording.NOISY)
    assert changed == pytest.approx(200 * (1 - untouched), abs=21)  # three standard deviations


@pytest.mark.parametrize(
    ("what", "least", "most"), [("COMPRESSED", 26, 50), ("FILTERED", 18, 50), ("NOISY", 32, 53)]
)
def test_each_is_as_strong_as_cameras_are(
    what: str, least: float, most: float, picture: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COMPRESSED", "FILTERED", "NOISY"):
        monkeypatch.setattr(recording, name, float(name == what))
    results = [recorded(np.random.default_rng(seed), lambda frame: picture)[0] for seed in range(60)]
    values = [psnr(result, picture) for result in results]
    assert least < min(values) < max(values) < most


def test_a_scene_is_asked_for_the_frames_of_its_video(picture: Image) -> None:
    """In order, up to the one that counts; the others are seen by the encoder alone."""
    asked = set()
    for seed in range(60):
        frames: list[int] = []

        def scene(frame: int, frames: list[int] = frames) -> Image:
            frames.append(frame)
            return picture if frame == 0 else 255 - picture

        assert psnr(recorded(np.random.default_rng(seed), scene)[0], picture) > 20
        assert frames == list(range(1 - len(frames), 1))
        asked.add(len(frames))
    assert asked == set(range(1, recording.FRAMES + 1))


def test_held_out_pictures_are_compressed_with_their_clean_ones(photographs: object) -> None:
    (name, rainy, clean), (plain_name, plain_rainy, plain) = (
        next(held_out(look, 1)) for look in ("heavy+jpeg", "heavy")
    )
    assert name == plain_name
    assert 28 < psnr(clean, plain) < 45
    assert np.array_equal(jpeg(plain_rainy, 75), rainy)
