"""The calibration set: which crops of which pictures, chosen so that they cover what will be seen.

Sources are a folder of pictures (or of pairs, `input/` beside `target/`), a video or a camera's
recording, or 'photos': the photographs of the split 'calibrate' with rendered rain. Each source
picture serves either to calibrate or to verify, never both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sdps.calibration.drift import Pair
from sdps.calibration.held_out import perceptual_hash, refuse_overlap
from sdps.core.console import need
from sdps.core.errors import SdpsError, UsageError
from sdps.core.frame import Image

PHOTOS = "photos"
CROPS, VERIFY_CROPS, LEAST = 128, 32, 8
CROP = 256
PER_PICTURE = 8
"""Candidate crops of each picture."""
LOOKS = ("heavy", "medium", "light", "drizzle")
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg"}
PAIRED = (("input", "target"), ("rainy", "gt"), ("rain", "norain"))
MOST_FRAMES = 96
FLAT = 1.0
"""A crop whose values deviate less than this many levels says nothing about ranges."""


@dataclass(frozen=True)
class Picture:
    """A whole source picture. `clean` is its ground truth or None; `group` is averaged together."""

    name: str
    rainy: Image
    clean: Image | None
    group: str
    sha256: str


@dataclass(frozen=True)
class Crop:
    """A piece of a picture, at (top, left)."""

    picture: Picture
    top: int
    left: int
    side: int

    def _cut(self, image: Image) -> Image:
        return np.ascontiguousarray(image[self.top : self.top + self.side, self.left : self.left + self.side])

    @property
    def image(self) -> Image:
        """(side, side, 3) uint8 RGB."""
        return self._cut(self.picture.rainy)

    @property
    def pair(self) -> Pair:
        """With its ground truth."""
        clean = self.picture.clean
        return Pair(self.image, None if clean is None else self._cut(clean), self.picture.group)

    def to_json(self) -> dict[str, Any]:
        """What names this crop for good."""
        pixels = hashlib.sha256(self.image.tobytes()).hexdigest()
        return {
            "source": self.picture.name,
            "source_sha256": self.picture.sha256,
            "group": self.picture.group,
            "box": [self.top, self.left, self.side, self.side],
            "sha256": pixels,
        }


@dataclass(frozen=True)
class CalibrationSet:
    """Crops to calibrate and to verify on, and what was left out."""

    calibrate: Sequence[Crop]
    verify: Sequence[Crop]
    origin: str
    notes: Sequence[str]

    @property
    def sha256(self) -> str:
        """One hash of all crops' pixels and their use."""
        digest = hashlib.sha256()
        for use in (self.calibrate, self.verify):
            for crop in use:
                digest.update(crop.image.tobytes())
            digest.update(b"|")
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The set's manifest."""
        return {
            "origin": self.origin,
            "sha256": self.sha256,
            "notes": list(self.notes),
            "calibrate": [crop.to_json() for crop in self.calibrate],
            "verify": [crop.to_json() for crop in self.verify],
        }


def build_set(
    origin: str, crops: int | None = None, side: int = CROP, allow_overlap: bool = False
) -> CalibrationSet:
    """Reads a source and chooses crops.

    Args:
        origin: 'photos', a folder, or a video file.
        crops: How many to calibrate on; None takes 128 or what there is.
        side: Of a crop in pixels, a multiple of 4.
        allow_overlap: Take pictures of the evaluation set as well.

    Raises:
        UsageError: no such source, too few pictures, nothing but flat ones, or an overlap.
    """
    if side % 4 or side < 64:
        raise UsageError(f"Crops of {side} pixels do not fit.", "Give a multiple of 4, at least 64.")
    pictures = list(_pictures(origin))
    usable = [p for p in pictures if min(p.rainy.shape[:2]) >= side]
    notes = []
    if len(usable) < len(pictures):
        notes.append(
            f"{len(pictures) - len(usable)} pictures are smaller than {side} pixels and were left out."
        )
    if not allow_overlap:
        hashes = {p.name: perceptual_hash(p.clean if p.clean is not None else p.rainy) for p in usable}
        refuse_overlap(hashes)
    if len({p.name for p in usable}) < 2:
        raise UsageError(
            f"{origin} has {len(usable)} pictures of at least {side}x{side} pixels; two are the least.",
            "One serves to calibrate, another to verify. Give more, or smaller crops with --calib-size.",
        )
    calibrate, verify = _split(usable)
    chosen, flat = _choose(calibrate, crops or CROPS, side)
    verified, flat_too = _choose(verify, VERIFY_CROPS, side)
    if flat + flat_too:
        notes.append(f"{flat + flat_too} flat crops were left out.")
    if len(chosen) < min(crops or LEAST, LEAST) or not verified:
        raise UsageError(
            f"{origin} gives {len(chosen)} crops that are not flat; {crops or LEAST} are needed.",
            "Give pictures with something on them.",
        )
    if len(chosen) < (crops or CROPS):
        if crops:
            raise UsageError(
                f"{origin} gives {len(chosen)} crops, and {crops} are asked for.",
                "Ask for fewer with --calib-crops, or give more pictures.",
            )
        notes.append(f"{len(chosen)} crops were to be had instead of {CROPS}.")
    return CalibrationSet(chosen, verified, origin, notes)


