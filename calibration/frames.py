"""The calibration set: which crops of which pictures, chosen so that they cover what will be seen.

Sources are a folder of pictures (or of pairs, `input/` beside `target/`), a video or a camera's
recording, or photographs with rendered rain, one's own or those of the split 'calibrate' (`origins`). Each
scene serves either to calibrate or to verify, never both; a film is split in time (`grouping`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sdps.calibration.drift import Pair
from sdps.calibration.entry import Entry, Picture, UnequalError, UnreadableError
from sdps.calibration.grouping import scenes, split_film, split_groups
from sdps.calibration.held_out import hashes_below, perceptual_hash, refuse_overlap
from sdps.calibration.observe import Step
from sdps.calibration.origins import NAMED, Origin, open_origin
from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.spec import STRIDE

CROPS, VERIFY_CROPS, LEAST = 128, 32, 8
CROP = 256
READING, CHOOSING = "Reading the pictures", "Choosing crops"
PER_PICTURE = 8
"""Candidate crops of each picture."""
LEAST_OF_A_SCENE = 3
"""Pictures of one size and no copies of each other, of a camera that looks at one scene."""
FLAT = 1.0
"""A crop whose values deviate less than this many levels says nothing about ranges."""


@dataclass(frozen=True)
class Crop:
    """A piece of a picture, cut at (top, left).

    Attributes:
        name, group: Of the picture, see `origins.Entry`.
        sha256: Of the picture's source.
        image: (side, side, 3) uint8 RGB.
        clean: The same of its ground truth, or None.
    """

    name: str
    group: str
    sha256: str
    top: int
    left: int
    image: Image
    clean: Image | None

    @property
    def pair(self) -> Pair:
        """With its ground truth."""
        return Pair(self.image, self.clean, self.group)

    def to_json(self) -> dict[str, Any]:
        """What names this crop for good."""
        return {
            "source": self.name,
            "source_sha256": self.sha256,
            "group": self.group,
            "box": [self.top, self.left, *self.image.shape[:2]],
            "sha256": hashlib.sha256(self.image.tobytes()).hexdigest(),
        }


@dataclass(frozen=True)
class CalibrationSet:
    """Crops to calibrate and to verify on, and what was left out."""

    calibrate: Sequence[Crop]
    verify: Sequence[Crop]
    origin: str
    notes: Sequence[str]

    @property
    def sha256(self) -> str:
        """One hash of all crops' pixels, their ground truth and their use."""
        digest = hashlib.sha256()
        for use in (self.calibrate, self.verify):
            for crop in use:
                digest.update(crop.group.encode("utf-8", "surrogateescape") + crop.image.tobytes())
                digest.update(b"" if crop.clean is None else crop.clean.tobytes())
            digest.update(b"|")
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The set's manifest."""
        return {
            "origin": self.origin,
            "sha256": self.sha256,
            "notes": list(self.notes),
            "calibrate": [crop.to_json() for crop in self.calibrate],
            "verify": [crop.to_json() for crop in self.verify],
        }


@dataclass(frozen=True)
class _Candidate:
    """Where a crop may be cut, and its `features`."""

    entry: Entry
    top: int
    left: int
    features: npt.NDArray[np.float64]


