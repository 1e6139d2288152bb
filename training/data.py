"""Pairs of rainy and clean patches, each a pure function of (seed, step): resuming is exact."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from sdps.core.console import need
from sdps.core.errors import SourceError, UsageError
from sdps.core.frame import Image
from sdps.training.datasets import Pair, read_pair
from sdps.training.rain import RainField, render, sample_rain
from sdps.training.recording import Scene, recorded

MIX = {"any": 0.19, "dense": 0.12, "heavy": 0.20, "medium": 0.10, "light": 0.16, "drizzle": 0.08, "": 0.15}
"""Share of each rain look in training; '' is a dry picture, which must come out as it went in. With fewer of
those (0.09) and the same dense rain, bare branches 512 pixels wide went for rain."""
SHRUNK, FINEST = 0.65, 5.0
"""Share of the patches that are cut larger and shrunk, and by how much at most."""
TINTED, TINT = 0.35, 2.0
"""Share of the patches whose colours are stronger or paler, and by what factor at most."""
SWAPPED = 0.08
"""Share of the patches whose colour channels change places."""
PANNED, PAN = 0.5, 2.0
"""Share of the videos whose camera moves, and the standard deviation of its way in pixels a frame."""


PATCHES_VERSION = 8
"""Counts the changes to what is cut and how it rains: a run goes on with the patches it began with."""


class Patches:
    """Batches of patches of one size; `pair(index)` of a subclass makes one of them.

    Args:
        patch: Side of a patch in pixels.
        batch: Patches per step.
        seed: Decides everything.
    """

    def __init__(self, patch: int, batch: int, seed: int) -> None:
        self.patch, self.batch, self.seed = patch, batch, seed

    def step(self, index: int, share: tuple[int, int] = (0, 1)) -> tuple[Tensor, Tensor]:
        """The batch of one step: rainy and clean, float32 [B,3,patch,patch] in 0..1.

        `share` (rank, processes) takes that process' part of it.
        """
        rank, processes = share
        pairs = [self.pair(index * self.batch + i) for i in range(rank, self.batch, processes)]
        rainy, clean = zip(*pairs, strict=True)
        return torch.stack(rainy), torch.stack(clean)

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """One rainy patch and its clean original, float32 [3,patch,patch]."""
        raise NotImplementedError


class RainyPatches(Patches):
    """Random patches of photographs with rain rendered on them.

    Args:
        photos: (H, W, 3) uint8 RGB pictures.
        patch, batch, seed: See `Patches`.
        varied: Whether patches come in other colours, too, and as cameras record them (recording.py);
            otherwise as they were photographed and rendered.

    Raises:
        UsageError: no picture is as large as a patch.
    """

    def __init__(
        self, photos: Sequence[Image], patch: int, batch: int, seed: int = 0, varied: bool = True
    ) -> None:
        super().__init__(patch, batch, seed)
        self.varied = varied
        self.photos = [photo for photo in photos if min(photo.shape[:2]) >= patch]
        if not self.photos:
            raise UsageError(
                f"None of the {len(photos)} pictures is {patch} pixels wide and high.",
                "Use larger pictures or --patch.",
            )
        areas = np.array([photo.size for photo in self.photos], dtype=float) ** 0.5
        self.chances = areas / areas.sum()

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        cut = self._cut(rng)
        look = str(rng.choice(list(MIX), p=list(MIX.values())))
        pan = rng.normal(0, PAN, 2) * (rng.random() < PANNED)

        def dry(frame: int) -> Image:
            return _moved(cut, *(pan * frame)) if frame else cut

        wet = self._rained(rng, dry, look, pan) if look else dry
        rainy, clean = recorded(rng, wet, dry) if self.varied else (wet(0), dry(0))
        return _tensor(rainy), _tensor(clean)

    def _rained(self, rng: np.random.Generator, dry: Scene, look: str, pan: np.ndarray) -> Scene:
        field = RainField(sample_rain(rng, look), self.patch, self.patch, seed=int(rng.integers(2**31)))

        def wet(frame: int) -> Image:
            # The camera's movement carries drops along half as far as the scene behind them.
            down, right = pan * frame / 2
            rainy = render(_tensor(dry(frame)), field, frame, (down, right))
            # What a network sees later is 8-bit.
            return (rainy * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()

        return wet

    def _cut(self, rng: np.random.Generator) -> Image:
        photo = self.photos[int(rng.choice(len(self.photos), p=self.chances))]
        height, width = photo.shape[:2]
        # Most of them of up to five patches, shrunk: pictures at other scales, and finer detail (fur and
        # grass of small pictures), which a network that never saw it takes for drizzle.
        shrink = FINEST ** rng.random() if rng.random() < SHRUNK else 1.0
        side = int(min(self.patch * shrink, height, width))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        cut = photo[top : top + side, left : left + side]
        if side != self.patch:
            cv2 = need("cv2")
            cut = cv2.resize(cut, (self.patch, self.patch), interpolation=cv2.INTER_AREA)
        # Flips and quarter turns of the scene; the rain still falls down.
        cut = np.rot90(cut, int(rng.integers(4)))
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        if rng.random() < 0.3:  # exposure: scenes at dusk and at noon
            table = 255 * (np.arange(256) / 255) ** rng.uniform(0.6, 1.7)
            cut = table.round().astype(np.uint8)[cut]
        return np.ascontiguousarray(_coloured(rng, cut) if self.varied else cut)


class PairPatches(Patches):
    """Random patches of rainy pictures and their clean originals, flipped and turned eight ways.

    Each epoch takes one patch of every picture, in another order. A picture that turns out to be
    damaged is passed over for the next one, always the same, and named on standard error.

    Args:
        pairs: Files, each at least as large as a patch.
        patch, batch, seed: See `Patches`.
        named: Marks which of the pairs have been named, uint8 [pairs].

    Raises:
        UsageError: no pairs.
    """

    def __init__(
        self, pairs: Sequence[Pair], patch: int, batch: int, seed: int = 0, named: Tensor | None = None
    ) -> None:
        super().__init__(patch, batch, seed)
        self.named = torch.zeros(len(pairs), dtype=torch.uint8) if named is None else named
        if not pairs:
            raise UsageError(f"No pair of pictures is {patch} pixels wide and high.", "Use --patch.")
        self.pairs = list(pairs)

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(index, len(self.pairs))
        order = np.random.default_rng((self.seed, epoch, 1)).permutation(len(self.pairs))
        rainy, clean = self._read(int(order[place]))
        rng = np.random.default_rng((self.seed, index))
        height, width = rainy.shape[:2]
        top, left = (int(rng.integers(side - self.patch + 1)) for side in (height, width))
        turns, flip = int(rng.integers(4)), rng.random() < 0.5

        def cut(image: Image) -> Tensor:
            part = np.rot90(image[top : top + self.patch, left : left + self.patch], turns)
            return _tensor(part[:, ::-1] if flip else part)

        return cut(rainy), cut(clean)

    def _read(self, at: int) -> tuple[Image, Image]:
        for tried in range(len(self.pairs)):
            place = (at + tried) % len(self.pairs)
            try:
                return read_pair(self.pairs[place], self.patch)
            except SourceError as error:
                if not self.named[place]:
                    self.named[place] = 1
                    _say(f"skipped {error.message}")
        raise SourceError("None of the training pictures can be read.", "Are they still there?")


def _coloured(rng: np.random.Generator, image: Image) -> Image:
    """The scene in other colours: what a drop adds to each channel depends on that of what is behind it.

    A few dozen photographs have few colours: a network that saw grey feathers and fur takes too much
    green off bright grass and leaves red streaks.
    """
    if rng.random() < TINTED:
        factor = TINT ** rng.uniform(-1, 1)
        grey = image.mean(2, keepdims=True, dtype=np.float32)
        image = np.clip(grey + factor * (image - grey), 0, 255).round().astype(np.uint8)
    if rng.random() < SWAPPED:
        image = image[:, :, rng.permutation(3)]
    return image


def _moved(image: Image, down: float, right: float) -> Image:
    """The picture by parts of a pixel elsewhere; what comes into view is what is beside it, mirrored."""
    cv2 = need("cv2")
    matrix = np.array([[1, 0, right], [0, 1, down]])
    size = image.shape[1], image.shape[0]
    moved: Image = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return moved


def _tensor(image: Image) -> Tensor:
    """(H, W, 3) uint8 as float32 [3,H,W] in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255


