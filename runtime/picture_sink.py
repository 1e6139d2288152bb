"""Pictures through OpenCV: one file, or a folder of them."""

from __future__ import annotations

from pathlib import Path

from sdps.core.artifact import write_bytes
from sdps.core.console import need
from sdps.core.errors import SinkError, UsageError
from sdps.core.frame import Frame, Image
from sdps.runtime.compare import compose, sweep
from sdps.runtime.stream import StreamInfo

WRITABLE = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class PictureSink:
    """Writes each frame as a picture: to one path, or into a folder under the input's names.

    JPEG and WebP are written at quality 95. Video frames are named frame_000001.png and so on.

    Raises:
        UsageError: one path for several frames, or a suffix that cannot be written.
    """

    def __init__(self, path: Path, info: StreamInfo, compare: str = "off") -> None:
        self.single = path.suffix.lower() in WRITABLE and not path.is_dir()
        if self.single and info.frames != 1:
            raise UsageError(
                f"{path} is one picture, the input is several.", "Give a folder, or a video file."
            )
        self.path, self.info, self.compare = path, info, compare
        self.place = str(path)
        self.written: list[Path] = []

    def write(self, rainy: Frame, clean: Frame) -> bool:
        position = sweep(clean.time) if self.info.kind == "video" else 0.5
        image = compose(self.compare, rainy.image, clean.image, position)
        target = self.path if self.single else self.path / self._name(clean)
        write_bytes(target, encode_picture(image, target.suffix))
        self.written.append(target)
        return True

    def _name(self, frame: Frame) -> str:
        if not frame.name:
            return f"frame_{frame.index + 1:06d}.png"
        name = Path(frame.name)
        return name.name if name.suffix.lower() in WRITABLE else f"{name.stem}.png"

    def close(self, complete: bool = True) -> None:
        """Nothing is left to do: each picture was finished when it was written."""

    def discard(self) -> None:
        """Pictures that are finished stay: they are good, and the failure is another frame's."""


def encode_picture(image: Image, suffix: str) -> bytes:
    """(H, W, 3) uint8 RGB as the bytes of a picture file.

    Raises:
        SinkError: the format cannot hold it.
    """
    cv2 = need("cv2")
    options = []
    if suffix.lower() in (".jpg", ".jpeg"):
        options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    elif suffix.lower() == ".webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, 95]
    try:
        done, data = cv2.imencode(suffix, image[:, :, ::-1], options)
    except cv2.error as error:
        raise SinkError(
            f"A {suffix} file cannot hold this picture: {error.err}.", "Write .png instead."
        ) from None
    if not done:
        raise SinkError(f"A {suffix} file cannot hold this picture.", "Write .png instead.")
    return bytes(data)
