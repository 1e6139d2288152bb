"""Sound and subtitles of a file, carried over to another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

# FFmpeg puts more into MP4 than players read there (PCM, Vorbis).
PLAYABLE = {"mp4": {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac", "mov_text"}}


class Carried:
    """The audio and subtitle streams of a file, copied as they are where the target can hold them.

    Sound that it cannot hold is encoded again as AAC or Opus; of subtitles `lost` says it.

    Args:
        source: The file.
        target: An open PyAV output container.
        offset: Seconds of the file that are left out at the beginning.
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
        if offset and streams:
            self.input.seek(int(offset * av.time_base) + (self.input.start_time or 0), backward=True)
        self.packets: Iterator[Any] = self.input.demux(streams) if streams else iter(())
        self.waiting: Any = None
        self.resamplers: dict[int, Any] = {}

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
            # Opus knows few rates only.
            codec, rate = ("libopus", 48_000) if self.target.format.name == "webm" else ("aac", rate)
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
            moment = float(packet.dts * packet.time_base) - self.offset
            if self.offset and moment < 0:
                continue
            if seconds is not None and moment > seconds:
                self.waiting = packet
                return
            self._put(packet)

    def _put(self, packet: Any) -> None:
        index = packet.stream.index
        output = self.outputs[index]
        if self.copied[index]:
            shift = round(self.offset / packet.time_base)
            packet.dts -= shift
            if packet.pts is not None:
                packet.pts -= shift
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
            if self.offset and frame.pts is not None:
                frame.pts -= round(self.offset / frame.time_base)
            for part in self.resamplers[index].resample(frame):
                self.target.mux(output.encode(part))

    def finish(self, seconds: float | None) -> None:
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
