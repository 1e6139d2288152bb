"""Picture files as every room reads them: the runtime, calibration, training, evaluation and parity."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pictures
from PIL import ImageFile, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from sdps.core.errors import SourceError
from sdps.core.frame import Image
from sdps.core.free_memory import free_memory

READERS: dict[bytes, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8": JpegImageFile,
    b"RIFF": WebPImageFile,
    b"BM": BmpImageFile,
    b"II": TiffImageFile,
    b"MM": TiffImageFile,
}
"""Pillow's readers by a file's first bytes. Called directly, because Pillow's own choice knows kinds that
nobody meant and refuses 179 megapixels; lifting that would lift it for the whole program."""
MAX_PIXELS = 2**30
"""More is taken for a damaged header, or an attack."""
DECODING = 8
"""Bytes for each pixel that a decoder may hold at once."""
ROWS = 256
"""Copied at a time, because Pillow makes three copies on the way to NumPy, and pictures can be large."""
ORIENTATION, BITS, SAMPLE_FORMAT = 0x0112, 258, 339  # tags of TIFF and EXIF
EXIF = 0x8769  # the block of EXIF's own tags in it
UNTRUE = 40962, 40963, 37500
"""EXIF's tags that do not hold of a picture that was turned or restored: its width, its height, and the
camera maker's own, which point to where they lay in the file."""


@dataclass(frozen=True)
class Decoded:
    """A picture file.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        deep: Whether its file had 16 bits per channel.
        profile: Its ICC profile, if that is of RGB colours; else empty.
        exif: What else its EXIF says (camera, moment, place), as a block of an upright picture without a
            thumbnail; empty where it says nothing.
    """

    image: Image
    deep: bool
    profile: bytes
    exif: bytes


def no_room_for(path: Path) -> SourceError:
    """What to raise where decoding a file ends in a MemoryError."""
    return SourceError(f"There is not enough memory to read {path}.", "Free some, or shrink it.")


def read_picture(path: Path, smallest: int = 1) -> Image:
    """A picture file as (H, W, 3) uint8 RGB; see `decode_picture`.

    Raises:
        SourceError: it cannot be read, memory does not hold it, or a side is under `smallest` pixels.
    """
    try:
        image = decode_picture(path.read_bytes())
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}).", "Give a picture file.") from None
    except MemoryError:
        raise no_room_for(path) from None
    if image is None:
        raise SourceError(f"{path} is not a readable picture.", "Give JPEG, PNG, WebP or TIFF.")
    if min(image.shape[:2]) < smallest:
        raise SourceError(
            f"{path} has only {image.shape[0]}x{image.shape[1]} pixels.", f"Each side needs {smallest}."
        )
    return image


def decode_picture(data: bytes) -> Image | None:
    """An encoded picture as (H, W, 3) uint8 RGB, turned as its EXIF says; None if it is none.

    Grey becomes RGB; 16 bits are rounded to 8; transparency is dropped. Pictures of floats are
    refused, because nothing says what their white is.

    Raises:
        MemoryError: it is too large for the memory that is left.
    """
    decoded = decode(data)
    return None if decoded is None else decoded.image


def decode(data: bytes) -> Decoded | None:
    """`decode_picture`, and what else a reader may want to know of the file."""
    reader = next((READERS[magic] for magic in READERS if data.startswith(magic)), None)
    if reader is None:
        return None
    pixels = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which are not used
            picture = reader(io.BytesIO(data))
            pixels = picture.width * picture.height
            if pixels > MAX_PIXELS:
                return None
            if _is_deep(picture, data):
                return Decoded(_decode_deep(picture, data), True, _profile(picture), _exif(picture))
            if picture.mode[0] in "FI":
                return None
            picture.load()
            return Decoded(_upright(picture, picture), False, _profile(picture), _exif(picture))
    except MemoryError:
        raise
    except Exception:  # a damaged file raises any of a dozen classes
        # Decoders that find no memory say that the file is broken (WebP, progressive JPEG).
        if MAX_PIXELS >= pixels > free_memory() // DECODING:
            raise MemoryError from None
        return None


def pages(data: bytes) -> int:
    """How many pictures a file holds: of an animation, or pages; `decode` takes the first. 0 if not known."""
    reader = next((READERS[magic] for magic in READERS if data.startswith(magic)), None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(getattr(reader(io.BytesIO(data)), "n_frames", 1)) if reader else 0
    except Exception:  # damaged, or too large for the memory; then that is no matter here
        return 0


def _profile(picture: Pictures.Image) -> bytes:
    """The ICC profile, if it is of RGB colours (bytes 16 to 19 of its header): grey and CMYK become RGB."""
    profile = picture.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile[16:20] == b"RGB " else b""


def _exif(picture: Pictures.Image) -> bytes:
    """The EXIF block of a picture that lies upright by now; TIFF's own tags are none."""
    if "exif" not in picture.info:
        return b""
    with _forgiving():  # damaged: it is left out
        said = picture.getexif()
        said.pop(ORIENTATION, None)
        for tag in UNTRUE:
            said.get_ifd(EXIF).pop(tag, None)
        return said.tobytes() if len(said) else b""
    return b""


@contextlib.contextmanager
def _forgiving() -> Iterator[None]:
    """Passes over whatever damaged metadata raise, but not that memory is out."""
    try:
        yield
    except MemoryError:
        raise
    except Exception:
        return


def _is_deep(picture: Pictures.Image, data: bytes) -> bool:
    if isinstance(picture, TiffImageFile):
        whole_numbers = set(picture.tag_v2.get(SAMPLE_FORMAT, (1,))) == {1}
        return whole_numbers and set(picture.tag_v2.get(BITS, (1,))) == {16}
    return isinstance(picture, PngImageFile) and data[24] == 16  # in its header, which comes first


def _decode_deep(picture: Pictures.Image, data: bytes) -> Image:
    """Through PyAV, because Pillow holds no colours of 16 bits."""
    import av

    with av.open(io.BytesIO(data), format=f"{str(picture.format).lower()}_pipe") as container:
        deep = next(container.decode(video=0)).to_ndarray(format="rgb48le")
    rgb = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return _upright(Pictures.fromarray(rgb), picture)


def _upright(pixels: Pictures.Image, held: Pictures.Image) -> Image:
    """As RGB, turned as the EXIF of `held` says."""
    with _forgiving():  # damaged EXIF: as it lies in the file
        if pixels is not held:
            pixels.getexif()[ORIENTATION] = held.getexif().get(ORIENTATION, 1)
        ImageOps.exif_transpose(pixels, in_place=True)
    width, height = pixels.size
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, ROWS):
        rows = pixels.crop((0, top, width, min(top + ROWS, height)))
        rgb[top : top + ROWS] = np.asarray(rows if rows.mode == "RGB" else rows.convert("RGB"))
    return rgb
