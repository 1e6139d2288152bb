"""What `sdps-eval` scores: pairs of pictures in folders, or the held-out photographs with rain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import typer

from sdps.core.errors import SourceError, UsageError
from sdps.core.frame import Image
from sdps.core.metrics import SMALLEST
from sdps.training.datasets import Pair, check_pairs, pair_up, read_pair, recognise, refuse, summary
from sdps.training.evaluate import held_out, looks_here
from sdps.training.photos import photo_list
from sdps.training.report import printable


@dataclass(frozen=True)
class PictureSet:
    """Pictures that are scored together: name, rainy and clean, read one after the other.

    Attributes:
        unread: A line for each pair that could not be read; it grows while `pictures` is gone through.
    """

    name: str
    count: int
    pictures: Iterable[tuple[str, Image, Image]]
    unread: list[str] = field(default_factory=list)


def folders(rainy: Path, clean: Path | None, limit: int) -> list[PictureSet]:
    """The pairs to score, by set; a picture among them that does not fit is refused by name.

    Args:
        rainy: Rainy pictures, or alone a data set.
        clean: The same pictures without rain.
        limit: Only so many of each set; 0 for all.

    Raises:
        UsageError: there is nothing to score, or it does not fit together.
    """
    if clean is not None:
        pairs, problems = pair_up(rainy, clean)
        sets = {_name(rainy): pairs}
    else:
        data, wanted = recognise(rainy), ("test", "all", "val")
        sets = data.part(*wanted)
        if not sets:
            raise UsageError(
                f"{rainy} holds training pictures only.", "Give two folders, rainy and clean, to score them."
            )
        part = next(iter(sets)).split("/")[0]
        problems = data.problems_of(*wanted[: wanted.index(part) + 1])
        if others := [line for line in data.problems if line not in problems]:
            typer.echo(printable(f"In parts that are not scored, {summary(others)}"), err=True)
        sets = {_name(rainy) if name == "all" else name: pairs for name, pairs in sets.items()}
    refuse(problems)
    if not any(sets.values()):
        raise UsageError(f"{rainy} and {clean} have no picture in common.", "Pairs have the same name.")
    if limit:
        sets = {name: pairs[:limit] for name, pairs in sets.items()}
    refuse([line for pairs in sets.values() for line in check_pairs(pairs, SMALLEST)[1]])
    return [_pairs(name, pairs) for name, pairs in sets.items()]


def _pairs(name: str, pairs: list[Pair]) -> PictureSet:
    """A set of pairs on disk; one that cannot be read is written down and left out."""
    unread: list[str] = []

    def pictures() -> Iterator[tuple[str, Image, Image]]:
        for pair in pairs:
            try:
                both = read_pair(pair)
            except SourceError as error:
                unread.append(error.message)
                continue
            yield (pair.name, *both)

    return PictureSet(name, len(pairs), pictures(), unread)


def _name(folder: Path) -> str:
    """A folder's own name, also of `.` and `..`; links keep theirs."""
    return (folder if folder.name not in ("", "..") else folder.resolve()).name or str(folder)


def held_out_sets(limit: int) -> list[PictureSet]:
    """The held-out photographs, in every rain that can be made here."""
    count = min(limit or 10**9, len(photo_list("evaluate")))
    return [PictureSet(look, count, held_out(look, limit)) for look in looks_here()]
