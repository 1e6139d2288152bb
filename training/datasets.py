"""Pairs of rainy and clean pictures on disk: the layouts of the deraining sets, told by their folders.

What is understood (docs/training.md; the sets differ, and mirrors of them differ again):

- parts: folders with `train`, `val` or `test` (or training, validation, testing) as a word of their
  names (`rain_data_test_Heavy`), each holding one set or one set per sub-folder (Rain13K:
  `test/Rain100H`, `test/Rain100L`, ...); without parts it is one set. How the folder itself is
  called counts for nothing;
- a set: two folders beside each other, input|rainy|rain|lq and target|gt|norain|clean, or one
  folder with both kinds of files in it (Rain100L, Rain100H);
- names: equal in both folders, whatever the suffix, or `rain-NNN` or `norain-NNNx2` for
  `norain-NNN`. Hidden files and RainTrainL's layers of rain alone are passed over.

Nothing is read but names here; `check_pairs`, `scene_hash` and `read_picture` look at the pictures.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdps.core.console import need
from sdps.core.errors import SourceError, UsageError
from sdps.core.frame import Image
from sdps.core.pictures import MAX_PIXELS, READERS, read_picture
from sdps.core.words import listed_lines
from sdps.runtime.sources import PICTURES

INPUTS = ("input", "rainy", "rain", "rain/X2", "rain/x2", "lq", "rainy_image")
TARGETS = ("target", "gt", "norain", "clean", "groundtruth", "ground_truth", "hq")
PARTS = {
    "test": ("test", "testing", "testset"),
    "val": ("val", "valid", "validation", "valset", "eval", "evaluation"),
    "train": ("train", "training", "trainset"),
}
"""Words in the names of folders; of two in one name the first here counts, so no test set is trained on."""
SHOWN = 5
"""Names that a message lists before it counts the rest."""


@dataclass(frozen=True)
class Pair:
    """A rainy picture and the same scene without rain."""

    name: str
    rainy: Path
    clean: Path


@dataclass(frozen=True)
class DataSet:
    """A folder of pairs.

    Attributes:
        folder: Where it lies.
        parts: 'train', 'val', 'test', 'test/Rain100H', ... or 'all', each in the order of names.
        unpaired: One line for each file without a partner, by part.
        strange: Folders that are called like a part and hold no set that is understood, by part.
    """

    folder: Path
    parts: dict[str, list[Pair]]
    unpaired: dict[str, list[str]] = field(default_factory=dict)
    strange: dict[str, Path] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """Of all parts."""
        return [line for lines in self.unpaired.values() for line in lines]

    def problems_of(self, *wanted: str) -> list[str]:
        """Of these parts, with their sub-folders."""
        return [line for key, lines in self.unpaired.items() if key.split("/")[0] in wanted for line in lines]

    def part(self, *wanted: str) -> dict[str, list[Pair]]:
        """The first of the wanted parts that is there, with its sub-folders; empty if none is."""
        for name in wanted:
            found = {key: pairs for key, pairs in self.parts.items() if key.split("/")[0] == name}
            if found:
                return found
        return {}


def recognise(folder: Path) -> DataSet:
    """Finds the pairs in a folder.

    Raises:
        UsageError: no folder, or no pairs in it.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Give a folder of rainy and clean pictures.")
    found = _recognise(folder)
    if not found.parts:
        why = _lacking(folder)
        below = [str(inside) for inside in _folders(folder) if _recognise(inside).parts]
        hint = f"Did you mean {' or '.join(below[:SHOWN])}?" if below else ""
        raise UsageError(
            f"{folder} holds no pairs of rainy and clean pictures. "
            + (f"{listed_lines(found.problems, SHOWN)}." if found.problems else why),
            hint or "Put them into input/ and target/ under the same names.",
        )
    return found


def _lacking(folder: Path) -> str:
    """Which of the two folders that make a set is not there, or holds no picture."""
    lone = next((found for names in (INPUTS, TARGETS) if (found := _find(folder, names))), None)
    if lone is None:
        return "No folder with pictures in it is called input or rain, target or norain."
    return (
        f"Beside {lone.relative_to(folder)}/ there is no folder with pictures that is called "
        f"{'target or norain' if _find(folder, INPUTS) else 'input or rain'}."
    )


