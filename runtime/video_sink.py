"""Video files through PyAV (FFmpeg): the input's size, times and sound, with new pictures."""

from __future__ import annotations

import contextlib
import itertools
import math
import secrets
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from sdps.core.errors import SinkError, UsageError
from sdps.core.frame import Frame, Image
from sdps.runtime.carried import Carried
from sdps.runtime.color import BT709, UNSPECIFIED, to_yuv
from sdps.runtime.compare import compose, sweep
from sdps.runtime.events import Events
from sdps.runtime.fit import fit
from sdps.runtime.picture_sink import refuse_input, refuse_read_only
from sdps.runtime.stream import StreamInfo

CODECS = {".mp4": "libx264", ".m4v": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}
FINEST_CLOCK = 1_000_000
"""Ticks per second beyond which a frame rate is not worth an exact clock (MP4 counts in 32 bits)."""
OPTIONS = {
    # Visually lossless, and fast, because the processor belongs to the network.
    "libx264": {"crf": "17", "preset": "veryfast"},
    "libvpx-vp9": {"crf": "24", "b:v": "0", "deadline": "realtime", "cpu-used": "6"},
}
# A recording is never more than half a second behind on the disk, whatever ends the process: no
# pictures are held back by the encoder, and pieces that play by themselves are flushed at once. A
# plain MP4 keeps nothing when it is killed, and one in pieces without the flush hardly more.
LIVE_OPTIONS = {
    "libx264": {"crf": "17", "preset": "veryfast", "tune": "zerolatency"},
    "libvpx-vp9": OPTIONS["libvpx-vp9"] | {"lag-in-frames": "0"},
}
HUGE = 4096 * 2304
"""Pixels beyond which a file's encoder holds no pictures back either: to look ahead it would keep two
gigabytes of 8K ones, and without it keeps 0.4."""
LIVE_MP4 = {"movflags": "+frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
LIVE_MKV = {"cluster_time_limit": "500"}


class VideoSink:
    """Encodes frames, and copies the sound and subtitles of the file that they came from.

    Presentation times are kept, so variable frame rates stay as they are. A side whose length is
    odd needs 4:4:4 chroma, because 4:2:0 has none; the size is never changed: a picture that changes
    its size midway is scaled into that of the first, which `events` says. The file appears under its
    name when it is finished. A live recording grows as NAME.part.SUFFIX, playable at any moment, and
    stays there if the process is killed.

    Raises:
        UsageError: the suffix is not one of CODECS, or the file is the input itself.
        SinkError: the file cannot be written.
    """

    def __init__(self, path: Path, info: StreamInfo, compare: str = "off") -> None:
        codec = CODECS.get(path.suffix.lower())
        if codec is None:
            raise UsageError(
                f"Videos are not written as {path.suffix or path.name!r}.",
                f"Choose from {', '.join(CODECS)}.",
            )
        refuse_input(path, info.inputs)
        refuse_read_only(path.parent)  # FFmpeg opens files with the first frame only
        self.path, self.info, self.compare, self.codec = path, info, compare, codec
        self.place, self.events, self.said_size = str(path), Events(), False
        self.temporary = _part(path) if info.live else path.with_name(_hidden(path))
        self.color = info.color
        self.stream: Any = None
        self.last_pts, self.lasting = -1, 0.0
        self.carried: Carried | None = None
        self.broken = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mp4 = path.suffix.lower() in (".mp4", ".m4v", ".mov")
            options = {"movflags": "+faststart"} if mp4 else {}
            if info.live:
                options = {"flush_packets": "1", **(LIVE_MP4 if mp4 else LIVE_MKV)}
            # Absolute, because FFmpeg takes what stands before a colon for a protocol.
            self.container = av.open(str(self.temporary.absolute()), "w", options=options)
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def _start(self, height: int, width: int) -> None:
        self.time_base = _clock(self.info)
        at_once = self.info.live or height * width > HUGE
        options = dict((LIVE_OPTIONS if at_once else OPTIONS)[self.codec])
        if self.info.live:
            options["g"] = str(max(1, round(self.info.fps)))
        stream: Any = self.container.add_stream(self.codec, rate=self.info.fps, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        context = stream.codec_context
        context.time_base = self.time_base
        context.colorspace, context.color_range = self.color.matrix, self.color.range
        # What BT.709 leaves unsaid is BT.709's.
        unsaid = BT709 if self.color.matrix == BT709 else UNSPECIFIED
        context.color_primaries = unsaid if self.color.primaries == UNSPECIFIED else self.color.primaries
        context.color_trc = unsaid if self.color.transfer == UNSPECIFIED else self.color.transfer
        if self.info.aspect != 1:
            stream.sample_aspect_ratio = self.info.aspect
        self.stream, self.size = stream, (height, width)
        if self.info.kind == "video" and self.info.inputs:
            self.carried = Carried(
                self.info.inputs[0],
                self.container,
                self.info.offset,
                self.info.duration,
                lambda lost: self.events.emit("carried", lost),
            )
        try:
            self.container.start_encoding()
        except av.FFmpegError as error:
            failure = self._failure_while_open(error)
            raise failure if context.is_open else self._too_large(height, width) from error

    def write(self, rainy: Frame, clean: Frame) -> bool:
        if clean.stale:  # a recording holds what the camera sent; the gap stays a gap
            return True
        image = compose(self.compare, rainy.image, clean.image, sweep(clean.time))
        height, width = image.shape[:2]
        try:
            if self.stream is None:
                self._start(height, width)
            if (height, width) != self.size:
                image = self._fitted(image)
            frame = to_yuv(image, self.stream.pix_fmt, self.color)
            seconds = self._moment(clean)
            # Two frames never share a moment, whatever a damaged file says.
            self.last_pts = max(round(seconds / self.time_base), self.last_pts + 1)
            frame.pts, frame.time_base = self.last_pts, self.time_base
            self.lasting = clean.duration
            self.container.mux(self.stream.encode(frame))
            if self.carried:
                self.carried.copy_until(float(self.last_pts * self.time_base))
        except (av.FFmpegError, OSError) as error:
            raise self._failure_while_open(error) from error
        return True

    def _fitted(self, image: Image) -> Image:
        was, now = f"{self.size[1]}x{self.size[0]}", f"{image.shape[1]}x{image.shape[0]}"
        if self.info.kind == "pictures":
            raise SinkError(
                f"The picture changed from {was} to {now}; one video has one size.",
                "Write pictures into a folder instead.",
            )
        if not self.said_size:
            self.said_size = True
            self.events.emit("resized", f"{self.path} stays {was}; pictures of {now} are scaled into it")
        return fit(image, *self.size)

    def idle(self) -> bool:
        return True

    def _moment(self, frame: Frame) -> Fraction:
        """Presentation time in seconds; exact where the source's clock only rounds a constant rate."""
        if self.info.kind == "pictures":  # they have no clock: one after the other at the nominal rate
            return frame.index / self.info.fps
        time = Fraction(frame.time)
        steady = round(time * self.info.fps) / self.info.fps
        # Half a tick, a little more for floats; never so much that real differences are evened out.
        tolerance = Fraction(6, 10) * min(self.info.time_base, Fraction(1, 1000))
        return steady if abs(steady - time) <= tolerance else time

    def close(self, complete: bool = True) -> None:
        if self.stream is None:  # nothing came
            self.discard()
            return
        if self.broken:
            self._keep_pieces()
            return
        try:
            packets = self.stream.encode()
            # Encoders take the mean. A little more or less than that is the rounding of the input's clock.
            if packets and self.lasting and not 0.4 < self.lasting * self.info.fps < 1.5:
                packets[-1].duration = round(Fraction(self.lasting) / packets[-1].time_base)
            self.container.mux(packets)
            if self.carried:
                self.carried.finish(self._end_of_sound(complete))
            self.container.close()
            self.temporary.replace(self.path)
        except (av.FFmpegError, OSError) as error:
            raise self._failure_while_open(error) from error

    def _end_of_sound(self, complete: bool) -> float | None:
        """So long as was asked for; of what was ended early, as long as its last picture; None is all."""
        if complete:
            return None if math.isinf(self.info.duration) else self.info.duration
        return float(self.last_pts * self.time_base + (Fraction(self.lasting) or 1 / self.info.fps))

    def discard(self) -> None:
        self._shut()
        self.temporary.unlink(missing_ok=True)

    def _keep_pieces(self) -> None:
        """After a failed write: what was recorded before it plays, and keeps its name."""
        self._shut()
        with contextlib.suppress(OSError):
            self.temporary.replace(self.path)

    def _shut(self) -> None:
        """Closes the container, whatever state it is in, and what it was to carry over."""
        if self.carried:
            self.carried.close()
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self.container.close()

    def _too_large(self, height: int, width: int) -> SinkError:
        others = [suffix for suffix in (".webm",) if CODECS[suffix] != self.codec]
        return SinkError(
            f"{self.path} cannot be written: its encoder takes no pictures of {width}x{height}.",
            f"Write {' or '.join(['pictures into a folder', *others])}.",
        )

    def _failure_while_open(self, error: Exception) -> SinkError:
        if not self.info.live:  # before PyAV 18 an open container says in a traceback that its file is gone
            self._shut()
        return self._failure(error)

    def _failure(self, error: Exception) -> SinkError:
        self.broken = True
        if not self.info.live:
            with contextlib.suppress(OSError):  # the folder may be the very thing that is wrong
                self.temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", "") or str(error)
        return SinkError(
            f"{self.path} cannot be written: {reason}.", "Is there room, and may this user write there?"
        )


def _hidden(path: Path) -> str:
    return f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}"


def _part(path: Path) -> Path:
    """The name under which a recording grows; one that a killed run left is not overwritten."""
    names = itertools.chain([".part"], (f".part{i}" for i in itertools.count(2)))
    return next(p for n in names if not (p := path.with_name(f"{path.stem}{n}{path.suffix}")).exists())


def _clock(info: StreamInfo) -> Fraction:
    """A time base that holds both the source's times and its frame rate without rounding."""
    ticks = info.fps.numerator
    if info.kind != "pictures":
        both = math.lcm(info.time_base.denominator, info.fps.numerator)
        ticks = both if both <= FINEST_CLOCK else info.time_base.denominator
    return Fraction(1, ticks * math.ceil(1000 / ticks))
