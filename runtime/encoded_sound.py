"""Sound that a container cannot hold as it is, encoded again."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av

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
OPUS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""Its layouts, those of Vorbis, by the number of channels."""
WITH_BASS = {"2.1": "5.1", "3.1": "5.1", "4.1": "5.1", "6.0": "6.1", "6.0(front)": "6.1", "hexagonal": "6.1"}
"""What Opus takes of layouts that it lacks, so that no channel of them is lost."""
AAC = set(OPUS.values()) | set(WITH_BASS) | {"3.0(back)", "4.0", "quad(side)", "5.0(side)", "5.1(side)"}
"""FFmpeg's encoder takes more, which nobody records."""
SLACK = 0.005
"""Seconds by which stamps of sound may be off: Matroska, ASF and FLV round each to a thousandth. So near to
one another pieces follow without a gap."""


class EncodedSound:
    """A stream of sound, decoded and encoded as AAC, or as Opus into WebM.

    Args:
        stream: Of a file.
        target: An open PyAV output container.

    Attributes:
        output: The target's stream.
        note: What a user should hear of it; empty if nothing.
    """

    def __init__(self, stream: Any, target: Any) -> None:
        coded = stream.codec_context
        webm = target.format.name == "webm"
        rate = coded.sample_rate if coded.sample_rate in AAC_RATES and not webm else 48_000
        layout = _layout(coded, webm)
        self.stream, self.target = stream, target
        self.output = target.add_stream("libopus" if webm else "aac", rate=rate, layout=layout)
        fewer = self.output.codec_context.layout.nb_channels < coded.channels
        self.note = f"sound of {coded.channels} channels is mixed down to {layout}" if fewer else ""
        self._resampler: Any = None
        self._end = 0  # samples

    def put(self, packet: Any) -> None:
        """Takes the next packet; one that does not decode is passed over. None is the end."""
        try:
            frames = self.stream.codec_context.decode(packet)
        except av.FFmpegError:
            return
        for frame in frames:
            unit = frame.time_base or self.stream.time_base
            if frame.pts is not None:
                # What the resampler need not change it leaves on its clock, which may be a coarse one.
                frame.pts = round(frame.pts * unit * frame.sample_rate)
            frame.time_base = Fraction(1, frame.sample_rate)
            self._encode(frame)

    def finish(self) -> None:
        """Ends the decoder, which may hold sound back, and the encoder."""
        self.put(None)
        if self._resampler is not None:
            self._encode(None)
        self.target.mux(self.output.encode(None))

    def _encode(self, frame: Any) -> None:
        """A decoded piece, or None for the end, through the resampler into the encoder."""
        for part in self._resampled(frame):
            if self._place(part):
                self.target.mux(self.output.encode(part))

    def _resampled(self, frame: Any) -> list[Any]:
        for _ in range(2):
            self._resampler = self._resampler or self._new_resampler()
            try:
                return list(self._resampler.resample(frame))
            except ValueError:  # a broadcast goes over to other channels, or another rate
                # What the old one still holds is less than a piece for the encoder, a fiftieth of a second.
                self._resampler = None
        return []

    def _new_resampler(self) -> Any:
        context = self.output.codec_context
        shape = (context.format or "fltp", context.layout, context.rate, context.frame_size or 1024)
        return av.AudioResampler(*shape)

    def _place(self, part: Any) -> bool:
        """Puts a piece where its stamp says, after the one before it; whether there is room for it."""
        rate = part.sample_rate
        begin = self._end if part.pts is None else round(part.pts * part.time_base * rate)
        late = begin - self._end
        # Where recordings were joined pieces may share a moment, which no container takes.
        if late < -(part.samples // 2) and self._end:
            return False
        if self._end and late < SLACK * rate:
            begin = self._end
        part.pts, part.time_base = begin, Fraction(1, rate)
        self._end = begin + part.samples
        return True


def _layout(coded: Any, webm: bool) -> str:
    """A channel layout that the encoder takes; raw sound often comes without one."""
    own, count = coded.layout.name, coded.channels
    if not webm:
        return own if own in AAC else OPUS.get(count, "stereo")
    return own if own in OPUS.values() else WITH_BASS.get(own, OPUS.get(count, "stereo"))
