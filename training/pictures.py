"""From the user's words to pictures: a data set, a folder of photographs, or the fetched ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sdps.core.errors import SdpsError, UsageError
from sdps.core.frame import Image
from sdps.runtime.sources import PICTURES
from sdps.training.data import PairSource, PhotoSource, Source
from sdps.training.datasets import check_pairs, difference_hash, recognise
from sdps.training.photos import load_photo, load_split
from sdps.training.validation import Validate, on_pairs, on_photos

Say = Callable[[str], None]

HELD_OUT = 10
"""Every tenth picture is held out where the data does not say which."""
ALIKE_BITS = 8
"""Pictures whose difference hashes are as near as this show the same scene."""


def choose(data: Path | None, photos: Path | None, patch: int, say: Say) -> tuple[Source, Validate]:
    """What to train on and what to validate on; they share no picture.

    Args:
        data: A data set of pairs, or None.
        photos: A folder of clean photographs to rain on, or None; without both, the fetched ones.
        patch: Pixels that the shorter side of a picture needs.
        say: Told in a line each which pictures were left out, and why.

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
        return PhotoSource(train, photos.resolve().name), on_photos(held_out)
    return PhotoSource(load_split("train"), "gcompris photographs"), on_photos(
        load_split("calibrate", 512)[::2]
    )


def load_folder(folder: Path, patch: int, say: Say) -> list[Image]:
    """The photographs in a folder and those below it, by name, shrunk to 960 pixels.

    Raises:
        UsageError: no folder, or no usable picture in it.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Give a folder of photographs.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
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


def _from_pairs(folder: Path, patch: int, say: Say) -> tuple[Source, Validate]:
    found = recognise(folder)
    problems = list(found.problems)
    train = [pair for pairs in found.part("train", "all").values() for pair in pairs]
    if not train:
        raise UsageError(f"{folder} holds test pictures only.", "It takes a folder train/, or none.")
    validation = [pair for pairs in found.part("val", "test").values() for pair in pairs]
    if not validation:
        train, validation = (
            [pair for i, pair in enumerate(train) if bool(i % HELD_OUT) == kept] for kept in (True, False)
        )
    train, bad = check_pairs(train, patch)
    validation, worse = check_pairs(validation)
    for problem in (*problems, *bad, *worse):
        say(f"skipped {problem}")
    if not train or not validation:
        raise UsageError(
            f"{folder} has too few usable pairs: {len(train)} to train on, {len(validation)} held out.",
            f"Pictures need {patch} pixels a side, or a smaller --patch.",
        )
    name = folder.resolve().name
    return PairSource(train, name), on_pairs(validation, name)