def build_set(
    origin: str,
    crops: int | None = None,
    side: int = CROP,
    allow_overlap: bool = False,
    stride: int = STRIDE,
    held_out: Path | None = None,
    step: Step = lambda *_: None,
) -> CalibrationSet:
    """Reads a source and chooses crops.

    Args:
        origin: 'photos', 'photos:DIR', a folder, or a video file.
        crops: How many to calibrate on; None takes 128 or what there is.
        side: Of a crop in pixels, a multiple of `stride`.
        allow_overlap: Take pictures of the evaluation set as well.
        stride: What divides the sizes that the network takes.
        held_out: A folder of pictures to evaluate on, of which none may be in the set.
        step: Told what is read and how far it is: all pictures, then once more those that can be cut.

    Raises:
        UsageError: no such source, too few pictures or scenes, nothing but flat ones, or an overlap.
        SourceError: a video cannot be read.
    """
    if side % stride or side < 64:
        least = -(-64 // stride) * stride
        raise UsageError(
            f"Crops of {side} pixels do not fit a network of stride {stride}.",
            f"Give a multiple of {stride}, at least {least}, with --calib-size.",
        )
    source = open_origin(origin)
    kept_apart, unread = ([], []) if held_out is None else hashes_below(held_out, step)
    notes = list(source.notes)
    usable, hashes, different = _survey(source, side, notes, _ticks(READING, len(source.entries), step))
    told = {entry.name: digits for entry, digits in zip(usable, hashes, strict=True) if digits}
    if not allow_overlap:
        refuse_overlap(told)
    if held_out is not None:
        refuse_overlap(told, kept_apart, str(held_out))
        notes.append(f"None of its pictures is among the {len(kept_apart)} of {held_out}.")
        if unread:
            notes.append(f"Of {held_out}, {len(unread)} could not be read and compared: {_named(unread)}.")
    names, looked_at = (len({entry.name for entry in some}) for some in (usable, source.entries))
    if names < 2:
        raise UsageError(
            f"Of the {looked_at} pictures of {origin} that were looked at, {names} can be read and have "
            f"{side}x{side} pixels; two are the least.",
            "One serves to calibrate, another to verify. Give more, or smaller crops with --calib-size.",
        )
    calibrate, verify = _split(source, usable, hashes, different, notes)
    tick = _ticks(CHOOSING, len(calibrate) + len(verify), step)
    chosen, flat = _choose(calibrate, crops or CROPS, side, tick)
    verified, flat_too = _choose(verify, VERIFY_CROPS, side, tick)
    if flat + flat_too:
        notes.append(f"{flat + flat_too} flat crops were left out.")
    _refuse_few(origin, len(chosen), len(verified), crops)
    if len(chosen) < (crops or CROPS):
        notes.append(f"{len(chosen)} crops were to be had instead of {CROPS}.")
    return CalibrationSet(_cut(chosen, side), _cut(verified, side), source.name, notes)


def _ticks(what: str, total: int, step: Step) -> Callable[[], None]:
    """Tells `step` of one more, each time it is called."""
    done = count(1)
    return lambda: step(what, next(done), total)


def _refuse_few(origin: str, chosen: int, verified: int, asked: int | None) -> None:
    if not verified:
        raise UsageError(
            f"Of {origin}, the part that is to verify has no crops that are not flat.",
            "Give more pictures with something on them.",
        )
    if chosen < min(asked or LEAST, LEAST):
        raise UsageError(
            f"{origin} gives {chosen} crops that are not flat; {asked or LEAST} are needed.",
            "Give pictures with something on them.",
        )
    if asked and chosen < asked:
        raise UsageError(
            f"{origin} gives {chosen} crops, and {asked} are asked for.",
            "Ask for fewer with --calib-crops, or give more pictures.",
        )


def _survey(
    source: Origin, side: int, notes: list[str], tick: Callable[[], None]
) -> tuple[list[Entry], list[str | None], int]:
    """The pictures that can be cut, the hash of each, None of a flat one, and how many differ at all.

    Of the others there are notes. Pictures of several sizes are no camera's and count as none. What is
    there in several rains is read once.
    """
    usable: list[Entry] = []
    hashes: list[str | None] = []
    known: dict[str, str | None] = {}
    seen: set[str] = set()
    contents: set[str] = set()
    shapes: set[tuple[int, ...]] = set()
    unreadable: list[str] = []
    unequal: list[str] = []
    small = 0
    for entry in source.entries:
        tick()
        if source.rained and entry.name in seen:
            if entry.name in known:
                usable.append(entry)
                hashes.append(known[entry.name])
            continue
        seen.add(entry.name)
        try:
            picture = entry.read()
        except UnreadableError as error:
            unreadable.append(error.path.name)
            continue
        except UnequalError:
            unequal.append(entry.name)
            continue
        if min(picture.rainy.shape[:2]) < side:
            small += 1
            continue
        usable.append(entry)
        known[entry.name] = _hash(picture.rainy if picture.clean is None else picture.clean)
        hashes.append(known[entry.name])
        contents.add(picture.sha256)
        shapes.add(picture.rainy.shape)
    for names, why in (
        (unreadable, "as no readable pictures"),
        (unequal, "unlike their truth in size"),
    ):
        if names:
            notes.append(f"Left out, {why}: {_named(names)}.")
    if small:
        notes.append(f"{small} pictures are smaller than {side} pixels and were left out.")
    return usable, hashes, len(contents) if len(shapes) == 1 else 0


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _hash(image: Image) -> str | None:
    """None of a flat picture, whose hash would be that of every other."""
    return None if int(image.max()) - int(image.min()) <= 2 * FLAT else perceptual_hash(image)


def _split(
    source: Origin,
    usable: Sequence[Entry],
    hashes: Sequence[str | None],
    different: int,
    notes: list[str],
) -> tuple[list[Entry], list[Entry]]:
    """What calibrates and what verifies; `different` says how many a still camera may have taken.

    Raises:
        UsageError: all pictures are one, or two of one scene.
    """
    # The same in several rains has the same name.
    names = {name: i for i, name in enumerate(dict.fromkeys(entry.name for entry in usable))}
    numbers = [names[entry.name] for entry in usable] if source.rained else list(range(len(usable)))
    groups = numbers if source.kind == "photos" else scenes(hashes)
    if source.kind == "film":
        parts = split_film(len(usable))
        if {groups[i] for i in parts[0]} & {groups[i] for i in parts[1]}:
            notes.append(
                "The film's last third, which verifies, shows a scene that calibrates too, as it does with "
                "a still camera; on other scenes the drift may be larger."
            )
    elif len(set(groups)) < 2 and different < LEAST_OF_A_SCENE:
        raise UsageError(
            f"The {max(numbers) + 1} pictures of {source.name} all show one scene; two are the least.",
            "One serves to calibrate, another to verify: add pictures of something else.",
        )
    elif len(set(groups)) < 2:  # a still camera's, in the order of their names
        earlier, later = split_film(max(numbers) + 1)
        parts = (
            [i for i, number in enumerate(numbers) if number in earlier],
            [i for i, number in enumerate(numbers) if number in later],
        )
        notes.append(
            "All pictures show one scene, which calibrates and verifies; on other scenes the drift may be "
            "larger."
        )
    else:
        parts = split_groups(groups)
    return [usable[i] for i in parts[0]], [usable[i] for i in parts[1]]


def _choose(
    entries: Sequence[Entry], most: int, side: int, tick: Callable[[], None]
) -> tuple[list[_Candidate], int]:
    """`most` places by greedy k-centre over `features`; and how many flat ones were passed over."""
    candidates: list[_Candidate] = []
    flat = 0
    for index, entry in enumerate(entries):
        tick()
        image = entry.read().rainy
        rng = np.random.default_rng((20, index))
        height, width = image.shape[:2]
        places = {
            (int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)))
            for _ in range(PER_PICTURE)
        }
        for top, left in sorted(places):
            cut = _window(image, top, left, side)
            if cut.std() < FLAT:
                flat += 1
            else:
                candidates.append(_Candidate(entry, top, left, features(cut)))
    if not candidates:
        return [], flat
    return [candidates[i] for i in k_centres(np.stack([c.features for c in candidates]), most)], flat


