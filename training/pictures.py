"""From the user's words to pictures: a data set, a folder of photographs, or the fetched ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sdps.core.errors import SdpsError, UsageError
from sdps.core.frame import Image
from sdps.core.metrics import SMALLEST
from sdps.runtime.sources import PICTURES
from sdps.training.data import PairSource, PhotoSource, Source
from sdps.training.datasets import (
    DataSet,
    Pair,
    check_pairs,
    difference_hash,
    read_pair,
    recognise,
    scene_hash,
)
from sdps.training.photos import load_photo, load_split
from sdps.training.validation import PICTURES as MOST
from sdps.training.validation import Validate, on_pairs, on_photos, picked

Say = Callable[[str], None]

HELD_OUT = 10
"""Every tenth picture is held out where the data does not say which."""
ALIKE_BITS = 8
"""Pictures whose difference hashes are as near as this show the same scene."""
LOOKED_AT = 2000
"""Pairs after which a line tells how far it is; Rain13K has 13,712."""
BITS = np.array([bin(byte).count("1") for byte in range(256)])


def choose(
    data: Path | None, photos: Path | None, patch: int, say: Say, varied: bool = True
) -> tuple[Source, Validate]:
    """What to train on and what to validate on; they share no picture.

    Args:
        data: A data set of pairs, or None.
        photos: A folder of clean photographs to rain on, or None; without both, the fetched ones.
        patch: Pixels that the shorter side of a picture needs.
        say: Told in a line each which pictures were left out, and why.
        varied: Of photographs: see `RainyPatches`.

    Raises:
        UsageError: both given, no such folder, or nothing usable in it.
        SdpsError: the photographs could not be fetched.
    """
    if data is not None and photos is not None:
        raise UsageError("A data set and --photos are two answers to one question.", "Give one of them.")
    if data is not None:
        return _from_pairs(data, patch, say)
    if photos is not None:
        train, held_out = hold_out(load_folder(photos, patch, say), say)
        return PhotoSource(train, photos.resolve().name, varied), on_photos(held_out)
    return PhotoSource(load_split("train"), "gcompris photographs", varied), on_photos(
        load_split("calibrate", 512)[::2]
    )


def load_folder(folder: Path, patch: int, say: Say) -> list[Image]:
    """The photographs in a folder and those below it, by name, shrunk to 960 pixels.

    Raises:
        UsageError: no folder, or no usable picture in it.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Give a folder of photographs.")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES and path.is_file() and not path.name.startswith(".")
    )
    photos = []
    for path in files:
        try:
            photo = load_photo(path)
        except SdpsError:
            say(f"skipped {path}: not a readable picture")
            continue
        if min(photo.shape[:2]) < patch:
            say(f"skipped {path}: at {photo.shape[1]}x{photo.shape[0]} it is smaller than {patch} pixels")
            continue
        photos.append(photo)
    if not photos:
        raise UsageError(
            f"None of the {len(files)} pictures in {folder} can be used.",
            f"Put photographs there: {', '.join(sorted(PICTURES))}.",
        )
    return photos


def hold_out(photos: Sequence[Image], say: Say) -> tuple[list[Image], list[Image]]:
    """Holds out every tenth photograph; what looks like one of them is not trained on either.

    Raises:
        UsageError: nothing would be left to train on.
    """
    held_out = [photo for i, photo in enumerate(photos) if i % HELD_OUT == 0]
    hashes = [difference_hash(photo) for photo in held_out]
    rest = [photo for i, photo in enumerate(photos) if i % HELD_OUT]
    train = [
        photo
        for photo in rest
        if all(bin(difference_hash(photo) ^ other).count("1") > ALIKE_BITS for other in hashes)
    ]
    if len(rest) > len(train):
        say(f"left out {len(rest) - len(train)} photographs that show what a held-out one shows")
    if not train:
        raise UsageError(
            f"{len(photos)} photographs are too few: one is held out, and none is left to train on.",
            "Give two or more that differ.",
        )
    return train, held_out


