"""Words on pictures, in Pillow's own font, which needs no font file on the machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np

from sdps.core.frame import Image

if TYPE_CHECKING:
    from PIL import ImageFont


@dataclass(frozen=True)
class Text:
    """A line of text, drawn.

    Attributes:
        mask: (H, W) uint8, how much of each pixel is letter. Its height is that of the highest and the
            lowest letter together, so lines of one size have one height.
    """

    mask: np.ndarray

    @property
    def height(self) -> int:
        return int(self.mask.shape[0])

    @property
    def width(self) -> int:
        return int(self.mask.shape[1])

    def draw(self, image: Image, top: int, left: int) -> None:
        """Writes it in white into (H, W, 3) uint8 RGB; what does not fit is cut off."""
        place = image[max(0, top) : top + self.height, left : left + self.width]
        mask = self.mask[max(0, -top) :][: place.shape[0], : place.shape[1], None].astype(np.uint16)
        place[:] = (place * (255 - mask) + 255 * mask + 127) // 255


@lru_cache(maxsize=16)
def render(text: str, pixels: int) -> Text:
    """Draws a line; `pixels` is the height of its capital letters."""
    from PIL import Image as Pictures
    from PIL import ImageDraw

    font = _font(pixels)
    stroke = pixels // 24  # the font is a thin one for letters on moving pictures
    _, top, _, bottom = font.getbbox("Ag|", anchor="ls", stroke_width=stroke)
    size = (round(font.getlength(text)) + 2 * stroke, round(bottom - top))
    canvas = Pictures.new("L", size)
    draw = ImageDraw.Draw(canvas)
    draw.text((stroke, -top), text, fill=255, font=font, anchor="ls", stroke_width=stroke)
    return Text(np.array(canvas))


@lru_cache(maxsize=16)
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    # A font's size is that of its line, of which capital letters are seven tenths.
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(max(6, round(pixels / 0.7))))