def _pictures(origin: str) -> Iterator[Picture]:
    if origin == PHOTOS:
        return _rained_photos()
    path = Path(origin)
    if path.is_dir():
        for rainy, clean in PAIRED:
            if (path / rainy).is_dir() and (path / clean).is_dir():
                return _folder(path / rainy, path / clean)
        return _folder(path, None)
    if path.is_file() and path.suffix.lower() in VIDEOS:
        return _video(path)
    raise UsageError(
        f"There is no calibration source {origin}.",
        "Give a folder of pictures, a video, or 'photos' for photographs with rendered rain.",
    )


def _folder(folder: Path, truth: Path | None) -> Iterator[Picture]:
    cv2 = need("cv2")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in PICTURES:
            continue
        data = path.read_bytes()
        rainy = _decode(cv2, data, path)
        clean = None
        if truth is not None:
            match = next(
                (
                    truth / f"{path.stem}{suffix}"
                    for suffix in sorted(PICTURES)
                    if (truth / f"{path.stem}{suffix}").is_file()
                ),
                None,
            )
            if match is None:
                raise UsageError(f"{truth} has no ground truth for {path.name}.", "Pairs have equal names.")
            clean = _decode(cv2, match.read_bytes(), match)
            if clean.shape != rainy.shape:
                raise UsageError(
                    f"{path.name} and its ground truth differ in size.", "Pairs have equal sizes."
                )
        yield Picture(
            path.name, rainy, clean, "pairs" if truth else "pictures", hashlib.sha256(data).hexdigest()
        )


def _decode(cv2: Any, data: bytes, path: Path) -> Image:
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise UsageError(f"{path} is not a readable picture.", "Take it out of the folder.")
    return np.ascontiguousarray(bgr[:, :, ::-1])


def _video(path: Path) -> Iterator[Picture]:
    """Frames spread over all of it: when they get too many, every other one goes."""
    av = need("av")
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    kept: list[tuple[int, Image]] = []
    every = 1
    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index % every == 0:
                    kept.append((index, frame.to_ndarray(format="rgb24")))
                if len(kept) > MOST_FRAMES:
                    kept, every = kept[::2], every * 2
    except av.FFmpegError as error:
        raise SdpsError(f"{path} cannot be read as a video: {error.strerror}.") from error
    for index, image in kept:
        yield Picture(f"{path.name}#{index}", image, None, "video", sha)


def _rained_photos() -> Iterator[Picture]:
    from sdps.training.evaluate import rainy_pairs
    from sdps.training.photos import load_split, photo_list

    photos = load_split("calibrate")
    names = [photo.path for photo in photo_list("calibrate")]
    for look in LOOKS:
        for name, (rainy, clean) in zip(names, rainy_pairs(photos, look), strict=True):
            yield Picture(name, rainy, clean, look, hashlib.sha256(clean.tobytes()).hexdigest())


def _split(pictures: Sequence[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Every third source verifies; of a video the last third, as neighbouring frames are alike."""
    names = list(dict.fromkeys(p.name for p in pictures))
    of_video = pictures[0].group == "video"
    held = set(names[-max(1, len(names) // 3) :] if of_video else names[1::3])
    return [p for p in pictures if p.name not in held], [p for p in pictures if p.name in held]


def _choose(pictures: Sequence[Picture], count: int, side: int) -> tuple[list[Crop], int]:
    """`count` crops by greedy k-centre over `features`; and how many flat ones were passed over."""
    candidates: list[Crop] = []
    flat = 0
    for index, picture in enumerate(pictures):
        rng = np.random.default_rng((20, index))
        height, width = picture.rainy.shape[:2]
        places = {
            (int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)))
            for _ in range(PER_PICTURE)
        }
        for top, left in sorted(places):
            crop = Crop(picture, top, left, side)
            if crop.image.std() < FLAT:
                flat += 1
            else:
                candidates.append(crop)
    if not candidates:
        return [], flat
    return [candidates[i] for i in k_centres(np.stack([features(c.image) for c in candidates]), count)], flat


def features(image: Image) -> npt.NDArray[np.float64]:
    """What distinguishes crops for calibration, cheaply: brightness, colour, detail, rain.

    Five quantiles of luma, the channels' means, the energy of fine detail, and the energy of
    structures that run down the picture (streaks of rain) over that of those that run across.
    """
    luma = image.astype(np.float64) @ (0.299, 0.587, 0.114)
    down, across = np.abs(np.diff(luma, axis=0)).mean(), np.abs(np.diff(luma, axis=1)).mean()
    fine = np.abs(
        luma[1:-1, 1:-1] * 4 - luma[:-2, 1:-1] - luma[2:, 1:-1] - luma[1:-1, :-2] - luma[1:-1, 2:]
    ).mean()
    return np.array(
        [
            *np.quantile(luma, (0.02, 0.25, 0.5, 0.75, 0.98)) / 64,
            *image.mean((0, 1)) / 64,
            np.log2(1 + fine),
            np.log2((across + 0.1) / (down + 0.1)),
        ]
    )


def k_centres(points: npt.NDArray[np.float64], count: int) -> list[int]:
    """Indices of `count` points, each the farthest from those before (Gonzalez 1985); the first is
    the one nearest to the mean. With no more points than `count`, all of them."""
    if len(points) <= count:
        return list(range(len(points)))
    scaled = (points - points.mean(0)) / (points.std(0) + 1e-9)
    chosen = [int(np.argmin((scaled**2).sum(1)))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, ((scaled - scaled[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(np.argmax(nearest)))
    return chosen
