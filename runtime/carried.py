"""Sound, subtitles and what else a file holds beside pictures, carried over to another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av

from sdps.runtime.described import copy_attachments, copy_chapters, copy_tags, further_pictures
from sdps.runtime.encoded_sound import EncodedSound
from sdps.runtime.file_clock import GRACE, Ahead, FileClock

# FFmpeg puts more into these than players read there (PCM and Vorbis in MP4, Opus and FLAC in MOV).
PLAYABLE = {
    "mp4": {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac", "mov_text"},
    "mov": {"aac", "mp3", "ac3", "eac3", "alac", "pcm", "mov_text"},
}
LOOK = 1.0
"""Seconds of sound after a leap of its stamps that are looked at."""
LINGER = 10.0
"""Seconds before its beginning from which on a part is searched for subtitles that still stand."""
HANDLERS = ("SoundHandler", "SubtitleHandler", "VideoHandler")
"""Names that FFmpeg gives where there is no title."""


class Carried:
    """The audio and subtitle streams of a file, copied as they are where the target can hold them.

    Sound that it cannot hold is encoded again as AAC or Opus. Tags, chapters and attached files go with them.

    Args:
        source: The file.
        target: An open PyAV output container.
        offset: Moment of the file's clock, in seconds, at which the target begins.
        until: Seconds after that at which it ends, if that is known; subtitles do not stand longer.
        say: Told what is lost.
    """

    def __init__(
        self,
        source: Path,
        target: Any,
        offset: float = 0.0,
        until: float = math.inf,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.input, self.target, self.offset = av.open(str(source)), target, offset
        self.until, self.say = until, say
        self.outputs: dict[int, Any] = {}
        self.encoded: dict[int, EncodedSound] = {}
        for stream in (*self.input.streams.audio, *self.input.streams.subtitles):
            if stream.codec_context is not None:
                self._add(stream)
            else:
                say(f"stream {stream.index} is left out: it is of an unknown kind")
        for copy in (copy_tags, copy_attachments):
            for lost in copy(self.input, target):
                say(lost)
        for lost in further_pictures(self.input):
            say(lost)
        self.streams = [s for s in self.input.streams if s.index in self.outputs]
        self._seek()
        self.coming = self._moments()
        self.waiting: tuple[Any, float] | None = None
        self.last_dts: dict[int, int] = {}
        self.damaged: set[int] = set()

    def _add(self, stream: Any) -> None:
        if self._fits(stream):
            output = self.target.add_stream_from_template(stream)
        elif stream.type == "subtitle":
            name, kind = stream.codec_context.codec.canonical_name, self.target.format.name.split(",")[0]
            self.say(f"subtitles of kind {name} are left out, because {kind} cannot hold them")
            return
        else:
            sound = self.encoded[stream.index] = EncodedSound(stream, self.target)
            output = sound.output
            if sound.note:
                self.say(sound.note)
        self.outputs[stream.index] = output
        _describe(stream, output)

    def _fits(self, stream: Any) -> bool:
        """Whether the target's container can hold a stream as it is."""
        name = stream.codec_context.codec.canonical_name  # the decoder may be called otherwise: mp3float
        kind = "pcm" if name.startswith("pcm_") else name
        return name in self.target.supported_codecs and kind in PLAYABLE.get(self.target.format.name, {kind})

    def _seek(self) -> None:
        subtitled = any(stream.type == "subtitle" for stream in self.streams)
        moment = int((self.offset - LINGER * subtitled) * av.time_base)
        if self.streams and moment > (self.input.start_time or 0):
            self.input.seek(moment, backward=True)

    def _moments(self) -> Iterator[tuple[Any, float]]:
        """The packets, each with the moment of the output at which it begins."""
        ahead = {
            stream.index: Ahead[Any](FileClock(self.offset), LOOK if stream.type == "audio" else math.inf)
            for stream in self.streams
        }
        for packet in self.input.demux(self.streams) if self.streams else ():
            if packet.dts is None:  # demux ends with empty packets, which flush decoders
                continue
            stream, stamp, lasting = packet.stream, float(packet.dts * packet.time_base), _lasting(packet)
            if stream.type == "audio":
                yield from ahead[stream.index].add(packet, stamp, lasting)
            else:  # words come when they come, and whatever pause is between them is theirs
                yield packet, ahead[stream.index].clock(stamp, lasting)
        for held in ahead.values():
            yield from held.rest()

    def copy_until(self, seconds: float | None) -> None:
        """Carries over what is heard and read up to a moment of the output; None is the end."""
        while (item := self.waiting or next(self.coming, None)) is not None:
            self.waiting = item
            if seconds is not None and item[1] > seconds - GRACE:
                return
            self.waiting = None
            self._put(*item)

    def _put(self, packet: Any, moment: float) -> None:
        index, unit = packet.stream.index, packet.time_base
        if packet.stream.type == "subtitle":
            end = min(moment + _lasting(packet), self.until)
            if packet.duration and (moment < 0 < end - GRACE or end == self.until):
                moment = max(0.0, moment)  # it stands already, or would stand longer than the film
                packet.duration = round((end - moment) / unit)
        if self.offset and moment < -GRACE:
            return
        dts = round(moment / unit)
        if packet.pts is not None:
            packet.pts += dts - packet.dts
        packet.dts = dts
        if index in self.encoded:
            self.encoded[index].put(packet)
        else:
            self._copy(packet)

    def _copy(self, packet: Any) -> None:
        # One after the other, whatever a damaged file says: containers take no others. Several subtitles
        # may share a moment.
        index, output = packet.stream.index, self.outputs[packet.stream.index]
        behind = max(0, self.last_dts.get(index, -(2**62)) + (output.type != "subtitle") - packet.dts)
        packet.dts += behind
        if packet.pts is not None:
            packet.pts += behind
        self.last_dts[index] = packet.dts
        packet.stream = output
        try:
            self.target.mux(packet)
        except av.InvalidDataError:  # of some kinds containers look into each packet
            if index not in self.damaged:
                self.damaged.add(index)
                kind = "sound" if output.type == "audio" else f"{output.type}"
                self.say(f"the {kind} of stream {index} is damaged; pieces of it are left out")

    def finish(self, seconds: float | None) -> None:
        """Carries over the rest up to a moment, and ends the encoders."""
        self.copy_until(seconds)
        for sound in self.encoded.values():
            sound.finish()
        copy_chapters(self.input, self.target, self.offset, math.inf if seconds is None else seconds)
        self.close()

    def close(self) -> None:
        """Lets go of the file; calling it again does nothing."""
        self.input.close()


def _lasting(packet: Any) -> float:
    return float((packet.duration or 0) * packet.time_base)


def _describe(stream: Any, output: Any) -> None:
    """Language, title, and which is played by default, is for the deaf, is a comment."""
    said = stream.metadata
    title = said.get("title") or said.get("name")  # so FFmpeg calls MP4's
    if title and title not in HANDLERS:
        output.metadata["title"] = title
    if "language" in said:
        output.metadata["language"] = said["language"]
    output.disposition = stream.disposition.value  # PyAV 15 takes numbers only
