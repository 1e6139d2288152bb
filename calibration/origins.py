"""Where the calibration set comes from: files, a film or photographs with rain, read when needed.

Of a folder only one picture at a time is in memory; of a film the frames that may serve.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sdps.calibration.entry import PICTURES, Entry, Picture, UnequalError, UnreadableError
from sdps.calibration.rained import fetched_with_rain, with_rain
from sdps.core.artifact import sha256_of
from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.pictures import decode_picture, no_room_for
from sdps.core.words import listed_lines

if TYPE_CHECKING:
    from sdps.training.datasets import Pair as Files

T = TypeVar("T")
PHOTOS = "photos"
RAINED = "photos:"
"""Before a folder of clean photographs, which get rain; alone it is PHOTOS, whatever a folder is called."""
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg"}
MOST_FRAMES = 96
MOST_RAINED = 32
"""Photographs that rain is rendered on; each of them gives a picture for every look."""
MOST_FILES = 1024
"""Pictures of a folder that are looked at, each of them twice; Rain13K has 13,712 pairs."""


@dataclass(frozen=True)
class Origin:
    """Pictures to choose from.

    Attributes:
        name: What it is called in reports.
        kind: 'files', 'film', 'photos' (those that sdps fetches) or 'rained' (one's own with rain).
        entries: The pictures, in a fixed order.
        notes: What a user should hear, one line each.
    """

    name: str
    kind: str
    entries: Sequence[Entry]
    notes: Sequence[str] = field(default=())

    @property
    def rained(self) -> bool:
        """Whether every picture is there in several rains, under one name."""
        return self.kind in ("photos", "rained")


def open_origin(origin: str) -> Origin:
    """Finds the pictures of 'photos', 'photos:DIR', a folder or a video file.

    Raises:
        UsageError: there is no such source, it holds nothing, or it could be two.
        SourceError: a video cannot be read.
    """
    if origin in (PHOTOS, RAINED):
        if origin == PHOTOS and _holds_pictures(Path(PHOTOS)):
            raise UsageError(
                "'photos' could be the folder here or the photographs that sdps fetches.",
                f"Write ./{PHOTOS} for the folder, {RAINED} for the photographs.",
            )
        return Origin(PHOTOS, "photos", fetched_with_rain())
    if origin.startswith(RAINED):
        return _rained_folder(Path(origin.removeprefix(RAINED)).expanduser())
    path = Path(origin)
    if origin and path.is_dir():  # an empty path is the folder one is in
        return _folder(path)
    if path.is_file() and path.suffix.lower() in VIDEOS:
        return _film(path)
    raise UsageError(
        f"There is no calibration source {origin or repr(origin)}.",
        "Give a folder of rainy pictures, a video, 'photos' for photographs with rendered rain, or "
        f"{RAINED}DIR for rain on your own.",
    )


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def _holds_pictures(folder: Path) -> bool:
    return folder.is_dir() and any(_is_picture(path) for path in folder.rglob("*"))


def _folder(folder: Path) -> Origin:
    pairs, notes = _pairs(folder)
    if pairs is None:
        files = _draw(sorted(path for path in folder.iterdir() if _is_picture(path)), MOST_FILES, notes)
        return Origin(str(folder), "files", [_file(path.name, path, None) for path in files], notes)
    pairs = _draw(pairs, MOST_FILES, notes, "pairs")
    one = len({pair.rainy.parent for pair in pairs}) == 1
    entries = [
        _file(pair.rainy.name if one else str(pair.rainy.relative_to(folder)), pair.rainy, pair.clean)
        for pair in pairs
    ]
    return Origin(str(folder), "files", entries, notes)


def _rained_folder(folder: Path) -> Origin:
    """Clean photographs in a folder and those below it, which get every look of rain."""
    files = sorted(path for path in folder.rglob("*") if _is_picture(path))
    if not files:
        raise UsageError(
            f"There are no photographs in {folder}.", f"Give a folder of clean ones: --calib {RAINED}DIR."
        )
    notes: list[str] = []
    files = _draw(files, MOST_RAINED, notes, "photographs")
    return Origin(f"{RAINED}{folder}", "rained", with_rain(folder, files), notes)


def _draw(files: list[T], most: int, notes: list[str], what: str = "pictures") -> list[T]:
    """At most so many, drawn by chance and always the same, which a note says.

    By chance, because every n-th of a folder may be of one rain or one camera.
    """
    if len(files) <= most:
        return files
    notes.append(f"{most} of the {len(files)} {what} were looked at, drawn by chance, always the same.")
    drawn = np.random.default_rng(len(files)).choice(len(files), most, replace=False)
    return [files[i] for i in sorted(drawn.tolist())]


def _file(name: str, rainy: Path, clean: Path | None) -> Entry:
    def read() -> Picture:
        data = _bytes(rainy)
        image, truth = _decode(data, rainy), None
        if clean is not None:
            truth = _decode(_bytes(clean), clean)
            if truth.shape != image.shape:
                raise UnequalError(f"{name} and its ground truth differ in size.", "Pairs have equal sizes.")
        return Picture(image, truth, hashlib.sha256(data).hexdigest())

    return Entry(name, "pictures" if clean is None else "pairs", read)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise UnreadableError(path) from None


def _decode(data: bytes, path: Path) -> Image:
    try:
        image = decode_picture(data)
    except MemoryError:
        raise no_room_for(path) from None
    if image is None:
        raise UnreadableError(path)
    return image


def _pairs(folder: Path) -> tuple[list[Files] | None, list[str]]:
    """The pairs in a folder, in the order of names, and notes; None if it holds lone pictures.

    Raises:
        UsageError: there is neither.
    """
    from sdps.training.datasets import recognise

    lone = any(_is_picture(path) for path in folder.iterdir())
    notes = []
    try:
        data = recognise(folder)
    except UsageError:
        pairs = _versions(folder)
        if not pairs and lone:
            return None, []
        if not pairs and not any(path.is_dir() for path in folder.iterdir()):
            raise UsageError(f"There are no pictures in {folder}.", "Put some there.") from None
        if not pairs:
            raise
    else:
        if lone and not data.part("all"):  # a test set below a folder of pictures is not what is meant
            return None, []
        # What networks are tested on is the last to calibrate on.
        parts = data.part("all", "train", "val", "test")
        pairs = [pair for part in parts.values() for pair in part]
        if len(parts) < len(data.parts):
            notes.append(f"Of {folder}, the part {next(iter(parts)).split('/')[0]!r} was taken.")
        if data.problems:
            notes.append(f"Left out, as no pairs: {listed_lines(data.problems)}.")
    pairs = [pair for pair in pairs if pair.rainy.is_file() and pair.clean.is_file()]
    return sorted(pairs, key=lambda pair: pair.rainy), notes


def _versions(folder: Path) -> list[Files]:
    """Pairs of several rains on one photograph, as Rain1400 has them: `7_1.jpg`, `7_2.jpg` of `7.jpg`."""
    from sdps.training.datasets import INPUTS, PARTS, TARGETS, Pair

    inside = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    rainy = next((inside[name] for name in INPUTS if name in inside), None)
    clean = next((inside[name] for name in TARGETS if name in inside), None)
    if rainy is None or clean is None:
        return next((_versions(inside[name]) for name in PARTS["train"] if name in inside), [])
    truths = {path.stem.lower(): path for path in clean.iterdir() if _is_picture(path)}
    pairs = []
    for path in sorted(path for path in rainy.iterdir() if _is_picture(path)):
        match = re.fullmatch(r"(.+)_\d+", path.stem.lower())
        if match and match[1] in truths:
            pairs.append(Pair(path.name, path, truths[match[1]]))
    return pairs


def _film(path: Path) -> Origin:
    """Frames spread over all of it: when they get too many, every other one goes.

    They are kept as they were decoded, in half the memory, and seen in the runtime's colours.
    """
    from sdps.runtime.color import ColorSpec, to_rgb
    from sdps.runtime.orientation import display_matrix, upright
    from sdps.runtime.video_source import VideoSource

    source = VideoSource(str(path.resolve()))
    sha = sha256_of(path)
    kept: list[tuple[int, Any]] = []
    every = 1
    try:
        for index, frame in enumerate(chain([source.first], source.decoded)):
            if index % every == 0:
                kept.append((index, frame))
            if len(kept) > MOST_FRAMES:
                kept, every = kept[::2], every * 2
    finally:
        source.close()

    def entry(index: int, frame: Any) -> Entry:
        def read() -> Picture:
            image = upright(to_rgb(frame, ColorSpec.of(frame)), display_matrix(frame))
            return Picture(image, None, sha)

        return Entry(f"{path.name}#{index}", "video", read)

    notes = [f"{path.name} is damaged: {source.skipped} pieces were left out."] * (source.skipped > 0)
    return Origin(str(path), "film", [entry(index, frame) for index, frame in kept], notes)
