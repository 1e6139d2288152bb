"""Scores of pictures whose answers are known, and folders that do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdps.benchmarks import quality
from sdps.benchmarks.measurement import Drift
from sdps.benchmarks.quality import INPUT, Sample, assess, picture_drift
from sdps.core.errors import SourceError, UsageError
from sdps.core.frame import Image
from sdps.core.pictures import read_picture
from sdps.core.spec import Size

Picture = Callable[[int, int], Image]


def save(path: Path, image: Image) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image[:, :, ::-1])[1].tobytes())


def test_equal_pictures_do_not_drift(picture: Picture) -> None:
    drift = picture_drift("a", picture(40, 56), picture(40, 56))
    assert (drift.psnr_db, drift.ssim, drift.max_levels, drift.shift_levels) == (
        math.inf,
        1.0,
        0,
        (0.0, 0.0, 0.0),
    )


def test_a_colour_cast_shows_as_a_shift_of_its_channel() -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    drift = picture_drift("a", grey, grey + np.array([0, 0, 6], np.uint8))
    assert drift.shift_levels == (0, 0, 6)
    assert drift.max_levels == 6
    assert drift.psnr_db == pytest.approx(10 * math.log10(255**2 / 12))  # MSE: 36 in one of three channels


def test_a_darker_picture_shifts_downwards_without_wrapping() -> None:
    white = np.full((16, 16, 3), 255, np.uint8)
    assert picture_drift("a", white, white - 255).shift_levels == (-255, -255, -255)


def test_psnr_over_pictures_is_that_of_the_mean_error(picture: Picture) -> None:
    image = picture(32, 32)
    other = image ^ 4
    rows = [picture_drift("same", image, image), picture_drift("other", image, other)]
    drift = Drift(tuple(rows))
    assert drift.psnr_db == pytest.approx(rows[1].psnr_db + 10 * math.log10(2))
    assert drift.worst.picture == "other"
    assert Drift(tuple(rows[:1])).psnr_db == math.inf


def test_contenders_are_compared_with_the_first_and_with_the_truth(picture: Picture) -> None:
    clean = picture(40, 40)
    rainy = np.clip(clean.astype(int) + 20, 0, 255).astype(np.uint8)
    contenders = {"reference": lambda image: clean, "graph": lambda image: image}
    found = assess([Sample("a.png", rainy, clean), Sample("b.png", rainy, clean)], contenders)
    assert list(found.drift) == ["graph"]
    assert [p.picture for p in found.drift["graph"].pictures] == ["a.png", "b.png"]
    assert found.truth["reference"].psnr_db == math.inf
    assert found.truth["graph"] == found.truth[INPUT]
    assert found.truth[INPUT].psnr_db == pytest.approx(22.1, abs=0.5)


def test_an_equal_picture_does_not_hide_the_others(picture: Picture) -> None:
    clean = picture(40, 40)
    rainy = np.clip(clean.astype(int) + 20, 0, 255).astype(np.uint8)
    unchanged = {"reference": lambda image: image}
    alone = assess([Sample("a.png", rainy, clean)], unchanged).truth[INPUT]
    some = assess([Sample("a.png", rainy, clean), Sample("b.png", clean, clean)], unchanged).truth[INPUT]
    assert (some.psnr_db, some.equal) == (alone.psnr_db, 1)
    assert some.ssim == pytest.approx((alone.ssim + 1) / 2)
    every = assess([Sample("b.png", clean, clean)], unchanged).truth[INPUT]
    assert (every.psnr_db, every.equal) == (math.inf, 1)


def test_without_truth_there_is_no_score(picture: Picture) -> None:
    assert assess([Sample("a", picture(16, 16))], {"reference": lambda image: image}).truth == {}


def test_pictures_come_back_as_they_were_saved(tmp_path: Path, picture: Picture) -> None:
    save(tmp_path / "ü b.png", picture(24, 36))
    assert np.array_equal(read_picture(tmp_path / "ü b.png"), picture(24, 36))


def test_truth_is_found_by_name_whatever_the_suffix(tmp_path: Path, picture: Picture) -> None:
    for name in ("rain/1.png", "rain/2.png", "clean/1.bmp", "clean/2.png", "clean/3.png"):
        save(tmp_path / name, picture(16, 24))
    pictures = quality.picture_files(tmp_path / "rain")
    truths = quality.truth_files(pictures, tmp_path / "clean")
    assert [path.name for path in truths] == ["1.bmp", "2.png"]
    first, second = quality.load_samples(pictures, truths, Size(8, 8))
    assert first.image.shape == (8, 8, 3)
    assert np.array_equal(second.truth, second.image)


def test_pictures_without_truth_are_named(tmp_path: Path, picture: Picture) -> None:
    for name in ("rain/1.png", "rain/2.png", "clean/1.png"):
        save(tmp_path / name, picture(16, 24))
    with pytest.raises(UsageError, match=r"1 of 2 .*2\.png"):
        quality.truth_files(quality.picture_files(tmp_path / "rain"), tmp_path / "clean")


def test_truth_of_another_size_is_refused(tmp_path: Path, picture: Picture) -> None:
    save(tmp_path / "rain" / "1.png", picture(16, 24))
    save(tmp_path / "clean" / "1.png", picture(16, 20))
    pair = [tmp_path / "rain" / "1.png"], [tmp_path / "clean" / "1.png"]
    with pytest.raises(SourceError, match="size"):
        list(quality.load_samples(*pair))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.png"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("have", "want"), [((40, 60), Size(16, 24)), ((10, 12), Size(33, 25)), ((9, 60), Size(40, 16))]
)
def test_cut_gives_the_size_that_was_asked_for(have: tuple[int, int], want: Size, picture: Picture) -> None:
    image = quality.cut(picture(*have), want)
    assert image.shape == (want.height, want.width, 3)
    assert image.flags.c_contiguous
    assert image.std() > 5  # mirrored, not filled


def test_cut_takes_the_middle() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 4] = 255
    assert quality.cut(image, Size(3, 3))[1, 1].tolist() == [255, 255, 255]
