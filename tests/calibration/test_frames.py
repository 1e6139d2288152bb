"""The calibration set: what is taken, what is refused, and how it is named."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sdps.calibration.crops import features, k_centres
from sdps.calibration.frames import build_set
from sdps.calibration.held_out import EVALUATION_HASHES, oriented_hashes, perceptual_hash, refuse_overlap
from sdps.core.errors import SdpsError, UsageError
from sdps.core.frame import Image
from sdps.training.photos import fetch_photos, load_photo, photo_list


def scene(seed: int, height: int = 96, width: int = 120) -> Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def folder_of(pictures: list[Image], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{i:02}.png"), picture[:, :, ::-1])
    return folder


def test_a_folder_of_pairs_is_split_by_picture(tmp_path: Path) -> None:
    pictures = [scene(i) for i in range(6)]
    folder_of(pictures, tmp_path / "input")
    folder_of([255 - p for p in pictures], tmp_path / "target")
    chosen = build_set(str(tmp_path), crops=10, side=64)
    assert len(chosen.calibrate) == 10
    used, held = ({crop.name for crop in part} for part in (chosen.calibrate, chosen.verify))
    assert used
    assert held
    assert not used & held
    for crop in chosen.verify:
        pair = crop.pair
        assert pair.clean is not None
        assert pair.rainy.shape == (64, 64, 3)
        assert np.array_equal(255 - pair.rainy, pair.clean)
    again = build_set(str(tmp_path), crops=10, side=64)
    assert chosen.to_json() == again.to_json()
    assert build_set(str(tmp_path), crops=9, side=64).sha256 != chosen.sha256


def test_a_video_is_verified_on_its_end(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(scene(i // 6, 96, 96), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    chosen = build_set(str(path), crops=16, side=64)
    last_used = max(int(c.name.split("#")[1]) for c in chosen.calibrate)
    first_held = min(int(c.name.split("#")[1]) for c in chosen.verify)
    assert last_used < first_held
    assert chosen.verify[0].pair.clean is None


def test_what_is_no_set_is_said(tmp_path: Path) -> None:
    few = folder_of([scene(1)], tmp_path / "one")
    flat = folder_of([np.full((96, 96, 3), 40 * i, np.uint8) for i in range(4)], tmp_path / "flat")
    some = folder_of([scene(i) for i in range(3)], tmp_path / "some")
    for origin, crops, said in (
        (tmp_path / "nowhere", None, "no calibration source"),
        ("", None, "no calibration source ''"),  # and not the folder one is in
        (few, None, "two are the least"),
        (flat, None, "not flat"),
        (some, 500, "500 are asked for"),
    ):
        with pytest.raises(UsageError, match=said):
            build_set(str(origin), crops=crops, side=64)
    with pytest.raises(UsageError, match="do not fit"):
        build_set(str(some), side=66)
    chosen = build_set(str(some), side=64)
    assert any("instead of 128" in note for note in chosen.notes)


def test_why_no_picture_can_be_used_is_said(tmp_path: Path) -> None:
    folder_of([scene(i) for i in range(4)], tmp_path / "input")
    folder_of([scene(i, 80, 100) for i in range(4)], tmp_path / "target")
    with pytest.raises(
        UsageError, match=r"two are the least\. Left out, unlike their truth in size: 00\.png"
    ):
        build_set(str(tmp_path), side=64)


def test_a_flat_picture_of_any_colour_is_flat(tmp_path: Path) -> None:
    flat = [np.full((96, 96, 3), (40 * i, 200, 30), np.uint8) for i in range(4)]
    with pytest.raises(UsageError, match="not flat"):
        build_set(str(folder_of(flat, tmp_path / "flat")), side=64)
    some = build_set(str(folder_of(flat + [scene(i) for i in range(4)], tmp_path / "some")), side=64)
    assert all(crop.image.std((0, 1)).max() > 1 for crop in (*some.calibrate, *some.verify))
    assert any("flat crops were left out" in note for note in some.notes)


def test_k_centres_take_the_extremes_first() -> None:
    points = np.concatenate([np.random.default_rng(0).normal(0, 0.1, (50, 2)), [[9.0, 9.0], [-9.0, 9.0]]])
    assert {50, 51} <= set(k_centres(points, 3))
    assert k_centres(points, 99) == list(range(52))


def test_features_tell_brightness_and_streaks_apart() -> None:
    grey = np.full((64, 64, 3), 90, np.uint8)
    streaks = grey.copy()
    streaks[:, ::5] = 200
    assert features(streaks)[-1] > 3  # runs down the picture
    assert features(np.ascontiguousarray(streaks.transpose(1, 0, 2)))[-1] < -3
    assert features(grey)[0] < features(grey + 60)[0]


def test_a_picture_is_recognised_after_scaling_and_rain() -> None:
    picture = scene(3, 240, 320)
    rng = np.random.default_rng(0)
    smaller = cv2.resize(picture, (200, 150), interpolation=cv2.INTER_AREA)
    rainy = np.where(rng.random((150, 200, 1)) < 0.1, 230, smaller).astype(np.uint8)
    mine = [perceptual_hash(picture)]
    with pytest.raises(UsageError, match=r"a\.png.*--allow-overlap"):
        refuse_overlap({"a.png": oriented_hashes(rainy)}, mine)
    for turned in (rainy[:, ::-1], rainy[::-1], np.rot90(rainy), np.rot90(rainy, 3)[::-1]):
        with pytest.raises(UsageError, match=r"c\.png"):
            refuse_overlap({"c.png": oriented_hashes(np.ascontiguousarray(turned))}, mine)
    refuse_overlap({"b.png": oriented_hashes(scene(4, 240, 320))}, mine)
    assert oriented_hashes(picture)[0] == mine[0]


def test_the_evaluation_hashes_are_those_of_the_photographs() -> None:
    try:
        folder = fetch_photos()
    except SdpsError as error:  # no network here
        pytest.skip(str(error))
    photos = photo_list("evaluate")
    assert len(EVALUATION_HASHES) == len(photos)
    for photo, stored in list(zip(photos, EVALUATION_HASHES, strict=True))[::5]:
        assert perceptual_hash(load_photo(folder / photo.path)) == stored
        with pytest.raises(UsageError, match="shares pictures"):
            refuse_overlap({photo.path: [stored]})