def _say(text: str) -> None:
    """A line on standard error, also from the processes that prepare batches."""
    if get_worker_info() is None:
        print(text, file=sys.stderr, flush=True)
    else:  # past sys.stderr, which may be the progress bar's, with a lock that was held at the fork
        with contextlib.suppress(OSError):  # nobody listens
            os.write(2, (text + "\n").encode("utf-8", "backslashreplace"))


class Source(Protocol):
    """Pictures to train on.

    Attributes:
        count: How many there are; an epoch takes one patch of each.
        name: What they are, in a few words.
    """

    count: int
    name: str

    def patches(self, patch: int, batch: int, seed: int) -> Patches: ...

    def fingerprint(self) -> str:
        """Changes when the pictures do: a resumed run must see the same ones."""
        ...


class PhotoSource:
    """Clean photographs, (H, W, 3) uint8 RGB, which it rains on; all of them are held in memory.

    `varied` is that of `RainyPatches`.
    """

    def __init__(self, photos: Sequence[Image], name: str = "photographs", varied: bool = True) -> None:
        self.photos, self.count, self.name, self.varied = list(photos), len(photos), name, varied

    def patches(self, patch: int, batch: int, seed: int) -> Patches:
        return RainyPatches(self.photos, patch, batch, seed, self.varied)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(bytes([PATCHES_VERSION, self.varied]))
        for photo in self.photos:
            digest.update(repr(photo.shape).encode() + photo[::16, ::16].tobytes())
        return digest.hexdigest()


class PairSource:
    """Rainy and clean pictures on disk, read as they are needed."""

    def __init__(self, pairs: Sequence[Pair], name: str = "pairs") -> None:
        self.pairs, self.count, self.name = list(pairs), len(pairs), name
        # Shared by all phases and processes, so that a bad picture is named once and not by each.
        self.named = torch.zeros(max(1, len(self.pairs)), dtype=torch.uint8).share_memory_()

    def patches(self, patch: int, batch: int, seed: int) -> Patches:
        return PairPatches(self.pairs, patch, batch, seed, self.named)

    def fingerprint(self) -> str:
        files = [(pair.rainy, pair.clean) for pair in self.pairs]
        text = "\n".join(f"{a.name} {a.stat().st_size} {b.name} {b.stat().st_size}" for a, b in files)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class Steps(Dataset[Any]):
    """What each step needs, for PyTorch's workers: item (step, phase) is that batch.

    Args:
        phases: Patches of each phase of the recipe.
        share: (rank, processes).
    """

    def __init__(self, phases: Sequence[Patches], share: tuple[int, int]) -> None:
        self.phases, self.share = phases, share

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        step, phase = key
        return self.phases[phase].step(step, self.share)
