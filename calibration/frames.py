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

from sdps.calibration.crops import FLAT, Crop, choose, cut
from sdps.calibration.entry import Entry, UnequalError, UnreadableError
from sdps.calibration.grouping import scenes, split_film, split_groups
from sdps.calibration.held_out import hashes_below, oriented_hashes, refuse_overlap
from sdps.calibration.observe import Step
from sdps.calibration.origins import Origin, open_origin
from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.spec import STRIDE
from sdps.core.words import listed

CROPS, VERIFY_CROPS, LEAST = 128, 32, 8
CROP = 256
READING, CHOOSING = "Reading the pictures", "Choosing crops"
LEAST_OF_A_SCENE = 3
"""Pictures of one size and no copies of each other, of a camera that looks at one scene."""


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
    survey = _survey(source, side, _ticks(READING, len(source.entries), step))
    notes += survey.notes
    told = {entry.name: known for entry, known in zip(survey.usable, survey.hashes, strict=True) if known}
    if not allow_overlap:
        refuse_overlap(told)
    if held_out is not None:
        refuse_overlap(told, kept_apart, str(held_out))
        notes.append(
            f"None of its pictures looks like one of the {len(kept_apart)} of {held_out}, turned or mirrored "
            "ones included; parts cut out of one are not recognised."
        )
        if unread:
            notes.append(f"Of {held_out}, {len(unread)} could not be read and compared: {listed(unread)}.")
    names, looked_at = (len({entry.name for entry in some}) for some in (survey.usable, source.entries))
    if names < 2:
        raise UsageError(
            " ".join(
                [
                    f"Of the {looked_at} pictures of {origin} that were looked at, {names} can give crops of "
                    f"{side}x{side} pixels; two are the least.",
                    *survey.notes,
                ]
            ),
            "One serves to calibrate, another to verify. Give more, or smaller crops with --calib-size.",
        )
    calibrate, verify, told_of_split = _split(source, survey)
    notes += told_of_split
    tick = _ticks(CHOOSING, len(calibrate) + len(verify), step)
    chosen, flat = choose(calibrate, crops or CROPS, side, tick)
    verified, flat_too = choose(verify, VERIFY_CROPS, side, tick)
    if flat + flat_too:
        notes.append(f"{flat + flat_too} flat crops were left out.")
    _refuse_few(origin, len(chosen), len(verified), crops)
    if len(chosen) < (crops or CROPS):
        notes.append(f"{len(chosen)} crops were to be had instead of {CROPS}.")
    return CalibrationSet(cut(chosen, side), cut(verified, side), source.name, notes)


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


@dataclass(frozen=True)
class _Survey:
    """What a source holds.

    Attributes:
        usable: The pictures that can be cut.
        hashes: `oriented_hashes` of each of them; None of a flat one.
        different: How many differ at all; 0 for pictures of several sizes, which are no camera's.
        notes: What was left out.
    """

    usable: Sequence[Entry]
    hashes: Sequence[tuple[str, ...] | None]
    different: int
    notes: Sequence[str]


def _survey(source: Origin, side: int, tick: Callable[[], None]) -> _Survey:
    """Reads every picture once, however many rains it is there in."""
    usable: list[Entry] = []
    hashes: list[tuple[str, ...] | None] = []
    known: dict[str, tuple[str, ...] | None] = {}
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
        known[entry.name] = _hashes(picture.rainy if picture.clean is None else picture.clean)
        hashes.append(known[entry.name])
        contents.add(picture.sha256)
        shapes.add(picture.rainy.shape)
    left_out = ((unreadable, "as no readable pictures"), (unequal, "unlike their truth in size"))
    notes = [f"Left out, {why}: {listed(names)}." for names, why in left_out if names]
    if small:
        notes.append(f"{small} pictures are smaller than {side} pixels and were left out.")
    return _Survey(usable, hashes, len(contents) if len(shapes) == 1 else 0, notes)


def _hashes(image: Image) -> tuple[str, ...] | None:
    """None of a flat picture, whose hash would be that of every other."""
    return None if np.ptp(image, axis=(0, 1)).max() <= 2 * FLAT else oriented_hashes(image)


def _split(source: Origin, survey: _Survey) -> tuple[list[Entry], list[Entry], list[str]]:
    """What calibrates, what verifies, and what is to be noted of it.

    Raises:
        UsageError: all pictures are one, or two of one scene.
    """
    usable = survey.usable
    # The same in several rains has the same name.
    names = {name: i for i, name in enumerate(dict.fromkeys(entry.name for entry in usable))}
    numbers = [names[entry.name] for entry in usable] if source.rained else list(range(len(usable)))
    groups = numbers if source.kind == "photos" else scenes(survey.hashes)
    notes = []
    if source.kind == "film":
        parts = split_film(len(usable))
        if {groups[i] for i in parts[0]} & {groups[i] for i in parts[1]}:
            notes.append(
                "The film's last third, which verifies, shows a scene that calibrates too, as it does with "
                "a still camera; on other scenes the drift may be larger."
            )
    elif len(set(groups)) < 2 and survey.different < LEAST_OF_A_SCENE:
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
    return [usable[i] for i in parts[0]], [usable[i] for i in parts[1]], notes
