"""Video files and network streams through PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from sdps.core.errors import SourceError
from sdps.core.frame import Frame, Image
from sdps.runtime.color import ColorSpec, to_rgb
from sdps.runtime.stream import StreamInfo

NETWORK_TIMEOUT = 10.0
"""Seconds to wait for a server to open or for data."""
MAX_ERRORS = 200
"""Undecodable packets in a row after which a file is given up."""


class VideoSource:
    """Decodes the first video stream of a file or URL.

    Presentation times, rotation, colour matrix and range are the file's. Packets that do not
    decode are skipped and counted.

    Raises:
        SourceError: it cannot be opened, or holds no video.
    """

    def __init__(self, uri: str, live: bool = False) -> None:
        from sdps.runtime.sources import redacted

        self.name = redacted(uri)
        self.skipped = 0
        remote = "://" in uri
        options = {"rtsp_transport": "tcp"} if uri.startswith("rtsp") else {}
        try:
            self.container = av.open(uri, options=options, timeout=NETWORK_TIMEOUT if remote else None)
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = str(getattr(error, "strerror", "") or error).replace(uri, self.name)
            remedy = "Is the address right, and the server up?" if remote else "Is it a video, and complete?"
            raise SourceError(f"{self.name} cannot be opened: {reason}.", remedy) from None
        if not self.container.streams.video:
            self.container.close()
            raise SourceError(f"{self.name} holds no video.", "Give a video or a picture.")
        self.stream = self.container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.decoded = self._decode()
        # The first frame tells what headers leave open: rotation, colour, the true size.
        self.first = next(self.decoded, None)
        if self.first is None:
            self.container.close()
            raise SourceError(f"{self.name} holds no frame that can be decoded.", "Is the file complete?")
        turned = int(self.first.rotation) % 180 != 0
        height, width = self.first.height, self.first.width
        aspect = Fraction(self.stream.sample_aspect_ratio or 1)
        rate = self.stream.average_rate or self.stream.guessed_rate or 25
        self.info = StreamInfo(
            kind="video",
            width=height if turned else width,
            height=width if turned else height,
            fps=Fraction(rate),
            frames=self.stream.frames or self._estimate(),
            live=live,
            inputs=() if remote else (Path(uri),),
            time_base=Fraction(self.stream.time_base or Fraction(1, 90_000)),
            color=ColorSpec.of(self.first),
            aspect=1 / aspect if turned else aspect,
        )

    def _estimate(self) -> int | None:
        if self.container.duration and self.stream.average_rate:
            return round(self.container.duration / av.time_base * self.stream.average_rate)
        return None

    def _decode(self) -> Iterator[av.VideoFrame]:
        errors = 0
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError):
                self.skipped += 1
                return
            try:
                frames: list[Any] = packet.decode()
                errors = 0
            except (av.FFmpegError, ValueError):
                errors += 1
                self.skipped += 1
                if errors > MAX_ERRORS:
                    return
                continue
            yield from frames

    def __iter__(self) -> Iterator[Frame]:
        fallback = 0.0
        index = 0
        frame = self.first
        self.first = None
        while frame is not None:
            time = frame.time if frame.time is not None else fallback
            fallback = time + float(1 / self.info.fps)
            yield Frame(upright(to_rgb(frame, self.info.color), int(frame.rotation)), index, time)
            index += 1
            frame = next(self.decoded, None)

    def close(self) -> None:
        self.container.close()


def upright(image: Image, rotation: int) -> Image:
    """Turns a picture as its display matrix says (degrees counter-clockwise)."""
    turns = round(rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