def _recognise(folder: Path) -> DataSet:
    """The same without an error: a set without parts, if there are no pairs."""
    parts: dict[str, list[Pair]] = {}
    unpaired: dict[str, list[str]] = {}
    strange: dict[str, Path] = {}
    called = {inside: part for inside in _folders(folder) if (part := _part(inside.name))}
    for inside, part in called.items():
        exactly = inside.name.lower() in PARTS[part]
        sets = _sets(inside, part if exactly else f"{part}/{inside.name}", unpaired)
        for label, pairs in sets.items():
            parts.setdefault(label, []).extend(pairs)
        if not any(sets.values()):
            strange[part] = inside
    if not any(pairs and label.startswith("train") for label, pairs in parts.items()):
        # Beside a test part without one to train on, what is called neither is trained on.
        parts |= _sets(folder, "all", unpaired, tuple(called))
    return DataSet(folder, {name: pairs for name, pairs in parts.items() if pairs}, unpaired, strange)


def pair_up(rainy: Path, clean: Path) -> tuple[list[Pair], list[str]]:
    """Pairs the files of two folders by name; `rain-1` and `norain-1x2` are two rains of `norain-1`.

    Returns:
        The pairs, and a line for each file without a partner and for those that share a name.

    Raises:
        UsageError: one of them is no folder or holds no pictures.
    """
    together = rainy == clean
    inputs = _by_key(path for path in _pictures(rainy) if not (together and _is_clean(path)))
    targets = _by_key(path for path in _pictures(clean) if not together or _is_clean(path))
    pairs: list[Pair] = []
    problems: list[str] = []
    for one, other, lacks in ((inputs, targets, "clean"), (targets, inputs, "rainy")):
        lonely = [path for key in sorted(one.keys() - other) for path in one[key]]
        problems += [f"{path} has no {lacks} picture" for path in lonely]
    for key in sorted(inputs.keys() & targets):
        rains, cleans = inputs[key], targets[key]
        if len(cleans) == 1 and len({path.stem.lower() for path in rains}) == len(rains):
            pairs += [Pair(path.name, path, cleans[0]) for path in rains]
        else:
            alike = " and ".join(str(path) for files in (rains, cleans) if len(files) > 1 for path in files)
            problems.append(f"{alike} share a name, so which belongs to which is not known")
    return pairs, problems


def check_pairs(
    pairs: Sequence[Pair], smallest: int = 1, say: Callable[[int], None] = lambda done: None
) -> tuple[list[Pair], list[str]]:
    """Keeps the pairs that can be used, judged by the heads of their files; names the others.

    Args:
        pairs: What to look at.
        smallest: Pixels that the shorter side needs.
        say: Told how many have been looked at.

    Returns:
        The good pairs, and a line for each bad one: unreadable, not of one size, or too small.
    """
    good: list[Pair] = []
    problems: list[str] = []
    for done, pair in enumerate(pairs, 1):
        sizes = [_size(pair.rainy), _size(pair.clean)]
        if None in sizes:
            bad = (pair.rainy, pair.clean)[sizes.index(None)]
            problems.append(f"{bad} is not a readable picture")
        elif sizes[0] != sizes[1]:
            shown = [f"{size[1]}x{size[0]}" for size in sizes if size]
            problems.append(f"{pair.rainy} is {shown[0]} pixels, {pair.clean.name} is {shown[1]}")
        elif sizes[0] and min(sizes[0]) < smallest:
            problems.append(f"{pair.rainy} is smaller than {smallest} pixels")
        else:
            good.append(pair)
        say(done)
    return good, problems


def refuse(problems: Sequence[str]) -> None:
    """Raises what `pair_up` and `check_pairs` found, for who cannot do without a picture.

    Raises:
        UsageError: there are problems.
    """
    if problems:
        raise UsageError(summary(problems), "Mend or remove them.")


def summary(problems: Sequence[str]) -> str:
    """How many, and the first of them."""
    return f"{len(problems)} pictures do not fit: {listed_lines(problems, SHOWN)}."


def scene_hash(path: Path) -> int | None:
    """The `difference_hash` of a file; None if it cannot be read.

    JPEG is decoded at the smallest scale that will do, which takes a tenth of the time.
    """
    pillow = need("PIL.JpegImagePlugin", "train")
    try:
        with path.open("rb") as stream:
            if stream.read(2) != b"\xff\xd8":
                return difference_hash(read_picture(path))
            stream.seek(0)
            picture = pillow.JpegImageFile(stream)
            picture.draft("RGB", (72, 64))
            return difference_hash(np.asarray(picture.convert("RGB")))
    except (SourceError, OSError, SyntaxError, ValueError, MemoryError):
        return None


