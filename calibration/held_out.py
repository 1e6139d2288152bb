"""Perceptual hashes of the evaluation photographs, so that none of them serves to calibrate.

64-bit DCT hashes (`imagehash.phash`) of the split 'evaluate' of training/photos.csv, whole pictures
at 960 pixels; a test holds them to the photographs. They survive scaling, compression and rain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sdps.core.console import need
from sdps.core.errors import UsageError
from sdps.core.frame import Image

NEAR = 10
"""Bits, of 64, in which two hashes of one picture may differ; those of others differ in about 32."""

EVALUATION_HASHES: tuple[str, ...] = (
    "f9b186c675c88a3c",
    "a6e4d626631b915e",
    "846a311ec9e7b27c",
    "ed99d2243be8c23c",
    "edd4924b912a631f",
    "f886c33dcd30da23",
    "94b70269fc42b9f2",
    "cc3c81f2073ef163",
    "d5956d148752d4cb",
    "9fac10c3171fda19",
    "84599836db64e739",
    "b4aed6b639244e91",
    "824eed39d32453b3",
    "9c4cbee0c71ea0e3",
    "e2b0de0bc5e536c4",
)


def perceptual_hash(image: Image) -> str:
    """64 bits as 16 hexadecimal digits."""
    pil, imagehash = need("PIL.Image", "int8"), need("imagehash", "int8")
    return str(imagehash.phash(pil.fromarray(image)))


def refuse_overlap(pictures: Mapping[str, str], held_out: Iterable[str] = EVALUATION_HASHES) -> None:
    """Refuses a calibration set that shares pictures with what is evaluated on.

    Args:
        pictures: Name to hash of every whole picture of the set.
        held_out: Hashes of the evaluation pictures.

    Raises:
        UsageError: one is the same picture; it is named.
    """
    forbidden = [int(digits, 16) for digits in held_out]
    shared = [
        name
        for name, digits in pictures.items()
        if any((int(digits, 16) ^ other).bit_count() <= NEAR for other in forbidden)
    ]
    if shared:
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise UsageError(
            f"The calibration set shares pictures with the evaluation set: {', '.join(shared[:3])}{more}.",
            "Figures measured there would flatter: take other pictures, or say --allow-overlap.",
        )
