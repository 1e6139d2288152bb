"""Several outputs at once, and outputs that are opened before their input is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sdps.core.errors import SdpsError
from sdps.core.frame import Frame
from sdps.runtime.events import Events, hear
from sdps.runtime.stream import Sink, StreamInfo


def stop_waiting(sink: Sink) -> None:
    """Tells an output that may wait within `write`, as a window does, that the run ends."""
    stop = getattr(sink, "stop", None)
    if stop is not None:
        stop()


def asked_place(sink: Sink) -> str:
    """Where a frame goes at present: of several outputs the one that has it."""
    asked = getattr(sink, "asked", None)
    return sink.place if asked is None else asked_place(asked)


class SeveralSinks:
    """Hands each frame to every output. The first that asks to stop ends the run.

    Of a live source an output that fails is given up, loudly and once, and the others go on; with
    the last one the run fails. Of a file any failure is the run's: what was asked for is all of it.
    """

    def __init__(self, sinks: Sequence[Sink], live: bool) -> None:
        self.sinks, self.live = list(sinks), live
        self.place = " and ".join(sink.place for sink in sinks)
        self.failed: list[str] = []
        self.asked: Sink | None = None
        self.events = Events()
        for sink in sinks:
            hear(sink, self.events.pass_on)

    def write(self, rainy: Frame, clean: Frame) -> bool:
        return self._each(lambda sink: sink.write(rainy, clean))

    def idle(self) -> bool:
        return self._each(lambda sink: sink.idle())

    def stop(self) -> None:
        for sink in list(self.sinks):
            stop_waiting(sink)

    def close(self, complete: bool = True) -> None:
        self._end(lambda sink: sink.close(complete))

    def discard(self) -> None:
        self._end(lambda sink: sink.discard())

    def _each(self, ask: Callable[[Sink], bool]) -> bool:
        going_on = True
        for sink in list(self.sinks):
            self.asked = sink
            try:
                going_on = ask(sink) and going_on
            except SdpsError as error:
                if not self.live or len(self.sinks) == 1:
                    raise
                self._give_up(sink, error)
        return going_on

    def _give_up(self, sink: Sink, error: SdpsError) -> None:
        self.sinks.remove(sink)
        self.failed.append(error.message)
        self.events.emit("sink", f"{error.message} The other outputs go on.", place=sink.place)
        try:
            sink.close(complete=False)
        except SdpsError as worse:
            self.events.emit("sink", worse.message, place=sink.place)

    def _end(self, end: Callable[[Sink], None]) -> None:
        """Ends every output, even if one fails at it; then that failure is told."""
        failure: SdpsError | None = None
        for sink in self.sinks:
            try:
                end(sink)
            except SdpsError as error:
                failure = failure or error
        if failure:
            raise failure


class LaterSink:
    """An output whose opening waits for the description of the input, which a `Pipeline` brings."""

    def __init__(self, open_it: Callable[[StreamInfo], Sink], place: str) -> None:
        self._open, self.place = open_it, place
        self._sink: Sink | None = None
        self.events = Events()

    def open_for(self, info: StreamInfo) -> None:
        """Opens it. Raises what the output raises."""
        self._sink = self._open(info)
        hear(self._sink, self.events.pass_on)

    @property
    def failed(self) -> list[str]:
        """Why outputs were given up, of several."""
        return self._sink.failed if isinstance(self._sink, SeveralSinks) else []

    @property
    def asked(self) -> Sink | None:
        """The output itself."""
        return self._sink

    def write(self, rainy: Frame, clean: Frame) -> bool:
        assert self._sink is not None, "a Pipeline opens it"
        return self._sink.write(rainy, clean)

    def idle(self) -> bool:
        return self._sink is None or self._sink.idle()

    def stop(self) -> None:
        if self._sink is not None:
            stop_waiting(self._sink)

    def close(self, complete: bool = True) -> None:
        if self._sink is not None:
            self._sink.close(complete)

    def discard(self) -> None:
        if self._sink is not None:
            self._sink.discard()