def _cut(chosen: Sequence[_Candidate], side: int) -> list[Crop]:
    """The crops themselves, in the same order. Every picture is read once more, and let go."""
    made: dict[int, Crop] = {}
    for entry in dict.fromkeys(place.entry for place in chosen):
        picture = entry.read()
        of_it = ((i, place) for i, place in enumerate(chosen) if place.entry is entry)
        made |= {i: _crop(place, picture, side) for i, place in of_it}
    return [made[i] for i in range(len(chosen))]


def _crop(place: _Candidate, picture: Picture, side: int) -> Crop:
    image, clean = (
        None if whole is None else _window(whole, place.top, place.left, side)
        for whole in (picture.rainy, picture.clean)
    )
    assert image is not None
    return Crop(place.entry.name, place.entry.group, picture.sha256, place.top, place.left, image, clean)


def _window(image: Image, top: int, left: int, side: int) -> Image:
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def features(image: Image) -> npt.NDArray[np.float64]:
    """What distinguishes crops for calibration, cheaply: brightness, colour, detail, rain.

    Five quantiles of luma, the channels' means, the energy of fine detail, and the energy of
    structures that run down the picture (streaks of rain) over that of those that run across.
    """
    luma = image.astype(np.float64) @ (0.299, 0.587, 0.114)
    down, across = np.abs(np.diff(luma, axis=0)).mean(), np.abs(np.diff(luma, axis=1)).mean()
    fine = np.abs(
        luma[1:-1, 1:-1] * 4 - luma[:-2, 1:-1] - luma[2:, 1:-1] - luma[1:-1, :-2] - luma[1:-1, 2:]
    ).mean()
    return np.array(
        [
            *np.quantile(luma, (0.02, 0.25, 0.5, 0.75, 0.98)) / 64,
            *image.mean((0, 1)) / 64,
            np.log2(1 + fine),
            np.log2((across + 0.1) / (down + 0.1)),
        ]
    )


def k_centres(points: npt.NDArray[np.float64], count: int) -> list[int]:
    """Indices of `count` points, each the farthest from those before (Gonzalez 1985); the first is
    the one nearest to the mean. With no more points than `count`, all of them."""
    if len(points) <= count:
        return list(range(len(points)))
    scaled = (points - points.mean(0)) / (points.std(0) + 1e-9)
    chosen = [int(np.argmin((scaled**2).sum(1)))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, ((scaled - scaled[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(np.argmax(nearest)))
    return chosen
