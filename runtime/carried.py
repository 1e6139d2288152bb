"""Sound and subtitles of a file, carried over to another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from sdps.runtime.file_clock import GRACE, FileClock

# FFmpeg puts more into MP4 than players read there (PCM, Vorbis).
PLAYABLE = {"mp4": {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac", "mov_text"}}

AAC_RATES = (
    96_000,
    88_200,
    64_000,
    48_000,
    44_100,
    32_000,
    24_000,
    22_050,
    16_000,
    12_000,
    11_025,
    8_000,
    7_350,
)
"""ISO 14496-3, table 1.18; Opus knows five of them only and gets 48,000."""


class Carried:
    """The audio and subtitle streams of a file, copied as they are where the target can hold them.

    Sound that it cannot hold is encoded again as AAC or Opus; of subtitles `lost` says it.

    Args:
        source: The file.
        target: An open PyAV output container.
        offset: Moment of the file's clock, in seconds, at which the target begins.
    """

    def __init__(self, source: Path, target: Any, offset: float = 0.0) -> None:
        self.input, self.target, self.offset = av.open(str(source)), target, offset
        self.outputs: dict[int, Any] = {}
        self.copied: dict[int, bool] = {}
        self.lost: list[str] = []
        for stream in (*self.input.streams.audio, *self.input.streams.subtitles):
            if stream.codec_context is not None:
                self._add(stream)
        streams = [s for s in self.input.streams if s.index in self.outputs]
        if streams and offset * av.time_base > (self.input.start_time or 0):
            self.input.seek(int(offset * av.time_base), backward=True)
        self.packets: Iterator[Any] = self.input.demux(streams) if streams else iter(())
        self.waiting: Any = None
        self.resamplers: dict[int, Any] = {}
        self.clocks = {stream.index: FileClock(offset) for stream in streams}
        self.last_dts: dict[int, int] = {}
        self.ends: dict[int, int] = {}

    def _add(self, stream: Any) -> None:
        fits = self._fits(stream)
        self.copied[stream.index] = fits
        if fits:
            output = self.target.add_stream_from_template(stream)
        elif stream.type == "subtitle":
            name, kind = stream.codec_context.codec.canonical_name, self.target.format.name.split(",")[0]
            self.lost.append(f"subtitles of kind {name} are left out, because {kind} cannot hold them")
            return
        else:
            rate = stream.codec_context.sample_rate
            webm = self.target.format.name == "webm"
            codec = "libopus" if webm else "aac"
            rate = rate if rate in AAC_RATES and not webm else 48_000
            output = self.target.add_stream(codec, rate=rate, layout=_layout(stream))
        for key in ("language", "title"):
            if key in stream.metadata:
                output.metadata[key] = stream.metadata[key]
        self.outputs[stream.index] = output

    def _fits(self, stream: Any) -> bool:
        """Whether the target's container can hold a stream as it is."""
        name = stream.codec_context.codec.canonical_name  # the decoder may be called otherwise: mp3float
        return name in self.target.supported_codecs and name in PLAYABLE.get(self.target.format.name, {name})

    def copy_until(self, seconds: float | None) -> None:
        """Carries over what is heard and read up to a moment of the output; None is the end."""
        while True:
            packet = self.waiting or next(self.packets, None)
            self.waiting = None
            if packet is None:
                return
            if packet.dts is None:  # demux ends with empty packets, which flush decoders
                continue
            lasting = float((packet.duration or 0) * packet.time_base)
            moment = self.clocks[packet.stream.index](float(packet.dts * packet.time_base), lasting)
            if self.offset and moment < -GRACE:
                continue
            if seconds is not None and moment > seconds:
                self.waiting = packet
                return
            self._put(packet)

    def _put(self, packet: Any) -> None:
        index = packet.stream.index
        output = self.outputs[index]
        earlier = self.offset - self.clocks[index].shift
        if self.copied[index]:
            # One after the other, whatever a damaged file says: containers take no others. Several subtitles
            # may share a moment.
            least = self.last_dts.get(index, -(2**62)) + (output.type != "subtitle")
            dts = max(packet.dts - round(earlier / packet.time_base), least)
            if packet.pts is not None:
                packet.pts += dts - packet.dts
            packet.dts = self.last_dts[index] = dts
            packet.stream = output
            self.target.mux(packet)
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            return
        for frame in frames:
            if earlier and frame.pts is not None:
                frame.pts -= round(earlier / frame.time_base)
            self._encode(index, frame)

    def _encode(self, index: int, frame: Any) -> None:
        """A decoded piece of sound, or None for the end, through the resampler into the encoder."""
        output = self.outputs[index]
        if index not in self.resamplers:
            if frame is None:
                return
            context = output.codec_context
            shape = (context.format or "fltp", context.layout, context.rate, context.frame_size or 1024)
            self.resamplers[index] = av.AudioResampler(*shape)
        try:
            parts = self.resamplers[index].resample(frame)
        except ValueError:  # a broadcast goes over to other channels, or another rate
            # What the old one still holds is less than a piece for the encoder, a fiftieth of a second.
            del self.resamplers[index]
            self._encode(index, frame)
            return
        for part in parts:
            if part.pts is not None:
                # Where recordings were joined pieces may share a moment, which no container takes.
                overlap = self.ends.get(index, part.pts) - part.pts
                if overlap > part.samples // 2:
                    continue
                part.pts += max(0, overlap)
                self.ends[index] = part.pts + part.samples
            self.target.mux(output.encode(part))

    def finish(self, seconds: float | None) -> None:
        """Carries over the rest up to a moment, and ends the encoders."""
        self.copy_until(seconds)
        for index, output in self.outputs.items():
            if not self.copied[index]:
                self._encode(index, None)
                self.target.mux(output.encode(None))
        self.close()

    def close(self) -> None:
        """Lets go of the file; calling it again does nothing."""
        self.input.close()


def _layout(stream: Any) -> str:
    """A channel layout that an encoder takes; raw sound often comes without one."""
    by_count = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 8: "7.1"}
    return by_count.get(stream.codec_context.channels, "stereo")
