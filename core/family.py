"""A family: one network exported at several exits, in one folder, described by one JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sdps.core.artifact import write_json
from sdps.core.errors import ModelError

FORMAT = "sdps-family-1"
SUFFIX = ".json"


@dataclass(frozen=True)
class Member:
    """One exit's graph.

    Attributes:
        exit: The stage whose image it gives, from 0; the last is the whole network's result.
        file: Its file's name, in the folder of the family's file.
        sha256: Of that file.
        macs: Multiply-accumulates at 256x256.
        share: Those in relation to the whole network's, 0 to 1.
        drift: Measured against PyTorch FP32 at export, as in `GraphManifest`.
    """

    exit: int
    file: str
    sha256: str
    macs: int
    share: float
    drift: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FamilyManifest:
    """The graphs of one checkpoint, cheapest first.

    Attributes:
        name, weights_sha256, precision, size, sdps_version: As in `GraphManifest`, the same for all.
        members: By rising exit, at least one.
    """

    name: str
    weights_sha256: str
    precision: str
    size: str
    sdps_version: str
    members: tuple[Member, ...]

    def write(self, path: Path) -> None:
        """Writes it as JSON, atomically."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> FamilyManifest:
        """Reads what `write` wrote.

        Raises:
            ModelError: no such file, not a family's, or one that names files outside its folder.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError("another format")
            members = tuple(Member(**member) for member in values.pop("members"))
            family = cls(members=members, **values)
        except FileNotFoundError:
            raise ModelError(f"There is no file {path}.", "Make it with sdps-export --exits all.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path} describes no family of graphs ({error}).", "Make it with sdps-export --exits all."
            ) from None
        exits = [member.exit for member in members]
        # A description may come from elsewhere; it must not make the runtime open any file of this machine.
        if not exits or exits != sorted(set(exits)) or any(Path(m.file).name != m.file for m in members):
            raise ModelError(f"{path} is damaged: its members are not in order, or not beside it.")
        return family
