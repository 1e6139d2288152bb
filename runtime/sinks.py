"""Frames out: files, folders, a window, a pipe, a server, or nowhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from sdps.core.errors import SdpsError, UsageError
from sdps.core.frame import Frame
from sdps.runtime.compare import MODES
from sdps.runtime.redact import redacted
from sdps.runtime.several_sinks import LaterSink, SeveralSinks
from sdps.runtime.stream import Sink, StreamInfo


class NullSink:
    """Takes frames and does nothing, to measure."""

    place = "nowhere"

    def write(self, rainy: Frame, clean: Frame) -> bool:
        return True

    def idle(self) -> bool:
        return True

    def close(self, complete: bool = True) -> None:
        """Nothing was opened."""

    def discard(self) -> None:
        """Nothing was written."""


def open_sink(
    uri: str | Sequence[str],
    info: StreamInfo | None = None,
    compare: str = "off",
    title: str = "sdps",
    stdout: BinaryIO | None = None,
    limit: int | None = None,
) -> Sink:
    """Opens an output, or several at once.

    Args:
        uri: 'window', 'none', '-' for Y4M on standard output, rtsp://... to push to a server, a video
            file (.mp4, .mov, .mkv, .webm), a picture (for one frame), or a folder, made if need
            be. Of a sequence, all of them.
        info: The source's; None leaves the opening to the `Pipeline`, which knows it.
        compare: One of compare.MODES.
        title: Of a window.
        stdout: Written instead of standard output.
        limit: So many frames will come at most. Of 1, a film or a camera may go to a picture.

    Raises:
        UsageError: the suffix is unknown, or the output is the input itself.
        SinkError: it cannot be written or shown.
    """
    if compare not in MODES:
        raise UsageError(f"There is no comparison {compare!r}.", f"Choose from {', '.join(MODES)}.")
    uris = [uri] if isinstance(uri, str) else list(uri)
    if not all(uris):
        raise UsageError("--output is empty.", "Give a file, a folder, 'window', or 'none'.")
    if not uris or len(set(map(_target, uris))) < len(uris):
        raise UsageError("Each output is wanted once, and one at least.", "Correct --output.")
    if info is None:
        return LaterSink(
            lambda known: open_sink(uri, known, compare, title, stdout, limit),
            " and ".join(map(redacted, uris)),
        )
    opened: list[Sink] = []
    try:
        for one in uris:
            opened.append(_open(one, info, compare, title, stdout, limit))
    except SdpsError:
        for sink in opened:
            sink.discard()
        raise
    return opened[0] if len(opened) == 1 else SeveralSinks(opened, info.live)


def _target(uri: str) -> str:
    """What two addresses of one output have in common."""
    return uri if uri in ("none", "-", "window") or "://" in uri else str(Path(uri).resolve())


def _open(
    uri: str, info: StreamInfo, compare: str, title: str, stdout: BinaryIO | None, limit: int | None
) -> Sink:
    if uri == "none":
        return NullSink()
    if uri == "-":
        from sdps.runtime.y4m_sink import Y4mSink

        return Y4mSink(stdout or sys.stdout.buffer, info, compare)
    if uri == "window":
        from sdps.runtime.window_sink import WindowSink

        return WindowSink(info, compare, title)
    if uri.startswith("rtsp://"):
        from sdps.runtime.rtsp_sink import RtspSink

        return RtspSink(uri, info, compare)
    if "://" in uri:
        raise UsageError(f"{redacted(uri)!r} is not an output that sdps writes.", "Streams go to rtsp://...")
    from sdps.runtime.picture_sink import WRITABLE, PictureSink
    from sdps.runtime.video_sink import VideoSink

    path = Path(uri)
    folder = path.is_dir() or uri.endswith(("/", os.sep))
    if folder or not path.suffix or path.suffix.lower() in WRITABLE:
        return PictureSink(path, info, compare, folder, limit)
    return VideoSink(path, info, compare)
