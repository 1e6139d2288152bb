"""URI in, frames out: files, folders, streams and cameras."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sdps.core.errors import SourceError, UsageError
from sdps.core.samples import CLIP, sample
from sdps.runtime.redact import redacted
from sdps.runtime.stream import Source, SourceRefused

if TYPE_CHECKING:
    from sdps.runtime.camera_source import CameraMode

PICTURES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"}
OTHERS = {
    *(".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
    *(".exr", ".hdr", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
}
"""Pictures that are not read."""
STREAMS = ("rtsp://", "rtsps://", "http://", "https://")
LISTS = {".m3u8", ".m3u", ".sdp", ".mpd", ".ffconcat", ".concat", ".pls", ".xspf"}


def open_source(
    uri: str,
    wait: bool = False,
    start: float = 0.0,
    duration: float | None = None,
    every: int = 1,
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    fourcc: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Source:
    """Opens what a URI names. Streams and cameras reconnect by themselves when they are lost.

    Args:
        uri: A picture, a video file, a folder or a quoted glob of pictures, an rtsp(s):// or
            http(s):// stream, 'camera://N' or '/dev/videoN', 'csi://N' (Jetson), '-' for Y4M on
            standard input, or 'demo' for the bundled clip.
        wait: Whether a stream or camera that is absent is waited for.
        start, duration: Seconds: where to begin, and for how long.
        every: Only every so-manyth frame.
        width, height, fps, fourcc: What to ask of a camera, see `CameraMode`.
        say: Told, while it is waited for, why.

    Raises:
        UsageError: nothing is there, or the scheme is not one of these. FFmpeg would take others
            ('concat:', 'subfile,', 'file:'), with which a list of inputs could read any file.
        SourceError: it is there and cannot be read.
    """
    from sdps.runtime.camera_source import CameraMode
    from sdps.runtime.cut import Cut

    source = _open(uri, wait, CameraMode(width, height, fps, fourcc), say)
    if start or duration is not None or every != 1:
        return Cut(source, start, duration, every)
    return source


def _open(uri: str, wait: bool, mode: CameraMode, say: Callable[[str], None] | None) -> Source:
    from sdps.runtime.picture_source import PictureSource
    from sdps.runtime.video_source import VideoSource

    if uri == "demo":
        return VideoSource(str(sample(CLIP)))
    if uri == "-":
        return VideoSource(sys.stdin.buffer)
    if uri.startswith(STREAMS):
        return _open_stream(uri, wait, say)
    if match := re.fullmatch(r"(?:/dev/video|camera://)(\d+)", uri):
        return _open_camera(int(match[1]), wait, mode, say)
    if match := re.fullmatch(r"csi://(\d+)", uri):
        return _open_camera(int(match[1]), wait, mode, say, csi=True)
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+[:,]", uri) and not Path(uri).exists():
        raise UsageError(
            f"{redacted(uri)!r} is not an input that sdps opens.", f"Use a path, or {', '.join(STREAMS)}"
        )
    if not uri:
        raise UsageError("--input is empty.", "Give a file, a folder, a stream, or 'demo'.")
    path = Path(uri)
    if path.suffix.lower() in LISTS:
        raise UsageError(
            f"{uri} is a list of other inputs, which sdps does not follow.", "Give those themselves."
        )
    if path.is_dir():
        files, left_out = _pictures(path.iterdir())
        if not files:
            raise SourceError(
                f"There are no pictures in {path}.", f"It looks for {', '.join(sorted(PICTURES))}."
            )
        return PictureSource(files, left_out)
    if path.is_file():
        return PictureSource([path]) if path.suffix.lower() in PICTURES else VideoSource(str(path.resolve()))
    if any(c in uri for c in "*?["):
        files, left_out = _pictures(map(Path, glob.glob(uri, recursive=True)))
        if files:
            return PictureSource(files, left_out)
        raise UsageError(f"No picture matches {uri!r}.", "Quote the pattern, and check the folder.")
    raise UsageError(f"There is no file or folder {uri!r}.", "Check the path given to --input.")


def _open_stream(uri: str, wait: bool, say: Callable[[str], None] | None) -> Source:
    """A stream that reconnects; over HTTP also a film, which has an end and is read like a file."""
    from sdps.runtime.live_source import LiveSource
    from sdps.runtime.video_source import VideoSource

    def connect() -> Source:
        return VideoSource(uri, live=True)

    first: VideoSource | None = None
    if uri.startswith("http"):
        try:
            first = VideoSource(uri)
        except SourceRefused:
            raise
        except SourceError:
            if not wait:
                raise
        if first is not None and not first.info.live:
            return first
    return LiveSource(connect, redacted(uri), wait, first, say=say)


def _open_camera(
    number: int, wait: bool, mode: CameraMode, say: Callable[[str], None] | None, csi: bool = False
) -> Source:
    from sdps.runtime.camera_source import CameraSource, csi_capture
    from sdps.runtime.live_source import LiveSource

    name = f"CSI camera {number}" if csi else f"Camera {number}"

    def connect() -> Source:
        capture = csi_capture(number, mode) if csi else None
        return CameraSource(number, capture, None if csi else mode, name)

    return LiveSource(connect, name, wait, say=say)


def _pictures(found: Iterable[Path]) -> tuple[list[Path], str]:
    """The pictures among files, in order, and what to tell of those that are of other kinds."""
    files = [path for path in found if path.is_file()]
    others = [path.suffix.lower() for path in files if path.suffix.lower() in OTHERS]
    kinds, one = ", ".join(sorted(set(others))), len(others) == 1
    note = f"{len(others)} picture{'s' * (not one)} of other kinds left out: {kinds}" if others else ""
    return sorted((p for p in files if p.suffix.lower() in PICTURES), key=natural), note


def natural(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts frame10 after frame9."""
    return [
        (int(part), "") if part.isdecimal() else (0, part.lower()) for part in re.split(r"(\d+)", path.name)
    ]
