"""Where calibration pictures come from: layouts of pairs, films, and files that are none."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sdps.calibration import origins
from sdps.calibration.frames import CHOOSING, READING, CalibrationSet, build_set
from sdps.calibration.grouping import scenes, split_film, split_groups
from sdps.calibration.held_out import HELD_OUT, perceptual_hash
from sdps.core.errors import SourceError, UsageError
from sdps.core.frame import Image
from sdps.core.pictures import read_picture
from sdps.runtime.video_source import VideoSource


def scene(seed: int, height: int = 96, width: int = 120) -> Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def write(path: Path, picture: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture[:, :, ::-1])


def film(path: Path, pictures: list[Image], odd: bool = False) -> Path:
    """An H.264 film; an odd one is BT.709 in full range at this size, and to be turned."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        if odd:
            stream.codec_context.colorspace, stream.codec_context.color_range = 1, 2
            stream.set_display_rotation(90)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def names(chosen: CalibrationSet) -> tuple[set[str], set[str]]:
    """Of the pictures that calibrate, and of those that verify."""
    calibrate, verify = ({crop.name for crop in part} for part in (chosen.calibrate, chosen.verify))
    return calibrate, verify


def test_copies_of_a_picture_stay_on_one_side(tmp_path: Path) -> None:
    for number in range(4):
        for copy in range(3):  # scaled a little, as copies are; by name they alternate
            write(tmp_path / f"{copy}-{number}.jpg", scene(number, 96 + 4 * copy, 120 + 5 * copy))
    used, held = ({name[2] for name in side} for side in names(build_set(str(tmp_path), side=64)))
    assert used | held == set("0123")
    assert not used & held
    for path in tmp_path.glob("*-[123].jpg"):
        path.unlink()
    with pytest.raises(UsageError, match=r"3 pictures .* one scene.*add pictures"):
        build_set(str(tmp_path), side=64)


def test_rains_on_one_photograph_stay_on_one_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        for rain in range(4):
            rained = np.where(rng.random((96, 120, 1)) < 0.3, 255, scene(number)).astype(np.uint8)
            write(tmp_path / "input" / f"{rain}-{number}.png", rained)
            write(tmp_path / "target" / f"{rain}-{number}.png", scene(number))
    used, held = ({name[2] for name in side} for side in names(build_set(str(tmp_path), side=64)))
    assert len(used) == 2
    assert len(held) == 1
    assert not used & held


def test_groups_are_split_whole() -> None:
    alone = ["0" * 16, "f" * 16, None, "000000000000001f", None, "0000000000000fff"]
    assert scenes([[one] if one else None for one in alone]) == [0, 1, 2, 0, 3, 0]
    assert scenes([["0" * 16, "f" * 16], ["f" * 16]]) == [0, 0]  # the second is the first one mirrored
    assert split_groups([0, 1, 2, 3, 4]) == ([0, 2, 3], [1, 4])
    assert split_groups([0, 1, 1, 1]) == ([1, 2, 3], [0])
    assert split_film(24) == (list(range(14)), list(range(16, 24)))
    assert split_film(2) == ([0], [1])


def test_the_film_of_a_still_camera_calibrates_and_says_so(tmp_path: Path) -> None:
    still = film(tmp_path / "still.m4v", [scene(1, 96, 96)] * 24)
    chosen = build_set(str(still), side=64)
    used, held = ({int(name.split("#")[1]) for name in side} for side in names(chosen))
    assert max(used) < 14
    assert min(held) >= 16
    assert any("still camera" in note for note in chosen.notes)
    moving = film(tmp_path / "moving.mp4", [scene(i, 96, 96) for i in range(12)])
    assert not any("still camera" in note for note in build_set(str(moving), side=64).notes)


def test_snapshots_of_a_still_camera_calibrate_and_say_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for number in range(8):
        noise = rng.integers(-2, 3, (96, 120, 3))
        write(tmp_path / f"{number}.png", (scene(1) + noise).clip(0, 255).astype(np.uint8))
    chosen = build_set(str(tmp_path), side=64)
    used, held = names(chosen)
    assert used and held and max(used) < min(held)
    assert any("All pictures show one scene" in note for note in chosen.notes)


def test_a_film_is_seen_in_the_colours_of_the_runtime(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [scene(i) for i in range(6)], odd=True)
    frames = [frame.image for frame in VideoSource(str(path))]
    assert frames[0].shape == (120, 96, 3)
    for crop in build_set(str(path), side=64).calibrate:
        seen = frames[int(crop.name.split("#")[1])]
        assert np.array_equal(crop.image, seen[crop.top : crop.top + 64, crop.left : crop.left + 64])


