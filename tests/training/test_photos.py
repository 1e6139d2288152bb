"""The photographs: fetched, unpacked, licensed, and split without overlap."""

from __future__ import annotations

import shutil
import struct
import zlib
from itertools import combinations
from pathlib import Path

import pytest

from sdps.core.errors import SdpsError, UsageError
from sdps.training.datasets import difference_hash
from sdps.training.photos import SPLITS, fetch_photos, load_photo, load_split, photo_list, read_rcc

needs_apt = pytest.mark.skipif(not shutil.which("apt-get"), reason="photographs come as a Debian package")


def test_every_photograph_has_a_free_licence_an_author_and_a_source() -> None:
    for split in SPLITS:
        for photo in photo_list(split):
            assert photo.licence in {"Public domain", "CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0"}
            assert photo.author
            assert photo.source
    assert [len(photo_list(split)) for split in SPLITS] == [64, 15, 15]


def test_an_unknown_split() -> None:
    with pytest.raises(UsageError, match="train, calibrate, evaluate"):
        photo_list("holdout")


@needs_apt
def test_no_two_splits_share_a_picture() -> None:
    hashes = {split: [difference_hash(photo) for photo in load_split(split, 256)] for split in SPLITS}
    for a, b in combinations(SPLITS, 2):
        nearest = min(bin(x ^ y).count("1") for x in hashes[a] for y in hashes[b])
        assert nearest > 8, (a, b)


@needs_apt
def test_they_are_pictures_of_a_useful_size() -> None:
    folder = fetch_photos()
    shapes = [load_photo(folder / photo.path).shape for photo in photo_list("evaluate")]
    assert all(max(shape) == 960 and shape[2] == 3 for shape in shapes)


def test_what_is_no_resource_file_or_picture(tmp_path: Path) -> None:
    with pytest.raises(SdpsError, match="Not a Qt resource"):
        list(read_rcc(b"RIFF" + bytes(64)))
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    for name, data in (("fake.webp", b"no picture"), ("empty.jpg", b""), ("huge.png", huge)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SdpsError, match=f"{name} is not a readable picture"):
            load_photo(tmp_path / name)
    with pytest.raises(SdpsError, match=r"gone\.png cannot be read"):
        load_photo(tmp_path / "gone.png")
