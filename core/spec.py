"""Sizes: what a graph or an engine accepts, and SD-PSFNet's stride (manifests name other networks' own)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sdps.core.errors import UsageError

STRIDE = 4
"""SD-PSFNet halves its input twice, so height and width come in multiples of 4 (docs/network.md). Another
network's stride is itself a multiple of 4 (`GraphManifest.stride`, `model.deploy.Space`)."""


@dataclass(frozen=True, order=True)
class Size:
    """Height and width in pixels."""

    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Reads 'HxW', or one number for a square.

        Raises:
            UsageError: the text is neither, or a side is under 8 or over 16384 pixels.
        """
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:[xX×]\s*(\d{1,5}))?\s*", text)
        if not match:
            raise UsageError(f"Size {text!r} is not HEIGHTxWIDTH.", "Write for example 720x1280.")
        height, width = int(match[1]), int(match[2] or match[1])
        if not (8 <= height <= 16384 and 8 <= width <= 16384):
            raise UsageError(f"Size {text!r} is out of range.", "Each side must be from 8 to 16384 pixels.")
        return cls(height, width)

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @property
    def padded(self) -> Size:
        """The next size that SD-PSFNet's stride divides."""
        return self.padded_to(STRIDE)

    def padded_to(self, stride: int) -> Size:
        """The next size that `stride` divides."""
        return Size(-(-self.height // stride) * stride, -(-self.width // stride) * stride)


@dataclass(frozen=True)
class ShapeRange:
    """Sizes that a graph or engine accepts: from `min` to `max`, tuned for `opt`.

    A fixed-size graph has all three equal and takes any size; a dynamic one takes multiples of 4.
    """

    min: Size
    opt: Size
    max: Size

    def __post_init__(self) -> None:
        for axis in ("height", "width"):
            low, mid, high = (getattr(size, axis) for size in (self.min, self.opt, self.max))
            if not low <= mid <= high:
                raise UsageError(
                    f"Sizes {self.min}, {self.opt}, {self.max} are not in rising order.",
                    "Give minimum, optimum and maximum in this order.",
                )
        if self.is_dynamic:
            for size in (self.min, self.opt, self.max):
                if size != size.padded:
                    raise UsageError(
                        f"Dynamic size {size} is no multiple of {STRIDE}.",
                        f"Use {size.padded}: the runtime pads and crops.",
                    )

    @classmethod
    def fixed(cls, size: Size) -> ShapeRange:
        """A range of one size."""
        return cls(size, size, size)

    def padded_to(self, stride: int) -> ShapeRange:
        """The range with each size brought up to a multiple of `stride`."""
        return ShapeRange(*(size.padded_to(stride) for size in (self.min, self.opt, self.max)))

    @property
    def is_dynamic(self) -> bool:
        """Whether more than one size fits."""
        return self.min != self.max