def test_only_one_picture_of_a_folder_is_in_memory(tmp_path: Path) -> None:
    for i in range(8):
        write(tmp_path / f"{i}.jpg", scene(i, 800, 800))
    perceptual_hash(scene(0))  # what it imports is not what is measured
    tracemalloc.start()
    build_set(str(tmp_path), crops=8, side=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 800 * 800 * 3


def test_what_is_no_picture_is_left_out(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.png", scene(i))
    good = build_set(str(tmp_path), side=64)
    (tmp_path / "z.png").touch()
    (tmp_path / "y.jpg").write_bytes(b"no picture")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "album.jpg").mkdir()
    chosen = build_set(str(tmp_path), side=64)
    assert chosen.sha256 == good.sha256
    assert "Left out, as no readable pictures: y.jpg, z.png." in chosen.notes
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no pictures in"):
        build_set(str(tmp_path / "empty"))


def test_sound_alone_is_no_film(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(SourceError, match="holds no video"):
        build_set(str(path))


@pytest.mark.parametrize(
    ("rainy", "clean"),
    [
        ("input/{}.png", "target/{}.jpg"),
        ("lq/{}.png", "hq/{}.png"),
        ("rainy/{}.png", "clean/{}.png"),
        ("rain/X2/norain-{}x2.png", "norain/norain-{}.png"),
        ("rain-00{}.png", "norain-00{}.png"),
        ("rainy_image/{}_1.png", "ground_truth/{}.png"),
        ("train/input/{}.png", "train/target/{}.png"),
    ],
)
def test_the_layouts_of_deraining_sets_are_known(rainy: str, clean: str, tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / rainy.format(i), scene(i))
        write(tmp_path / clean.format(i), scene(i) // 2)
    chosen = build_set(str(tmp_path), crops=8, side=64)
    assert {crop.group for crop in (*chosen.calibrate, *chosen.verify)} == {"pairs"}
    for crop in chosen.calibrate:
        assert crop.clean is not None
        assert np.abs(crop.image.astype(int) / 2 - crop.clean).mean() < 3


def test_of_pairs_what_has_no_partner_is_left_out(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "train" / "lq" / f"{i}.png", scene(i))
        write(tmp_path / "train" / "hq" / f"{i + (i == 3)}.png", scene(i))
        write(tmp_path / "test" / "lq" / f"{i}.png", scene(i + 10))
        write(tmp_path / "test" / "hq" / f"{i}.png", scene(i + 10))
    (tmp_path / "train" / "lq" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "train" / "hq" / "gone.png").mkdir()
    (tmp_path / "train" / "hq" / "1.png").write_bytes(b"")
    chosen = build_set(str(tmp_path), crops=8, side=64)
    assert set.union(*names(chosen)) == {"0.png", "2.png"}
    said = " ".join(chosen.notes)
    assert "the part 'train' was taken" in said
    assert "3.png has no clean picture" in said
    assert "no readable pictures: 1.png" in said
    write(tmp_path / "top.png", scene(5))  # pictures of its own go before sets below
    with pytest.raises(UsageError, match="1 pictures"):
        build_set(str(tmp_path), side=64)


def test_a_pair_of_unequal_size_is_left_out(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / "input" / f"{number}.png", scene(number))
        write(tmp_path / "target" / f"{number}.png", scene(number, 96 + number // 3))
    chosen = build_set(str(tmp_path), side=64)
    assert not any("3.png" in name for side in names(chosen) for name in side)
    assert any("unlike their truth in size" in note and "3.png" in note for note in chosen.notes)


def test_a_folder_called_photos_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(origins, "fetched_with_rain", list)  # they are fetched and take long to render
    (tmp_path / "photos").mkdir()
    assert origins.open_origin("photos").kind == "photos"
    for i in range(3):
        write(tmp_path / "photos" / f"{i}.png", scene(i))
    with pytest.raises(UsageError, match=r"\./photos for the folder"):
        build_set("photos", side=64)
    assert len(origins.open_origin("./photos").entries) == 3
    assert origins.open_origin("photos:").kind == "photos"


def test_crops_obey_the_stride_of_the_network(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.png", scene(i))
    assert build_set(str(tmp_path), side=68).calibrate[0].image.shape == (68, 68, 3)
    with pytest.raises(UsageError, match=r"68 pixels .* stride 8.*multiple of 8"):
        build_set(str(tmp_path), side=68, stride=8)


def test_rain_falls_on_photographs_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for i in range(3):
        write(tmp_path / "mine" / f"day {i % 2}" / f"{i}.jpg", scene(i, 160, 1200))
    (tmp_path / "mine" / "broken.jpg").write_bytes(b"no picture")
    write(tmp_path / "mine" / "small.jpg", scene(9, 16, 16))
    chosen = build_set("photos:~/mine", side=64)  # which no shell expands
    crops = [*chosen.calibrate, *chosen.verify]
    assert {crop.group for crop in crops} == {"heavy", "medium", "light", "drizzle"}
    assert all(crop.clean is not None and (crop.image != crop.clean).any() for crop in crops)
    used, held = names(chosen)
    assert used | held == {f"day {i % 2}/{i}.jpg" for i in range(3)}
    assert not used & held
    assert "Left out, as no readable pictures: broken.jpg." in chosen.notes
    assert any(note.startswith("1 pictures are smaller") for note in chosen.notes)
    assert build_set(f"photos:{tmp_path / 'mine'}", side=64).sha256 == chosen.sha256
    for path in (tmp_path / "mine").rglob("[12].jpg"):
        path.unlink()
    with pytest.raises(UsageError, match=r"were looked at, 1 can give crops"):
        build_set(f"photos:{tmp_path / 'mine'}", side=64)
    with pytest.raises(UsageError, match=r"no photographs in .*nowhere"):
        build_set(f"photos:{tmp_path / 'nowhere'}", side=64)


def test_a_still_camera_with_rain_verifies_in_every_rain(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / f"{i}.jpg", np.clip(scene(1).astype(int) + 3 * i, 0, 255).astype(np.uint8))
    chosen = build_set(f"photos:{tmp_path}", side=64)
    used, held = names(chosen)
    assert (used, held) == ({"0.jpg", "1.jpg", "2.jpg"}, {"3.jpg"})
    for part in (chosen.calibrate, chosen.verify):
        assert {crop.group for crop in part} == {"heavy", "medium", "light", "drizzle"}
    assert any("All pictures show one scene" in note for note in chosen.notes)


def test_a_mended_truth_makes_another_set(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "input" / f"{i}.png", scene(i))
        write(tmp_path / "target" / f"{i}.png", scene(i))
    before = build_set(str(tmp_path), side=64)
    for i in range(3):
        write(tmp_path / "target" / f"{i}.png", scene(i) // 2)
    assert build_set(str(tmp_path), side=64).sha256 != before.sha256
    assert build_set(str(tmp_path / "input"), side=64).sha256 != before.sha256


def test_a_film_that_ends_in_black_verifies_nothing(tmp_path: Path) -> None:
    dark = [np.zeros((96, 96, 3), np.uint8)] * 20
    path = film(tmp_path / "film.mp4", [*(scene(i, 96, 96) for i in range(20)), *dark])
    with pytest.raises(UsageError, match="the part that is to verify has no crops that are not flat"):
        build_set(str(path), side=64)


def test_of_many_photographs_some_are_rained_on(tmp_path: Path) -> None:
    for i in range(origins.MOST_RAINED + 5):
        write(tmp_path / f"{i:03}.jpg", scene(i, 16, 16))
    opened = origins.open_origin(f"photos:{tmp_path}")
    assert len(opened.entries) == 4 * origins.MOST_RAINED
    assert any("32 of the 37" in note for note in opened.notes)


@pytest.mark.parametrize("folders", [("",), ("input", "target")])
def test_of_a_large_set_some_are_read_and_it_says_how_far_it_is(
    folders: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origins, "MOST_FILES", 8)
    for i in range(20):
        for folder in folders:
            write(tmp_path / folder / f"{i:02}.png", scene(i))
    told: list[tuple[str, int, int]] = []
    chosen = build_set(str(tmp_path), side=64, step=lambda *step: told.append(step))
    used = {int(name[:2]) for side in names(chosen) for name in side}
    assert len(used) == 8 and len({number % 2 for number in used}) == 2
    assert names(build_set(str(tmp_path), side=64)) == names(chosen)
    assert any(note.startswith("8 of the 20") for note in chosen.notes)
    assert told == [(what, i, 8) for what in (READING, CHOOSING) for i in range(1, 9)]


def test_what_is_evaluated_on_is_kept_out(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for i in range(4):
        write(mine / f"{i}.png", scene(i))
        write(other / "input" / f"{i + 10}.png", scene(i + 10))
    (other / "input" / "broken.jpg").write_bytes(b"no picture")
    told: list[tuple[str, int, int]] = []
    chosen = build_set(str(mine), side=64, held_out=other, step=lambda *step: told.append(step))
    assert told[:5] == [(HELD_OUT, i, 5) for i in range(1, 6)]
    assert any("looks like one of the 4 of" in note for note in chosen.notes)
    assert any("1 could not be read and compared: broken.jpg." in note for note in chosen.notes)
    write(other / "target" / "shrunk.jpg", cv2.resize(scene(2), (90, 72), interpolation=cv2.INTER_AREA))
    with pytest.raises(UsageError, match=r"shares pictures with .*other: 2\.png.*--held-out"):
        build_set(str(mine), side=64, held_out=other, allow_overlap=True)
    with pytest.raises(UsageError, match="no pictures in"):
        build_set(str(mine), side=64, held_out=tmp_path / "none")


def test_pictures_are_seen_as_the_runtime_sees_them(tmp_path: Path) -> None:
    for i in range(2):  # of 16 bits, which may be rounded to 8 or cut off
        deep = scene(i).astype(np.uint16) * 257
        deep[deep < 65535 - 200] += 200
        assert cv2.imwrite(str(tmp_path / f"{i}.png"), deep[:, :, ::-1])
    chosen = build_set(str(tmp_path), side=64)
    crop = chosen.calibrate[0]
    seen = read_picture(tmp_path / crop.name)[crop.top : crop.top + 64, crop.left : crop.left + 64]
    assert np.array_equal(crop.image, seen)
