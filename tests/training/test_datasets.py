"""The layouts of the deraining sets, and pictures that are not what they should be."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdps.core.errors import SourceError, UsageError
from sdps.core.pictures import read_picture
from sdps.training.datasets import (
    check_pairs,
    difference_hash,
    pair_up,
    read_pair,
    recognise,
    refuse,
    scene_hash,
)


def put(folder: Path, *names: str, size: tuple[int, int] = (20, 30)) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.full((*size, 3), len(name), np.uint8)
        path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


LAYOUTS = {
    "input and target": (["input/1.png", "input/2.png", "target/1.png", "target/2.png"], {"all": 2}),
    "rainy and gt": (["rainy/a.jpg", "gt/a.png"], {"all": 1}),
    "Rain100L flat": (["rain-001.png", "norain-001.png", "rain-002.png", "norain-002.png"], {"all": 2}),
    "Rain100L rainy beside": (["rainy/rain-001.png", "norain-001.png"], {"all": 1}),
    "Rain100H x2": (["rain/X2/norain-001x2.png", "norain/norain-001.png"], {"all": 1}),
    "Rain100H rain-N": (["rain/rain-7.png", "norain/norain-7.png"], {"all": 1}),
    "RealRain-1k": (
        ["training/input/5.png", "training/target/5.png", "testing/input/6.png", "testing/target/6.png"],
        {"train": 1, "test": 1},
    ),
    "JORDER's archives": (
        [
            "rain_data_train_Heavy/rain/norain-1x2.png",
            "rain_data_train_Heavy/norain/norain-1.png",
            "rain_data_test_Heavy/rain/X2/norain-9x2.png",
            "rain_data_test_Heavy/norain/norain-9.png",
        ],
        {"test/rain_data_test_Heavy": 1, "train/rain_data_train_Heavy": 1},
    ),
    "a set beside its test set": (
        ["Rain100L/input/1.png", "Rain100L/target/1.png", "test_L/input/2.png", "test_L/target/2.png"],
        {"test/test_L": 1, "all/Rain100L": 1},
    ),
    "a test set below train": (
        [
            "train/A/input/1.png",
            "train/A/target/1.png",
            "train/test_A/input/2.png",
            "train/test_A/target/2.png",
        ],
        {"train/A": 1, "test/test_A": 1},
    ),
    "RainTrainL, from a Mac": (
        [
            "rain-1.png",
            "norain-1.png",
            "rainstreak-1.png",
            "rainregion-1.png",
            "._rain-1.png",
            "._norain-1.png",
        ],
        {"all": 1},
    ),
    "two rains of one picture": (
        ["rain/rain-1.png", "rain/norain-1x2.png", "norain/norain-1.png"],
        {"all": 2},
    ),
    "Rain13K": (
        [
            "train/input/1.jpg",
            "train/target/1.jpg",
            "test/Rain100H/input/1.png",
            "test/Rain100H/target/1.png",
            "test/Rain100L/input/1.png",
            "test/Rain100L/target/1.png",
        ],
        {"train": 1, "test/Rain100H": 1, "test/Rain100L": 1},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_recognised_from_the_folder_alone(layout: str, tmp_path: Path) -> None:
    files, parts = LAYOUTS[layout]
    put(tmp_path, *files)
    found = recognise(tmp_path)
    assert {name: len(pairs) for name, pairs in found.parts.items()} == parts
    assert found.problems == []
    for pairs in found.parts.values():
        for pair in pairs:
            assert pair.rainy != pair.clean
            assert "norain-" not in pair.rainy.name or "x2" in pair.rainy.name


def test_the_test_part_is_asked_for_with_its_sets(tmp_path: Path) -> None:
    put(tmp_path, *LAYOUTS["Rain13K"][0])
    found = recognise(tmp_path)
    assert list(found.part("test", "all")) == ["test/Rain100H", "test/Rain100L"]
    assert list(found.part("val", "train")) == ["train"]
    assert found.part("val") == {}


def test_a_picture_without_its_partner_is_named(tmp_path: Path) -> None:
    put(tmp_path, "input/1.png", "input/2.png", "target/1.png", "target/3.png")
    pairs, problems = pair_up(tmp_path / "input", tmp_path / "target")
    assert [pair.name for pair in pairs] == ["1.png"]
    assert "2.png has no clean picture" in problems[0]
    assert "3.png has no rainy picture" in problems[1]
    with pytest.raises(UsageError, match=r"2 pictures do not fit: .*2\.png"):
        refuse(problems)


def test_a_folder_that_is_called_test_can_be_given(tmp_path: Path) -> None:
    put(tmp_path / "test_Rain100L", *LAYOUTS["input and target"][0])
    assert list(recognise(tmp_path / "test_Rain100L").part("test", "all")) == ["all"]


def test_names_that_differ_in_case_or_suffix_only_are_paired_with_nothing(tmp_path: Path) -> None:
    put(tmp_path / "input", "1.jpg", "1.png", "IMG_2.png", "img_2.png", "3.png", "4.png")
    put(tmp_path / "target", "1.png", "IMG_2.png", "img_2.png", "3.png", "4.png", "4.jpg")
    pairs, problems = pair_up(tmp_path / "input", tmp_path / "target")
    assert [pair.name for pair in pairs] == ["3.png"]
    assert len(problems) == 3
    assert "input/1.jpg and " in problems[0] and "input/1.png share a name" in problems[0]
    assert "target/4.jpg and " in problems[1] and "target/4.png share a name" in problems[1]
    assert problems[2].count("mg_2.png") + problems[2].count("MG_2.png") == 4


def test_a_set_one_folder_further_down_is_hinted_at(tmp_path: Path) -> None:
    put(tmp_path, "Rain100L/input/1.png", "notes/1.png")
    put(tmp_path, "Rain100L/target/1.png")
    assert recognise(tmp_path).parts.keys() == {"all/Rain100L"}
    put(tmp_path / "up", "Rain13K/train/input/1.png", "Rain13K/train/target/1.png", "notes/1.png")
    with pytest.raises(UsageError, match=r"Did you mean .*up/Rain13K\?"):
        recognise(tmp_path / "up")
    put(tmp_path / "up", "Rain1k/train/input/1.png", "Rain1k/train/target/1.png")
    with pytest.raises(UsageError, match=r"Did you mean .*up/Rain13K or .*up/Rain1k\?"):
        recognise(tmp_path / "up")


def header(side: int) -> bytes:
    """A PNG that claims to be that large, and ends after its head."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_heads_of_enormous_pictures_are_named(tmp_path: Path) -> None:
    for folder in ("input", "target"):
        (tmp_path / folder).mkdir()
        for side in (20_000, 60_000):
            (tmp_path / folder / f"{side}.png").write_bytes(header(side))
    pairs, _ = pair_up(tmp_path / "input", tmp_path / "target")
    good, problems = check_pairs(pairs)
    assert good == []
    assert len(problems) == 2 and all("is not a readable picture" in line for line in problems)
    assert scene_hash(pairs[0].clean) is None


