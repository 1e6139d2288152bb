"""Video files and network streams through PyAV (FFmpeg)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import HTTPForbiddenError, HTTPUnauthorizedError

from sdps.core.errors import SourceError
from sdps.core.frame import Frame
from sdps.runtime.color import ColorSpec, to_rgb
from sdps.runtime.events import Events
from sdps.runtime.file_clock import JUMP, Ahead, FileClock
from sdps.runtime.orientation import display_matrix, lies, upright
from sdps.runtime.redact import redacted
from sdps.runtime.stream import SourceRefused, StreamInfo

OPEN_TIMEOUT, READ_TIMEOUT = 8.0, 5.0
"""Seconds to wait for a server to open, and for data."""
MAX_ERRORS = 200
"""Undecodable packets in a row after which a file is given up."""
SEEK_BEFORE = (0.0, 2.0, 8.0, 30.0)
"""Seconds before a moment at which a key frame is looked for, in turn; then the beginning."""
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,asf,mxf,nut,ivf,"
    "h264,hevc,av1,obu,m4v,mjpeg,mjpeg_2000,dv,gif,apng,yuv4mpegpipe,wtv,rm,swf,vob,y4m"
)
"""What files may be. Not among them are lists of other files (hls, concat, sdp, dash, image2):
a file that is called .mp4 and is a list could read whatever this user may read."""


class VideoSource:
    """Decodes the first video stream of a file, URL or pipe.

    Presentation times (from the file's first moment), rotation, colour matrix and range are the file's.
    Packets that do not decode are skipped and counted.

    Args:
        origin: A path, a URL (see sources.STREAMS), or a binary file object that holds Y4M.
        live: Whether it is a live stream even if it looks like a file; a URL without an end is one.

    Raises:
        SourceRefused: the server wants another user or password.
        SourceError: it cannot be opened, or holds no video.
    """

    def __init__(self, origin: Any, live: bool = False) -> None:
        uri = origin if isinstance(origin, str) else "-"
        self.name = redacted(uri) if uri != "-" else "standard input"
        self.skipped = 0
        self.remote = "://" in uri
        self.container = self._open(origin, uri)
        if not self.container.streams.video:
            self.container.close()
            raise SourceError(f"{self.name} holds no video.", "Give a video or a picture.")
        self.stream = self.container.streams.video[0]
        live = live or (self.remote and self.container.duration is None)
        # Decoding frame-parallel is fastest, and holds back as many frames as there are threads.
        self.stream.thread_type = "SLICE" if live else "AUTO"
        self.failure, self.events, self.live = "", Events(), live
        self.length = self._length()
        self.newest = -math.inf  # the latest moment, by the file's clock, of any packet
        self.decoded: Iterator[av.VideoFrame] = self._decode()
        # The first frame tells what headers leave open: rotation, colour, the true size.
        self.first = next(self.decoded, None)
        if self.first is None:
            self.container.close()
            raise SourceError(f"{self.name} holds no frame that can be decoded.", "Is the file complete?")
        turned = lies(display_matrix(self.first))
        height, width = self.first.height, self.first.width
        aspect = Fraction(self.stream.sample_aspect_ratio or 1)
        rate = self.stream.average_rate or self.stream.guessed_rate or 25
        depth = max((c.bits for c in self.first.format.components), default=8)
        notes = [f"the input has {depth} bits per channel, the network sees and gives 8"] * (depth > 8)
        if getattr(self.first, "interlaced_frame", False):
            notes.append("the input is interlaced, and is treated and written as if it were not")
        if self.remote and not live and self.container.streams.audio:
            notes.append("the sound of a film over HTTP is not carried over; download it first to keep it")
        begin = 0.0 if live else (self.container.start_time or 0) / av.time_base
        if (self.first.time or 0.0) >= 0:  # else the clock of MPEG-TS is about to wrap, and counts up to that
            begin = max(0.0, begin)  # not where sound begins whose first piece is to be cut, as of Opus
        coded = self.stream.codec_context
        self.info = StreamInfo(
            kind="video",
            width=height if turned else width,
            height=width if turned else height,
            fps=Fraction(rate),
            frames=None if live else self.stream.frames or self._estimate(),
            live=live,
            inputs=() if self.remote or uri == "-" else (Path(uri),),
            time_base=Fraction(self.stream.time_base or Fraction(1, 90_000)),
            color=ColorSpec.of(self.first, int(coded.color_primaries), int(coded.color_trc)),
            aspect=1 / aspect if turned else aspect,
            notes=notes,
            offset=begin,
        )

    def _open(self, origin: Any, uri: str) -> Any:
        if uri == "-":
            given: dict[str, Any] = {"format": "yuv4mpegpipe"}
        elif self.remote:
            given = {"options": _network_options(uri), "timeout": (OPEN_TIMEOUT, READ_TIMEOUT)}
        else:
            given = {"options": {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}}
        try:
            return av.open(origin, **given)
        except (HTTPUnauthorizedError, HTTPForbiddenError) as error:
            raise SourceRefused(
                f"{self.name} refuses this user: {error.strerror}.", "Check the user and the password."
            ) from None
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = redacted(str(getattr(error, "strerror", "") or error).replace(uri, self.name))
            remedy = "Is the address right, and the server up?"
            if not self.remote:
                remedy = "Is it a video, and complete?"
            raise SourceError(f"{self.name} cannot be opened: {reason}.", remedy) from None

    def _length(self) -> float:
        """Seconds that the file says it has; without data, such as chapters, which may last longer."""
        streams = self.container.streams
        read = (*streams.video, *streams.audio, *streams.subtitles)
        ends = [float(((s.start_time or 0) + s.duration) * s.time_base) for s in read if s.duration]
        if len(read) < len(streams) and self.stream.duration:
            return max(ends) - (self.container.start_time or 0) / av.time_base
        return (self.container.duration or 0) / av.time_base

    def _estimate(self) -> int | None:
        if self.length and self.stream.average_rate:
            return round(self.length * self.stream.average_rate)
        return None

    @property
    def ended(self) -> float:
        """The end of what was read until now, in seconds from the first picture or sound."""
        return self.newest - self.info.offset

    @property
    def missing(self) -> float:
        """Seconds at the end that the file says it has, and for which it held neither a picture nor a sound:
        it is cut off. To be asked when all was read. A twentieth and two frames are not counted."""
        # Matroska counts its length from 0, whenever it begins.
        begin = 0.0 if "matroska" in self.container.format.name else self.info.offset
        missing = self.length - (self.newest - begin)
        known = not self.live and math.isfinite(missing)
        return missing if known and missing > 0.05 * self.length + 2 / float(self.info.fps) else 0.0

    def seek(self, seconds: float) -> None:
        """Goes on from a key frame before a moment; what lies between is for the caller to skip."""
        # Without an index (MPEG-TS) FFmpeg finds one by its place in the file, and often one behind.
        for before in (*SEEK_BEFORE, seconds + 1):
            moment = self.info.offset + seconds - before
            try:
                self.container.seek(int(moment * av.time_base), backward=True)
            except (av.FFmpegError, OSError):
                return  # a pipe, or a file without an index: it is read from where it is
            self.decoded = self._decode()
            self.first = next(self.decoded, None)
            found = self.first.time if self.first else None
            if before > seconds or (found is not None and found <= self.info.offset + seconds):
                return

    def _packets(self) -> Iterator[av.Packet]:
        streams = self.container.streams
        if self.live:
            yield from self.container.demux(self.stream)
            return
        for packet in self.container.demux(*streams.video, *streams.audio, *streams.subtitles):
            if packet.pts is not None and packet.time_base:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self.newest = max(self.newest, end)
            if packet.stream.index == self.stream.index:
                yield packet

    def _decode(self) -> Iterator[av.VideoFrame]:
        errors = 0
        packets = self._packets()
        while errors <= MAX_ERRORS:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.InvalidDataError:
                # Damage in a container is not its end; a generator that raised is at its own, though.
                errors += 1
                self.skipped += 1
                packets = self._packets()
                continue
            except (av.FFmpegError, OSError) as error:
                self.failure = redacted(str(getattr(error, "strerror", "") or error))
                self.skipped += not self.remote
                return
            try:
                frames: list[Any] = packet.decode()
                errors = 0
            except (av.FFmpegError, ValueError):
                errors += 1
                self.skipped += 1
                continue
            yield from frames

    def __iter__(self) -> Iterator[Frame]:
        clock, shift = FileClock(self.info.offset, math.inf if self.live else JUMP), 0.0
        for index, (frame, time) in enumerate(self._timed(clock)):
            if clock.shift > shift:
                self.events.emit(
                    "clock", f"the clock of {self.name} falls back after {time:.1f} s; it goes on from there"
                )
            shift = clock.shift
            same = (frame.height, frame.width) in (
                (self.info.height, self.info.width),
                (self.info.width, self.info.height),
            )
            color = self.info.color if same else ColorSpec.of(frame)
            image = upright(to_rgb(frame, color), display_matrix(frame))
            yield Frame(image, index, time, duration=_lasting(frame))
        if self.info.live:
            raise SourceError(f"{self.name} stopped: {self.failure or 'the stream ended'}.")

    def _timed(self, clock: FileClock) -> Iterator[tuple[Any, float]]:
        """The frames with their moments."""
        stream: Ahead[Any] = Ahead(clock)
        mean = float(1 / self.info.fps)
        frame = self.first
        self.first = None
        while frame is not None:
            yield from stream.add(frame, frame.time, _lasting(frame) or mean)
            frame = next(self.decoded, None)
        yield from stream.rest()

    def close(self) -> None:
        self.container.close()
        # The generator and this object hold each other; a decoder's buffers must not wait for the
        # garbage collector, once per reconnect.
        self.decoded, self.first = iter(()), None


def _lasting(frame: Any) -> float:
    """Seconds that a frame is shown; 0 if not known: PyAV before 16 knows it of few files."""
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0


def _network_options(uri: str) -> dict[str, str]:
    """FFmpeg's options for a URL: only what the scheme needs may be opened, and nothing waits for ever."""
    patience = str(int(READ_TIMEOUT * 1_000_000))
    # A tenth of a second of looking is enough, because the first frame is decoded anyway; FFmpeg
    # would look for five.
    options = {"fflags": "nobuffer", "analyzeduration": "100000", "fpsprobesize": "1"}
    if uri.startswith("rtsp"):
        return options | {
            "rtsp_transport": "tcp",
            "timeout": patience,
            "protocol_whitelist": "rtsp,rtsps,rtp,srtp,udp,tcp,tls,crypto",
            "format_whitelist": "rtsp,sdp,rtp,mpegts,asf",
        }
    return {
        "rw_timeout": patience,
        "protocol_whitelist": "http,https,httpproxy,tcp,tls,crypto",
        "format_whitelist": f"{CONTAINERS},mpjpeg,hls",
    }
