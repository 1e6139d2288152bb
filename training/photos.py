"""The photographs that sdps trains and measures on, from a package registry, never committed.

They come from Debian's `gcompris-qt-data`, pinned by version and SHA-256, on any system.
`photos.csv` lists each with its licence, author and source, and the split it belongs to; only
public-domain, CC0 and CC-BY pictures are used. Train, calibrate and evaluate share no picture.

`python -m sdps.training.photos` fetches them into the cache and prints where they are.
"""

from __future__ import annotations

import csv
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

from sdps.core.artifact import sha256_of, write_bytes
from sdps.core.cache import cache_folder
from sdps.core.console import need
from sdps.core.errors import SdpsError, UsageError
from sdps.core.frame import Image
from sdps.core.pictures import read_picture
from sdps.model.download import KnownFile, fetch
from sdps.training.debian import packed_files

NAME, VERSION = "gcompris-qt-data", "3.1-2"
PACKAGE = KnownFile(
    f"{NAME}_{VERSION}_all.deb",
    44_196_292,
    "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
)
BASE_URL = "https://deb.debian.org/debian/pool/main/g/gcompris-qt"
"""Where Debian's archive has it; `SDPS_PHOTOS_URL` replaces it."""
SPLITS = ("train", "calibrate", "evaluate")


@dataclass(frozen=True)
class Photo:
    """A row of photos.csv."""

    path: str
    split: str
    licence: str
    author: str
    source: str


def photo_list(split: str) -> list[Photo]:
    """The photographs of one split, in a fixed order.

    Raises:
        UsageError: `split` is not one of SPLITS.
    """
    if split not in SPLITS:
        raise UsageError(f"There is no split {split!r}.", f"Choose from {', '.join(SPLITS)}.")
    text = resources.files("sdps.training").joinpath("photos.csv").read_text(encoding="utf-8")
    return [photo for row in csv.DictReader(text.splitlines()) if (photo := Photo(**row)).split == split]


def fetch_photos() -> Path:
    """Downloads and unpacks the photographs once; returns the folder that holds them.

    Raises:
        SdpsError: the package can be had neither from apt nor over the network, or not be written.
    """
    folder = cache_folder() / "photos" / f"{NAME}-{VERSION}"
    wanted = [photo for split in SPLITS for photo in photo_list(split)]
    if all((folder / photo.path).is_file() for photo in wanted):
        return folder
    size = f"{PACKAGE.size / 1e6:.0f} MB"
    sys.stderr.write(f"Fetching photographs (Debian's {NAME}, {size}), once; they are kept in {folder}.\n")
    with tempfile.TemporaryDirectory(prefix="sdps-photos-") as scratch:
        contents = _contents(_package(Path(scratch)), {photo.path.split("/", 1)[0] for photo in wanted})
        for photo in wanted:
            match = next((data for name, data in contents.items() if name.endswith(photo.path)), None)
            if match is None:
                raise SdpsError(f"{photo.path} is not in {NAME} {VERSION}.")
            write_bytes(folder / photo.path, match)
    return folder


def _package(scratch: Path) -> Path:
    """The pinned package: from apt, whose mirror is near, if that has it; else from Debian's archive."""
    kept = cache_folder() / "photos"
    if not (kept / PACKAGE.name).is_file() and (found := _from_apt(scratch)):
        return found
    return fetch(PACKAGE, os.environ.get("SDPS_PHOTOS_URL") or BASE_URL, kept)


def _from_apt(scratch: Path) -> Path | None:
    """None where there is no apt, or one of a system that has another version or its own build."""
    if not shutil.which("apt-get"):
        return None
    command = ["apt-get", "download", f"{NAME}={VERSION}"]
    subprocess.run(command, cwd=scratch, capture_output=True, check=False)
    return next((deb for deb in scratch.glob("*.deb") if sha256_of(deb) == PACKAGE.sha256), None)


def _contents(package: Path, activities: set[str]) -> dict[str, bytes]:
    """The files of some of GCompris's activities, by their paths below `activities/`."""
    contents: dict[str, bytes] = {}
    for path, data in packed_files(package, ".rcc"):
        if PurePosixPath(path).stem in activities:
            contents |= {name.split("activities/", 1)[-1]: file for name, file in read_rcc(data)}
    return contents


def read_rcc(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Files of a Qt binary resource (`.rcc`, formats 1 to 3): pairs of path and contents.

    Layout as Qt's `rcc` tool writes it: a header of big-endian offsets, a tree of 14-byte nodes
    (22 with a time stamp, from format 2), names as UTF-16BE, contents plain or zlib-compressed.
    """
    magic, version, tree, contents, names = struct.unpack_from(">4sIIII", data)
    if magic != b"qres" or version not in (1, 2, 3):
        raise SdpsError("Not a Qt resource file.")
    node_size = 14 if version == 1 else 22

    def walk(index: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        at = tree + index * node_size
        name_offset, flags = struct.unpack_from(">IH", data, at)
        (length,) = struct.unpack_from(">H", data, names + name_offset)
        name = data[names + name_offset + 6 :][: 2 * length].decode("utf-16-be") if index else ""
        path = f"{prefix}/{name}" if prefix else name
        if flags & 2:  # a folder
            count, first = struct.unpack_from(">II", data, at + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
        else:
            (start,) = struct.unpack_from(">I", data, at + 10)
            (size,) = struct.unpack_from(">I", data, contents + start)
            blob = data[contents + start + 4 :][:size]
            yield path, zlib.decompress(blob[4:]) if flags & 1 else blob

    yield from walk(0, "")


def load_photo(path: Path, longest: int = 960) -> Image:
    """A photograph as (H, W, 3) uint8 RGB, shrunk so that its longer side is `longest` pixels.

    Shrinking hides the compression of the originals, which a network would learn to keep.

    Raises:
        SourceError: not a readable picture.
    """
    image = read_picture(path)
    scale = longest / max(image.shape[:2])
    if scale < 1:
        cv2 = need("cv2")
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return image


def load_split(split: str, longest: int = 960) -> list[Image]:
    """All photographs of a split, fetched if need be."""
    folder = fetch_photos()
    return [load_photo(folder / photo.path, longest) for photo in photo_list(split)]


if __name__ == "__main__":
    print(fetch_photos())
