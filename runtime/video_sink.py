"""Video files through PyAV (FFmpeg): the input's size, times and sound, with new pictures."""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from sdps.core.errors import SinkError, UsageError
from sdps.core.frame import Frame
from sdps.runtime.color import ColorSpec, to_yuv
from sdps.runtime.compare import compose, sweep
from sdps.runtime.picture_sink import refuse_input
from sdps.runtime.stream import StreamInfo

CODECS = {".mp4": "libx264", ".m4v": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}
# FFmpeg puts more into MP4 than players read there (PCM, Vorbis).
FINEST_CLOCK = 1_000_000
"""Ticks per second beyond which a frame rate is not worth an exact clock (MP4 counts in 32 bits)."""
PLAYABLE = {"mp4": {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}}
OPTIONS = {
    # Visually lossless, and fast, because the processor belongs to the network.
    "libx264": {"crf": "17", "preset": "veryfast"},
    "libvpx-vp9": {"crf": "24", "b:v": "0", "deadline": "realtime", "cpu-used": "6"},
}


class VideoSink:
    """Encodes frames, and copies the sound of the file that they came from.

    Presentation times are kept, so variable frame rates stay as they are. A side whose length is
    odd needs 4:4:4 chroma, because 4:2:0 has none; the size is never changed. The file appears
    under its name when it is finished.

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
        self.path, self.info, self.compare, self.codec = path, info, compare, codec
        self.place = str(path)
        self.temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
        self.color = ColorSpec(info.color.matrix, info.color.range)
        self.stream: Any = None
        self.last_pts = -1
        self.sound: Sound | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            options = {"movflags": "+faststart"} if path.suffix.lower() in (".mp4", ".m4v", ".mov") else {}
            # Absolute, because FFmpeg takes what stands before a colon for a protocol.
            self.container = av.open(str(self.temporary.absolute()), "w", options=options)
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def _start(self, height: int, width: int) -> None:
        self.time_base = _clock(self.info)
        stream: Any = self.container.add_stream(
            self.codec, rate=self.info.fps, options=dict(OPTIONS[self.codec])
        )
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        context = stream.codec_context
        context.time_base = self.time_base
        context.colorspace, context.color_range = self.color.matrix, self.color.range
        if self.color.matrix == 1:
            context.color_primaries = context.color_trc = 1
        if self.info.aspect != 1 and self.compare != "side":
            stream.sample_aspect_ratio = self.info.aspect
        self.stream, self.size = stream, (height, width)
        if self.info.kind == "video" and self.info.inputs:
            self.sound = Sound(self.info.inputs[0], self.container)
        self.container.start_encoding()

    def write(self, rainy: Frame, clean: Frame) -> bool:
        image = compose(self.compare, rainy.image, clean.image, sweep(clean.time))
        height, width = image.shape[:2]
        try:
            if self.stream is None:
                self._start(height, width)
            if (height, width) != self.size:
                raise SinkError(
                    f"The picture changed from {self.size[1]}x{self.size[0]} to {width}x{height};"
                    " one video has one size.",
                    "Write pictures into a folder instead.",
                )
            frame = to_yuv(image, self.stream.pix_fmt, self.color)
            seconds = self._moment(clean)
            # Two frames never share a moment, whatever a damaged file says.
            self.last_pts = max(round(seconds / self.time_base), self.last_pts + 1)
            frame.pts, frame.time_base = self.last_pts, self.time_base
            self.container.mux(self.stream.encode(frame))
            if self.sound:
                self.sound.copy_until(float(self.last_pts * self.time_base))
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error
        return True

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
        try:
            self.container.mux(self.stream.encode())
            if self.sound:
                end = float("inf") if complete else float(self.last_pts * self.time_base)
                self.sound.finish(end)
            self.container.close()
            self.temporary.replace(self.path)
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def discard(self) -> None:
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self.container.close()
        self.temporary.unlink(missing_ok=True)

    def _failure(self, error: Exception) -> SinkError:
        with contextlib.suppress(OSError):  # the folder may be the very thing that is wrong
            self.temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", "") or str(error)
        return SinkError(
            f"{self.path} cannot be written: {reason}.", "Is there room, and may this user write there?"
        )


def _clock(info: StreamInfo) -> Fraction:
    """A time base that holds both the source's times and its frame rate without rounding."""
    ticks = info.fps.numerator
    if info.kind != "pictures":
        both = math.lcm(info.time_base.denominator, info.fps.numerator)
        ticks = both if both <= FINEST_CLOCK else info.time_base.denominator
    return Fraction(1, ticks * math.ceil(1000 / ticks))


class Sound:
    """The audio streams of a file, carried over; re-encoded as AAC or Opus only where they must be."""

    def __init__(self, source: Path, target: Any) -> None:
        self.input, self.target = av.open(str(source)), target
        self.outputs: dict[int, Any] = {}
        for stream in self.input.streams.audio:
            if stream.codec_context is None:
                continue
            if self._fits(stream):
                self.outputs[stream.index] = target.add_stream_from_template(stream)
            else:
                rate = stream.codec_context.sample_rate
                # Opus knows few rates only.
                codec, rate = ("libopus", 48_000) if target.format.name == "webm" else ("aac", rate)
                self.outputs[stream.index] = target.add_stream(codec, rate=rate, layout=_layout(stream))
        streams = [s for s in self.input.streams.audio if s.index in self.outputs]
        self.packets: Iterator[Any] = self.input.demux(streams) if streams else iter(())
        self.waiting: Any = None
        self.copied = {s.index: self._fits(s) for s in streams}
        self.resamplers: dict[int, Any] = {}

    def _fits(self, stream: Any) -> bool:
        """Whether the target's container can hold a stream as it is."""
        name = stream.codec_context.codec.canonical_name  # the decoder may be called otherwise: mp3float
        return name in self.target.supported_codecs and name in PLAYABLE.get(self.target.format.name, {name})

    def copy_until(self, seconds: float) -> None:
        """Carries over what is heard up to a moment."""
        while True:
            packet = self.waiting or next(self.packets, None)
            self.waiting = None
            if packet is None:
                return
            if packet.dts is None:  # demux ends with empty packets, which flush decoders
                continue
            if float(packet.dts * packet.time_base) > seconds:
                self.waiting = packet
                return
            self._put(packet)

    def _put(self, packet: Any) -> None:
        index = packet.stream.index
        output = self.outputs[index]
        if self.copied[index]:
            packet.stream = output
            self.target.mux(packet)
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            return
        if index not in self.resamplers:
            context = output.codec_context
            shape = (context.format or "fltp", context.layout, context.rate, context.frame_size or 1024)
            self.resamplers[index] = av.AudioResampler(*shape)
        for frame in frames:
            for part in self.resamplers[index].resample(frame):
                self.target.mux(output.encode(part))

    def finish(self, seconds: float) -> None:
        """Carries over the rest up to a moment, and ends the encoders."""
        self.copy_until(seconds)
        for index, output in self.outputs.items():
            if not self.copied[index]:
                for part in self.resamplers[index].resample(None) if index in self.resamplers else ():
                    self.target.mux(output.encode(part))
                self.target.mux(output.encode(None))
        self.input.close()


def _layout(stream: Any) -> str:
    """A channel layout that an encoder takes; raw sound often comes without one."""
    by_count = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 8: "7.1"}
    return by_count.get(stream.codec_context.channels, "stereo")
