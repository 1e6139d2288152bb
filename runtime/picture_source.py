"""Pictures, one or a list, as frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sdps.core.errors import SourceError
from sdps.core.frame import Frame
from sdps.core.pictures import Decoded, decode, no_room_for, pages
from sdps.runtime.stream import StreamInfo


class Several:
    """One note on all files of which only the first picture is taken: animations, and such as have pages."""

    def __init__(self) -> None:
        self.first, self.others, self.at = "", 0, 0

    def note(self, path: Path, count: int, notes: list[str]) -> None:
        """Adds to the notes, or to the one that is there."""
        if count <= 1:
            return
        if not self.first:
            self.first, self.at = f"only the first of {count} pictures in {path.name} is taken", len(notes)
            notes.append(self.first)
        else:
            self.others += 1
            notes[self.at] = f"{self.first}, and so of {self.others} more files"


class PictureSource:
    """Reads pictures in order. Unreadable ones are named in `info.notes`, skipped and counted.

    Args:
        files: The pictures.
        note: What else a user should hear; empty if nothing.

    Raises:
        SourceError: not one of them can be read.
    """

    def __init__(self, files: Sequence[Path], note: str = "") -> None:
        self.files, self.skipped = list(files), 0
        self.notes: list[str] = []
        self.said_deep, self.several = False, Several()
        self.short: Path | None = None  # the first picture that memory did not hold
        first = next((found for path in self.files if (found := self._read(path)) is not None), None)
        if first is None:
            if self.short:
                raise no_room_for(self.short)
            raise SourceError(f"{files[0]} is not a readable picture.", "Is the file complete?")
        self.skipped = 0  # counted again when they are read in turn
        self.notes[:] = [note] if note else []
        self.said_deep, self.several = False, Several()
        height, width = first.image.shape[:2]
        self.info = StreamInfo(
            "pictures", width, height, frames=len(files), inputs=tuple(files), notes=self.notes
        )

    def _read(self, path: Path) -> Decoded | None:
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        why = "not a readable picture"
        try:
            found = decode(data)
        except MemoryError:
            found, why = None, "not enough memory to read it"
            self.short = self.short or path
        if found is None:
            self.skipped += 1
            self.notes.append(f"skipped {path}: {why}")
        elif found.deep and not self.said_deep:
            self.notes.append(f"{path.name} has 16 bits per channel, the network sees and gives 8")
            self.said_deep = True
        if found is not None:
            self.several.note(path, pages(data), self.notes)
        return found

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self.files):
            found = self._read(path)
            if found is not None:
                yield Frame(
                    found.image, index, float(index), path.name, profile=found.profile, exif=found.exif
                )

    def close(self) -> None:
        self.files = []
