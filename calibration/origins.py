"""Where the calibration set comes from: files, a film or photographs with rain, read when needed.

Of a folder only one picture at a time is in memory; of a film the frames that may serve.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdps.core.artifact import sha256_of
from sdps.core.console import need
from sdps.core.errors import UsageError
from sdps.core.frame import Image

if TYPE_CHECKING:
    from sdps.training.datasets import Pair as Files

PHOTOS = "photos"
FETCHED = "photos:"
"""The same where a folder is called 'photos'."""
LOOKS = ("heavy", "medium", "light", "drizzle")
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg"}
MOST_FRAMES = 96
NAMED = 3
"""Files that a note names before it counts the rest."""


@dataclass(frozen=True)
class Picture:
    """A whole picture: (H, W, 3) uint8 RGB, its ground truth or None, and the hash of its source."""

    rainy: Image
    clean: Image | None
    sha256: str


class UnequalError(UsageError):
    """A picture and its ground truth differ in size."""


class UnreadableError(UsageError):
    """A file is no picture."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is not a readable picture.", "Take it out of the folder.")
        self.path = path


@dataclass(frozen=True)
class Entry:
    """One picture of an origin.

    Attributes:
        name: Equal for the same scene in several rains.
        group: What is averaged together, e.g. a look of rain.
        read: Reads it, each time anew; raises `UnreadableError`.
    """

    name: str
    group: str
    read: Callable[[], Picture]


@dataclass(frozen=True)
class Origin:
    """Pictures to choose from.

    Attributes:
        name: What it is called in reports.
        kind: 'files', 'film' or 'photos'.
        entries: The pictures, in a fixed order.
        notes: What a user should hear, one line each.
    """

    name: str
    kind: str
    entries: Sequence[Entry]
    notes: Sequence[str] = field(default=())


def open_origin(origin: str) -> Origin:
    """Finds the pictures of 'photos', a folder or a video file.

    Raises:
        UsageError: there is no such source, it holds nothing, or it could be two.
        SourceError: a video cannot be read.
    """
    if origin in (PHOTOS, FETCHED):
        if origin == PHOTOS and _holds_pictures(Path(PHOTOS)):
            raise UsageError(
                "'photos' could be the folder here or the photographs that sdps fetches.",
                f"Write ./{PHOTOS} for the folder, {FETCHED} for the photographs.",
            )
        return Origin(PHOTOS, "photos", _rained_photos())
    path = Path(origin)
    if path.is_dir():
        return _folder(path)
    if path.is_file() and path.suffix.lower() in VIDEOS:
        return _film(path)
    raise UsageError(
        f"There is no calibration source {origin}.",
        "Give a folder of pictures, a video, or 'photos' for photographs with rendered rain.",
    )


def _listed(lines: Sequence[str]) -> str:
    return "; ".join(lines[:NAMED]) + (f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else "")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def _holds_pictures(folder: Path) -> bool:
    return folder.is_dir() and any(_is_picture(path) for path in folder.rglob("*"))


def _folder(folder: Path) -> Origin:
    pairs, notes = _pairs(folder)
    if pairs is None:
        files = sorted(path for path in folder.iterdir() if _is_picture(path))
        return Origin(str(folder), "files", [_file(path.name, path, None) for path in files])
    one = len({pair.rainy.parent for pair in pairs}) == 1
    entries = [
        _file(pair.rainy.name if one else str(pair.rainy.relative_to(folder)), pair.rainy, pair.clean)
        for pair in pairs
    ]
    return Origin(str(folder), "files", entries, notes)


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
    cv2 = need("cv2")
    try:
        bgr: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # nothing in it, or too large
        bgr = None
    if bgr is None:
        raise UnreadableError(path)
    return np.ascontiguousarray(bgr[:, :, ::-1])


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
            notes.append(f"Left out, as no pairs: {_listed(data.problems)}.")
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
    from sdps.runtime.video_source import VideoSource, upright

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
            image = upright(to_rgb(frame, ColorSpec.of(frame)), int(frame.rotation))
            return Picture(image, None, sha)

        return Entry(f"{path.name}#{index}", "video", read)

    notes = [f"{path.name} is damaged: {source.skipped} pieces were left out."] * (source.skipped > 0)
    return Origin(str(path), "film", [entry(index, frame) for index, frame in kept], notes)


def _rained_photos() -> list[Entry]:
    """The photographs of the split 'calibrate' in every look; they are few and stay in memory."""
    from sdps.training.evaluate import rainy_pairs
    from sdps.training.photos import load_split, photo_list

    photos = load_split("calibrate")
    names = [photo.path for photo in photo_list("calibrate")]
    entries = []
    for look in LOOKS:
        for name, (rainy, clean) in zip(names, rainy_pairs(photos, look), strict=True):
            picture = Picture(rainy, clean, hashlib.sha256(clean.tobytes()).hexdigest())
            entries.append(Entry(name, look, lambda picture=picture: picture))  # type: ignore[misc]
    return entries