def read_pair(pair: Pair, smallest: int = 1) -> tuple[Image, Image]:
    """The rainy and the clean picture, (H, W, 3) uint8 RGB each, of one size.

    Raises:
        SourceError: one of them cannot be read, or they differ in size.
    """
    rainy, clean = read_picture(pair.rainy, smallest), read_picture(pair.clean, smallest)
    if rainy.shape != clean.shape:
        raise SourceError(
            f"{pair.rainy} has {rainy.shape[0]}x{rainy.shape[1]} pixels, "
            f"{pair.clean.name} {clean.shape[0]}x{clean.shape[1]}.",
            "Rainy and clean pictures must match pixel by pixel.",
        )
    return rainy, clean


def difference_hash(image: Image) -> int:
    """64 bits that survive scaling and compression: is each cell brighter than its right neighbour?

    Two pictures of the same scene differ in few bits (about 8 and less), others in about 32.
    """
    cv2 = need("cv2")
    small = cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA).astype(np.float64).sum(2)
    return int("".join("1" if bit else "0" for bit in (small[:, 1:] > small[:, :-1]).ravel()), 2)


def _size(path: Path) -> tuple[int, int] | None:
    """Height and width from the head of the file; None if it is no picture."""
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
            reader = next((READERS[magic] for magic in READERS if head.startswith(magic)), None)
            stream.seek(0)
            if reader is None:
                return None
            opened: Any = stream
            image = reader(opened)
            width, height = image.size
            if width * height > MAX_PIXELS:
                return None
            turned = image.getexif().get(0x0112, 1) >= 5
    except Exception:  # a damaged file raises any of a dozen classes
        return None
    return (width, height) if turned else (height, width)


def _part(name: str) -> str:
    """The part that a folder's name has as a word: 'test' of rain_data_test_Heavy; '' for none."""
    words = re.split(r"[\W_]+", name.lower())
    return next((part for part, names in PARTS.items() if any(word in names for word in words)), "")


def _sets(
    folder: Path, label: str, unpaired: dict[str, list[str]], without: Sequence[Path] = ()
) -> dict[str, list[Pair]]:
    """The sets in a folder: it itself, or one in each sub-folder that is not in `without`.

    A sub-folder that is called a test or validation set is one, wherever it lies.
    """
    rainy, clean = _find(folder, INPUTS), _find(folder, TARGETS)
    if clean is None or rainy is None:
        # Rain100L as published: the clean pictures beside the folder `rainy`, or all in one folder.
        here = [path for path in folder.iterdir() if _is_picture(path)]
        clean = clean or (folder if any(_is_clean(path) for path in here) else None)
        rainy = rainy or (folder if any(_key(path) != path.stem.lower() for path in here) else None)
    if rainy is not None and clean is not None:
        pairs, lonely = pair_up(rainy, clean)
        unpaired.setdefault(label, []).extend(lonely)
        return {label: pairs}
    found: dict[str, list[Pair]] = {}
    for inside in _folders(folder):
        both = _find(inside, INPUTS), _find(inside, TARGETS)
        if all(both) and inside not in without:
            part = _part(inside.name) if label.startswith("train") else ""
            found |= _sets(inside, f"{part or label}/{inside.name}", unpaired)
    return found


def _find(folder: Path, names: Sequence[str]) -> Path | None:
    """A sub-folder of one of the names that holds pictures."""
    by_name = {path.name.lower(): path for path in _folders(folder)}
    for name in names:
        first, *rest = name.split("/")
        path = by_name.get(first)
        if path is not None and rest:
            path = path / rest[0]
        if path is not None and path.is_dir() and any(map(_is_picture, path.iterdir())):
            return path
    return None


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Give a folder of pictures.")
    files = sorted(path for path in folder.iterdir() if _is_picture(path))
    if not files:
        raise UsageError(f"The folder {folder} holds no pictures.", f"Put some there: {', '.join(PICTURES)}.")
    return files


def _is_picture(path: Path) -> bool:
    """By its name; not macOS' hidden `._0.png`, nor RainTrainL's rainstreak-N and rainregion-N."""
    if path.name.startswith(".") or path.suffix.lower() not in PICTURES:
        return False
    return re.fullmatch(r"rain(?:streak|region)-\d+", path.stem.lower()) is None


def _by_key(paths: Iterable[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        found[_key(path)].append(path)
    return found


def _key(path: Path) -> str:
    """What a rainy picture and its clean one have in common: `rain-1`, `norain-1x2`, `norain-1`: '1'."""
    match = re.fullmatch(r"(?:no)?rain-(\d+)(?:x2)?", path.stem.lower())
    return match[1] if match else path.stem.lower()


def _is_clean(path: Path) -> bool:
    return re.fullmatch(r"norain-\d+", path.stem.lower()) is not None
