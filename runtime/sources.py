"""URI in, frames out: files, folders, streams and cameras."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from sdps.core.errors import SourceError, UsageError
from sdps.core.samples import CLIP, sample
from sdps.runtime.stream import Source

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
STREAMS = ("rtsp://", "rtsps://", "http://", "https://")


def open_source(uri: str) -> Source:
    """Opens what a URI names.

    Args:
        uri: A picture, a video file, a folder or a quoted glob of pictures, an rtsp(s):// or
            http(s):// stream, '/dev/videoN', or 'demo' for the bundled clip.

    Raises:
        UsageError: nothing is there, or the scheme is not one of these. FFmpeg would take others
            ('concat:', 'subfile,', 'file:'), with which a list of inputs could read any file.
        SourceError: it is there and cannot be read.
    """
    from sdps.runtime.camera_source import CameraSource
    from sdps.runtime.picture_source import PictureSource
    from sdps.runtime.video_source import VideoSource

    if uri == "demo":
        return VideoSource(str(sample(CLIP)))
    if uri.startswith(STREAMS):
        return VideoSource(uri, live=uri.startswith("rtsp"))
    if match := re.fullmatch(r"/dev/video(\d+)", uri):
        return CameraSource(int(match[1]))
    if re.match(r"[a-z][a-z0-9+.-]+[:,]", uri) and not Path(uri).exists():
        raise UsageError(
            f"{redacted(uri)!r} is not an input that sdps opens.", f"Use a path, or {', '.join(STREAMS)}"
        )
    path = Path(uri)
    if path.is_dir():
        files = sorted(
            (p for p in path.iterdir() if p.suffix.lower() in PICTURES and p.is_file()), key=natural
        )
        if not files:
            raise SourceError(
                f"There are no pictures in {path}.", f"It looks for {', '.join(sorted(PICTURES))}."
            )
        return PictureSource(files)
    if path.is_file():
        return PictureSource([path]) if path.suffix.lower() in PICTURES else VideoSource(str(path.resolve()))
    if any(c in uri for c in "*?["):
        files = sorted((Path(p) for p in glob.glob(uri) if Path(p).suffix.lower() in PICTURES), key=natural)
        if files:
            return PictureSource(files)
        raise UsageError(f"No picture matches {uri!r}.", "Quote the pattern, and check the folder.")
    raise UsageError(f"There is no file or folder {uri!r}.", "Check the path given to --input.")


def open_camera(index: int) -> Source:
    """Opens a camera by its number.

    Raises:
        SourceError: it is not there, or not this user's to open.
    """
    from sdps.runtime.camera_source import CameraSource

    return CameraSource(index)


def natural(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts frame10 after frame9."""
    return [
        (int(part), "") if part.isdecimal() else (0, part.lower()) for part in re.split(r"(\d+)", path.name)
    ]


def redacted(uri: str) -> str:
    """A URI without its password, for messages and logs."""
    return re.sub(r"(://[^:/@]+):[^@/]+@", r"\1:***@", uri)