def hold_out_scenes(
    pairs: Sequence[Pair], every: int, say: Say, most: int = 0
) -> tuple[list[Pair], list[Pair]]:
    """Holds out every so many scenes, each with all its rains; what looks like one is not trained on.

    Args:
        pairs: In the order in which scenes are counted.
        every: 2 or more.
        say: Told how many pairs were left out because they look like one that is held out.
        most: Hold out about so many scenes where those would be more; 0 for as many as there are.

    Returns:
        What to train on, and what is held out. A clean picture that cannot be read is a scene of its own.
    """
    hashes = _hashes(pairs)
    scenes = _scenes(hashes)
    if most and scenes:
        every = max(every, (max(scenes) + 1) // most)
    held_out = [pair for pair, scene in zip(pairs, scenes, strict=True) if scene % every == 0]
    seen = [value for value, scene in zip(hashes, scenes, strict=True) if scene % every == 0]
    others = np.array([value for value in seen if value is not None], np.uint64)
    train, left_out = [], 0
    for pair, scene, value in zip(pairs, scenes, hashes, strict=True):
        if scene % every == 0:
            continue
        if value is not None and (_distances(others, value) <= ALIKE_BITS).any():
            left_out += 1
        else:
            train.append(pair)
    if left_out:
        say(f"left out {left_out} pairs that show what a held-out one shows")
    return train, held_out


def _scenes(hashes: Sequence[int | None]) -> list[int]:
    """The number of each picture's scene, in order of appearance: that of the first one that is alike."""
    firsts, numbers = np.zeros(len(hashes), np.uint64), np.zeros(len(hashes), int)
    known, count = 0, 0
    scenes: list[int] = []
    for value in hashes:
        if value is not None:
            alike = np.flatnonzero(_distances(firsts[:known], value) <= ALIKE_BITS)
            if len(alike):
                scenes.append(int(numbers[alike[0]]))
                continue
            firsts[known], numbers[known] = value, count
            known += 1
        scenes.append(count)
        count += 1
    return scenes


def _hashes(pairs: Sequence[Pair]) -> list[int | None]:
    """Of the clean pictures; each file is read once, however many rains it has."""
    by_file: dict[Path, int | None] = {}
    for pair in pairs:
        if pair.clean not in by_file:
            by_file[pair.clean] = scene_hash(pair.clean)
    return [by_file[pair.clean] for pair in pairs]


def _distances(hashes: npt.NDArray[np.uint64], value: int) -> npt.NDArray[np.int64]:
    """Bits in which each differs from one."""
    different = (hashes ^ np.uint64(value)).view(np.uint8).reshape(-1, 8)
    return BITS[different].sum(1)


def _split(found: DataSet, say: Say) -> tuple[list[Pair], list[Pair]]:
    """What to train on and what to validate on; a test part is used for neither.

    Raises:
        UsageError: nothing to train on.
    """
    train = [pair for pairs in found.part("train", "all").values() for pair in pairs]
    if not train and "train" in found.strange:
        raise UsageError(
            f"{found.strange['train']} holds no pairs that are understood.",
            "It takes folders input/ and target/, with the same names in both.",
        )
    if not train:
        raise UsageError(f"{found.folder} holds test pictures only.", "It takes a folder train/, or none.")
    validation = [pair for pairs in found.part("val").values() for pair in pairs]
    if validation:
        return train, validation
    # Of a set that has a test part as many as are looked at, so that it is trained on nearly whole.
    return hold_out_scenes(train, HELD_OUT, say, MOST if found.part("train") else 0)


def _decodable(pairs: Sequence[Pair], say: Say) -> list[Pair]:
    """Without those that validation would take and that cannot be read to their end; they are named."""
    bad = set()
    for pair in picked(pairs):
        try:
            read_pair(pair, SMALLEST)
        except SdpsError as error:
            say(f"skipped {error.message}")
            bad.add(pair)
    return [pair for pair in picked(pairs) if pair not in bad]


def _told(done: int, pairs: int, say: Say) -> None:
    """Now and then how far it is: a large set takes minutes on a slow disk."""
    if done % LOOKED_AT == 0:
        say(f"looked at {done} of {pairs} pairs")


def _from_pairs(folder: Path, patch: int, say: Say) -> tuple[Source, Validate]:
    found = recognise(folder)
    train, validation = _split(found, say)
    train, bad = check_pairs(train, patch, lambda done: _told(done, len(train), say))
    validation, worse = check_pairs(validation, SMALLEST)
    for problem in (*found.problems, *bad, *worse):
        say(f"skipped {problem}")
    validation = _decodable(validation, say) if train and validation else []
    if not train or not validation:
        raise UsageError(
            f"{folder} has too few usable pairs that show different scenes: {len(train)} to train on, "
            f"{len(validation)} held out.",
            f"Pictures need {patch} pixels a side, or a smaller --patch.",
        )
    name = folder.resolve().name
    return PairSource(train, name), on_pairs(validation, name)
