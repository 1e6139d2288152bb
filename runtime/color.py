"""YUV to RGB and back with the matrix and range that the file says, so that no colour shifts."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from sdps.core.frame import Image

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter

# FFmpeg's AVColorSpace and AVColorRange. PyAV takes matrices as numbers; it names BT.2020 from 18 on only.
BT709, UNSPECIFIED, BT601_PAL, BT601_NTSC, BT2020 = 1, 2, 5, 6, 9
LIMITED, FULL = 1, 2


@dataclass(frozen=True)
class ColorSpec:
    """A matrix (AVColorSpace), a range (AVColorRange), and what a film says besides: AVColorPrimaries and
    AVColorTransferCharacteristic, by which a player knows HDR."""

    matrix: int = BT709
    range: int = LIMITED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    @classmethod
    def of(cls, frame: av.VideoFrame, primaries: int = UNSPECIFIED, transfer: int = UNSPECIFIED) -> ColorSpec:
        """What a decoded frame is tagged with, or what players assume: BT.709 from 720 lines up."""
        matrix = int(frame.colorspace)
        if matrix not in (BT709, BT601_PAL, BT601_NTSC, BT2020):
            matrix = BT709 if frame.height >= 720 else BT601_NTSC
        full = int(frame.color_range) == FULL or frame.format.name.startswith("yuvj")
        return cls(matrix, FULL if full else LIMITED, primaries, transfer)

    @property
    def swscale_matrix(self) -> int:
        """The scaler's name of the matrix (it knows one for both BT.601 tags)."""
        return BT601_PAL if self.matrix == BT601_NTSC else self.matrix


# Flags of libswscale, which PyAV takes as whole numbers; it names all of them from release 18 on, which needs
# Python 3.11.
BICUBIC, FULL_CHROMA_OUT, FULL_CHROMA_IN, ACCURATE = 1 << 2, 1 << 13, 1 << 14, 1 << 18
_OF_THREAD = threading.local()


def _reformatter() -> VideoReformatter:
    """This thread's own. It keeps its tables while sizes and formats stay: a quarter less time at 720p."""
    if not hasattr(_OF_THREAD, "reformatter"):
        from av.video.reformatter import VideoReformatter

        _OF_THREAD.reformatter = VideoReformatter()
    return cast("VideoReformatter", _OF_THREAD.reformatter)


def to_rgb(frame: av.VideoFrame, spec: ColorSpec) -> Image:
    """A decoded frame of any format as (H, W, 3) uint8 RGB. Deeper ones are rounded to 8 bits."""
    from av.video.reformatter import ColorRange

    if frame.format.name in ("rgb24", "gray"):
        return cast("Image", frame.to_ndarray(format="rgb24"))
    rgb = _reformatter().reformat(
        frame,
        format="rgb24",
        src_colorspace=spec.swscale_matrix,
        src_color_range=ColorRange(spec.range),
        dst_color_range=ColorRange.JPEG,
        interpolation=BICUBIC | ACCURATE | FULL_CHROMA_OUT,
    )
    return cast("Image", rgb.to_ndarray())


def to_yuv(image: Image, pixel_format: str, spec: ColorSpec) -> av.VideoFrame:
    """(H, W, 3) uint8 RGB as a frame in a YUV format."""
    import av
    from av.video.reformatter import ColorRange

    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    frame.colorspace = spec.matrix  # which PyAV 16 and 17 take for BT.2020 instead of what they are told
    return _reformatter().reformat(
        frame,
        format=pixel_format,
        dst_colorspace=spec.swscale_matrix,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange(spec.range),
        interpolation=BICUBIC | ACCURATE | FULL_CHROMA_IN,
    )
