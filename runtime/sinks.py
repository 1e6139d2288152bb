"""Frames out: files, folders, a window, or nowhere."""

from __future__ import annotations

from pathlib import Path

from sdps.core.errors import UsageError
from sdps.core.frame import Frame
from sdps.runtime.compare import MODES
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


def open_sink(uri: str, info: StreamInfo, compare: str = "off", title: str = "sdps") -> Sink:
    """Opens an output.

    Args:
        uri: 'window', 'none', a video file (.mp4, .mov, .mkv, .webm), a picture (for one picture),
            or a folder, made if need be.
        info: The source's.
        compare: One of compare.MODES.
        title: Of a window.

    Raises:
        UsageError: the suffix is unknown, or the output is the input itself.
        SinkError: it cannot be written or shown.
    """
    if compare not in MODES:
        raise UsageError(f"There is no comparison {compare!r}.", f"Choose from {', '.join(MODES)}.")
    if uri == "none":
        return NullSink()
    if uri == "window":
        from sdps.runtime.window_sink import WindowSink

        return WindowSink(info, compare, title)
    from sdps.runtime.picture_sink import WRITABLE, PictureSink
    from sdps.runtime.video_sink import VideoSink

    path = Path(uri)
    pictures = path.is_dir() or not path.suffix or path.suffix.lower() in WRITABLE
    sink: Sink = PictureSink(path, info, compare) if pictures else VideoSink(path, info, compare)
    return sink