def test_the_hash_of_a_file_is_that_of_its_picture(tmp_path: Path) -> None:
    scene = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (640, 480))
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).write_bytes(cv2.imencode(name[1:], scene)[1].tobytes())
    png, jpeg = scene_hash(tmp_path / "a.png"), scene_hash(tmp_path / "a.jpg")
    assert png == difference_hash(scene) and png is not None and jpeg is not None
    assert bin(png ^ jpeg).count("1") <= 4


def test_bad_pairs_are_named_and_left_out(tmp_path: Path) -> None:
    put(tmp_path, "input/ok.png", "target/ok.png", "input/size.png", "input/small.png", "target/small.png")
    put(tmp_path, "target/size.png", size=(20, 32))
    put(tmp_path, "input/tiny.png", "target/tiny.png", size=(8, 30))
    put(tmp_path, "target/text.png")
    (tmp_path / "input/text.png").write_text("no picture")
    pairs, _ = pair_up(tmp_path / "input", tmp_path / "target")
    good, problems = check_pairs(pairs, smallest=10)
    assert [pair.name for pair in good] == ["ok.png", "small.png"]
    assert len(problems) == 3
    assert "30x20 pixels, size.png is 32x20" in problems[0]
    assert "text.png is not a readable picture" in problems[1]
    assert "tiny.png is smaller than 10 pixels" in problems[2]
    with pytest.raises(SourceError, match=r"20x30 pixels, size\.png 20x32"):
        read_pair(next(pair for pair in pairs if pair.name == "size.png"))


def test_grey_and_16_bit_pictures_become_8_bit_rgb(tmp_path: Path) -> None:
    grey = np.arange(0, 240, dtype=np.uint8).reshape(12, 20)
    deep = (np.arange(12 * 20 * 3, dtype=np.uint32) * 65535 // 719).astype(np.uint16).reshape(12, 20, 3)
    for name, image in (("grey.png", grey), ("deep.png", deep)):
        (tmp_path / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    assert np.array_equal(read_picture(tmp_path / "grey.png")[:, :, 1], grey)
    read = read_picture(tmp_path / "deep.png")
    assert read.dtype == np.uint8 and np.abs(read[:, :, ::-1] - deep / 257).max() <= 0.51


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(SourceError, match=r"cut\.png is not a readable picture"):
        read_picture(tmp_path / "cut.png")


@pytest.mark.parametrize("files", [[], ["photos/1.png"], ["input/1.png", "target/2.png"]])
def test_folders_without_pairs(files: list[str], tmp_path: Path) -> None:
    put(tmp_path, *files)
    with pytest.raises(UsageError, match="holds no pairs"):
        recognise(tmp_path)


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ("input", "Beside input/ there is no folder with pictures that is called target or norain."),
        ("norain", "Beside norain/ there is no folder with pictures that is called input or rain."),
        ("wet", "No folder with pictures in it is called input or rain, target or norain."),
    ],
)
def test_the_half_of_a_set_that_is_missing_is_named(there: str, told: str, tmp_path: Path) -> None:
    put(tmp_path, f"{there}/1.png")
    (tmp_path / "target").mkdir()  # empty: it counts for nothing
    with pytest.raises(UsageError, match=re.escape(told)):
        recognise(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        recognise(tmp_path / "nowhere")


def test_the_difference_hash_survives_scaling_and_tells_scenes_apart() -> None:
    rng = np.random.default_rng(0)
    scenes = [cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (320, 240)) for _ in range(2)]
    half = cv2.resize(scenes[0], (160, 120), interpolation=cv2.INTER_AREA)
    assert bin(difference_hash(scenes[0]) ^ difference_hash(half)).count("1") <= 4
    assert bin(difference_hash(scenes[0]) ^ difference_hash(scenes[1])).count("1") > 16
