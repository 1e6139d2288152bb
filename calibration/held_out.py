"""Perceptual hashes of the evaluation photographs, so that none of them serves to calibrate.

64-bit DCT hashes (`imagehash.phash`) of the split 'evaluate' of training/photos.csv, whole pictures
at 960 pixels; a test holds them to the photographs. They survive scaling, compression and most rain: in heavy
rain about one picture in fifty differs in more bits than are allowed for, so clean ones tell more surely.
Turned and mirrored pictures are compared too; what is cut out of one is another picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sdps.calibration.entry import PICTURES
from sdps.calibration.observe import Step
from sdps.core.console import need
from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.words import listed

HELD_OUT = "Reading what you evaluate on"
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


def oriented_hashes(image: Image) -> tuple[str, ...]:
    """The same of the picture as it is, and of its quarter turns and their mirror images: eight."""
    pil = need("PIL.Image", "int8")
    # What phash itself shrinks a picture to, once for all of them.
    small = np.asarray(pil.fromarray(image).convert("L").resize((32, 32), pil.Resampling.LANCZOS))
    turned = [np.rot90(small, quarter) for quarter in range(4)]
    return tuple(
        perceptual_hash(np.ascontiguousarray(one)) for one in (*turned, *(t[:, ::-1] for t in turned))
    )


def hashes_below(folder: Path, step: Step = lambda *_: None) -> tuple[list[str], list[str]]:
    """The hash of every picture in a folder and those below it, and the names of what cannot be read.

    Args:
        folder: Where they lie.
        step: Told how far it is.

    Raises:
        UsageError: there is no such folder, or no readable picture in it.
    """
    cv2 = need("cv2", "int8")
    hashes, unread = [], []
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    for done, path in enumerate(files, 1):
        try:
            # A hash is of 32x32 pixels: read at half the size, which JPEG does fast.
            bgr = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_REDUCED_COLOR_2)
        except (OSError, cv2.error):
            bgr = None
        if bgr is None:
            unread.append(path.name)
        elif np.ptp(bgr, axis=(0, 1)).any():  # a flat picture's hash would be that of every other
            hashes.append(perceptual_hash(np.ascontiguousarray(bgr[:, :, ::-1])))
        step(HELD_OUT, done, len(files))
    if not hashes:
        why = f"Of the {len(files)} pictures in {folder} none can be compared: they are flat or not readable."
        raise UsageError(
            why if files else f"There are no pictures in {folder}.", "Give the folder that you evaluate on."
        )
    return hashes, unread


def refuse_overlap(
    pictures: Mapping[str, Sequence[str]], held_out: Iterable[str] = EVALUATION_HASHES, folder: str = ""
) -> None:
    """Refuses a calibration set that shares pictures with what is evaluated on.

    Args:
        pictures: Name to `oriented_hashes` of every whole picture of the set.
        held_out: Hashes of the evaluation pictures.
        folder: Where they lie; '' for those of sdps.

    Raises:
        UsageError: one is the same picture; it is named.
    """
    forbidden = [int(digits, 16) for digits in held_out]
    shared = [
        name
        for name, hashes in pictures.items()
        if any((int(digits, 16) ^ other).bit_count() <= NEAR for digits in hashes for other in forbidden)
    ]
    if shared:
        raise UsageError(
            f"The calibration set shares pictures with {folder or 'the evaluation set'}: {listed(shared)}.",
            "Figures measured there would flatter: take other pictures"
            + (", or leave --held-out out." if folder else ", or say --allow-overlap."),
        )
