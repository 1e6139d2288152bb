"""The photographs that sdps trains and measures on, from a package registry, never committed.

They come from Debian's `gcompris-qt-data`, pinned by version and SHA-256. `photos.csv` lists each
with its licence, author and source, and the split it belongs to; only public-domain, CC0 and
CC-BY pictures are used. Train, calibrate and evaluate share no picture.

`python -m sdps.training.photos` fetches them into the cache and prints where they are.
"""

from __future__ import annotations

import csv
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sdps.core.artifact import sha256_of, write_bytes
from sdps.core.cache import cache_folder
from sdps.core.console import need
from sdps.core.errors import SdpsError, UsageError
from sdps.core.frame import Image
from sdps.core.pictures import read_picture

PACKAGE = "gcompris-qt-data"
VERSION = "3.1-2"
SHA256 = "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f"
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
        SdpsError: not a Debian-like system with the package, or the download is not the pinned one.
    """
    folder = cache_folder() / "photos" / f"{PACKAGE}-{VERSION}"
    wanted = [photo for split in SPLITS for photo in photo_list(split)]
    if all((folder / photo.path).is_file() for photo in wanted):
        return folder
    tools = [tool for tool in ("apt-get", "dpkg-deb") if not shutil.which(tool)]
    if tools:
        raise SdpsError(
            f"{' and '.join(tools)} not found: the photographs come as a Debian package.",
            "Use --photos DIR with photographs of your own.",
        )
    with tempfile.TemporaryDirectory(prefix="sdps-photos-") as scratch:
        command = ["apt-get", "download", f"{PACKAGE}={VERSION}"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        debs = list(Path(scratch).glob("*.deb"))
        if done.returncode or not debs:
            raise SdpsError(
                f"apt-get could not download {PACKAGE} {VERSION}.",
                "Run 'apt-get update' first, or use --photos DIR.",
            )
        if sha256_of(debs[0]) != SHA256:
            raise SdpsError(
                f"The downloaded {debs[0].name} is not the pinned file (SHA-256 differs).", "It was not used."
            )
        subprocess.run(["dpkg-deb", "-x", str(debs[0]), scratch], check=True)
        contents: dict[str, bytes] = {}
        activities = {photo.path.split("/", 1)[0] for photo in wanted}
        for file in sorted(Path(scratch).rglob("*.rcc")):
            if file.stem in activities:
                contents |= {
                    name.split("activities/", 1)[-1]: data for name, data in read_rcc(file.read_bytes())
                }
        for photo in wanted:
            match = next((data for name, data in contents.items() if name.endswith(photo.path)), None)
            if match is None:
                raise SdpsError(f"{photo.path} is not in {PACKAGE} {VERSION}.")
            write_bytes(folder / photo.path, match)
    return folder


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
