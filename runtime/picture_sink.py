"""Pictures through Pillow: one file, or a folder of them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sdps.core.artifact import write_bytes
from sdps.core.errors import SinkError, UsageError
from sdps.core.frame import Frame, Image
from sdps.runtime.compare import compose, sweep
from sdps.runtime.stream import StreamInfo

JPEG = {"format": "JPEG", "quality": 95, "subsampling": "4:2:0"}
TIFF = {"format": "TIFF", "compression": "tiff_lzw", "tiffinfo": {317: 2}}  # with differences of neighbours
WRITABLE: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG", "compress_level": 1},  # half the time of Pillow's 6, a hundredth larger
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".jfif": JPEG,
    ".webp": {"format": "WEBP", "quality": 95},
    ".bmp": {"format": "BMP"},
    ".tif": TIFF,
    ".tiff": TIFF,
}
"""What Pillow is told for each kind of file."""
LONGEST_EXIF = 65_533
"""Bytes that JPEG's segment holds."""


class PictureSink:
    """Writes each frame as a picture: to one path, or into a folder under the input's names.

    JPEG and WebP are written at quality 95. Video frames are named frame_000001.png and so on. A path is
    a folder if it is one, has no suffix of a picture, or is said to be one by `folder`.

    Raises:
        UsageError: one path for several frames, two inputs of one name, or an output that is an
            input.
    """

    def __init__(
        self,
        path: Path,
        info: StreamInfo,
        compare: str = "off",
        folder: bool = False,
        limit: int | None = None,
    ) -> None:
        self.single = path.suffix.lower() in WRITABLE and not path.is_dir() and not folder
        if self.single and info.frames != 1 and limit != 1:
            raise UsageError(
                f"{path} is one picture, the input is several.",
                "Give a folder, a video file, or --limit 1.",
            )
        self.path, self.info, self.compare = path, info, compare
        self.place = str(path)
        refuse_read_only(path.parent if self.single else path)
        if info.kind == "pictures":
            targets = [self._target(source.name, 0) for source in info.inputs]
            for source, target in zip(info.inputs, targets, strict=True):
                refuse_input(target, (source,))
            if len(set(targets)) < len(targets) and not self.single:
                twice = next(target.name for target in targets if targets.count(target) > 1)
                raise UsageError(f"Two pictures would be written as {twice}.", "Give one folder at a time.")

    def write(self, rainy: Frame, clean: Frame) -> bool:
        if clean.stale:
            return True
        position = sweep(clean.time) if self.info.kind == "video" else 0.5
        image = compose(self.compare, rainy.image, clean.image, position)
        target = self._target(clean.name, clean.index)
        write_bytes(target, encode_picture(image, target.suffix, clean.profile, clean.exif))
        return True

    def _target(self, name: str, index: int) -> Path:
        if self.single:
            return self.path
        return self.path / (name or f"frame_{index + 1:06d}.png")

    def idle(self) -> bool:
        return True

    def close(self, complete: bool = True) -> None:
        """Nothing is left to do: each picture was finished when it was written."""

    def discard(self) -> None:
        """Pictures that are finished stay: they are good, and the failure is another frame's."""


def refuse_read_only(folder: Path) -> None:
    """Raises a SinkError before the work if nothing can be written to a folder, or it cannot be made."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if there.is_dir() and not os.access(there, os.W_OK):
        raise SinkError(f"{folder} cannot be written: {there} is read-only.", "Choose another --output.")


def encode_picture(image: Image, suffix: str, profile: bytes = b"", exif: bytes = b"") -> bytes:
    """(H, W, 3) uint8 RGB as the bytes of a picture file, with ICC profile and EXIF where it holds them.

    Raises:
        SinkError: the format cannot hold it.
    """
    from PIL import Image as Pictures

    if suffix.lower() not in WRITABLE:
        raise SinkError(f"{suffix} is no picture that sdps writes.", "Write .png instead.")
    file, kind = io.BytesIO(), WRITABLE[suffix.lower()]
    try:
        # Pillow ignores what a kind does not hold; TIFF takes EXIF for its own tags, which say how it lies.
        if exif and len(exif) <= LONGEST_EXIF and kind["format"] != "TIFF":
            kind = {**kind, "exif": exif}
        Pictures.fromarray(image).save(file, **kind, icc_profile=profile or None)
    except (OSError, ValueError) as error:
        raise SinkError(
            f"A {suffix} file cannot hold this picture: {error}.", "Write .png instead."
        ) from None
    return file.getvalue()


def refuse_input(target: Path, inputs: Iterable[Path]) -> None:
    """Raises a UsageError if `target` is one of the files that are being read."""
    if target.exists() and any(source.exists() and target.samefile(source) for source in inputs):
        raise UsageError(f"{target} is the input itself.", "Choose another --output.")
