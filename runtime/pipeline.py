"""Source to derainer to sink, each in a thread of its own, with short queues between.

A file loses no frame: a full queue makes the reader wait. Of a live source only the newest frame
counts: a full queue drops its oldest, and the drops are counted.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np

from sdps.core.frame import Frame, Image
from sdps.runtime.stream import Sink, Source

THREADS = "sdps-"
"""How the names of the pipeline's threads begin."""
DEPTH = 4
"""Frames that may wait between two threads."""


@dataclass
class Summary:
    """What a run did. Times in seconds."""

    read: int = 0
    written: int = 0
    dropped: int = 0
    skipped: int = 0
    seconds: float = 0.0
    complete: bool = True
    inference: list[float] = field(default_factory=list)

    @property
    def fps(self) -> float:
        """Frames written per second, all included."""
        return self.written / self.seconds if self.seconds else 0.0

    def latency_ms(self, percent: float) -> float:
        """A percentile of the time in the network per frame, in milliseconds; 0 without frames."""
        return 1000 * float(np.percentile(self.inference, percent)) if self.inference else 0.0


class Pipeline:
    """Runs frames of a source through a derainer into a sink.

    Args:
        source, sink: See `open_source` and `open_sink`; both are closed at the end.
        derain: (H, W, 3) uint8 RGB to the same, a `Derainer` for example. Called from one thread.
        on_frame: Called after each written frame with the running summary, from the main thread.
        limit: Stop after so many frames.
    """

    def __init__(
        self,
        source: Source,
        derain: Callable[[Image], Image],
        sink: Sink,
        on_frame: Callable[[Summary], None] | None = None,
        limit: int | None = None,
    ) -> None:
        self.source, self.derain, self.sink = source, derain, sink
        self.on_frame, self.limit = on_frame, limit
        self.summary = Summary()
        self.stopping = threading.Event()
        self.read_queue: queue.Queue[Any] = queue.Queue(1 if source.info.live else DEPTH)
        self.done_queue: queue.Queue[Any] = queue.Queue(DEPTH)

    def stop(self) -> None:
        """Ends the run after the frame at hand; may be called from any thread or a callback."""
        self.stopping.set()

    def run(self) -> Summary:
        """Runs to the end of the source, to the limit, to `stop`, Ctrl-C or SIGTERM.

        Returns:
            What was done; `complete` is False if it was stopped before the source's end, in which
            case the output ends with the last frame and is playable.

        Raises:
            SdpsError: reading, restoring or writing failed; the output is discarded, except what
                was recorded of a live source.
        """
        stages = ((self._read, self.read_queue), (self._infer, self.done_queue))
        workers = [
            threading.Thread(target=self._guard, args=stage, name=THREADS + stage[0].__name__, daemon=True)
            for stage in stages
        ]
        begin = time.monotonic()
        before = self._catch_signals()
        failed, whole = False, False
        try:
            for worker in workers:
                worker.start()
            whole = self._write()
        except KeyboardInterrupt:
            self.summary.complete = False
        except BaseException:
            failed = True
            raise
        finally:
            self.stopping.set()
            self.summary.seconds = time.monotonic() - begin
            self.summary.skipped = self.source.skipped
            self._drain()
            for worker in workers:
                worker.join(timeout=3)
            if not workers[0].is_alive():  # one that hangs in a read must not lose its file beneath it
                self.source.close()
            # Half a film looks like a whole one, so it goes; of a camera every second counts.
            if failed and not self.source.info.live:
                self.sink.discard()
            else:
                self.sink.close(whole)
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.summary

    def _read(self) -> None:
        live = self.source.info.live
        for frame in self.source:
            if self.stopping.is_set():
                return
            self.summary.read += 1
            if live:
                self._offer_newest(frame)
            elif not self._put(self.read_queue, frame):
                return
            if self.limit is not None and self.summary.read >= self.limit and not live:
                return

    def _offer_newest(self, frame: Frame) -> None:
        while True:
            try:
                self.read_queue.put_nowait(frame)
                return
            except queue.Full:
                try:
                    self.read_queue.get_nowait()
                    self.summary.dropped += 1
                except queue.Empty:
                    continue

    def _infer(self) -> None:
        while (frame := self._get(self.read_queue)) is not None:
            if isinstance(frame, BaseException):
                raise frame
            begin = time.perf_counter()
            clean = frame.with_image(self.derain(frame.image))
            self.summary.inference.append(time.perf_counter() - begin)
            if not self._put(self.done_queue, (frame, clean)):
                return

    def _write(self) -> bool:
        """Writes until the end (True), or until something stopped it (False)."""
        while (item := self._get(self.done_queue, self.sink.idle)) is not None:
            if isinstance(item, BaseException):
                raise item
            going_on = self.sink.write(*item)
            self.summary.written += 1
            if self.on_frame:
                self.on_frame(self.summary)
            if not going_on:
                self.summary.complete = False
                return False
            if self.limit is not None and self.summary.written >= self.limit:
                return False
        if self.stopping.is_set():
            self.summary.complete = False
            return False
        return True

    def _guard(self, work: Callable[[], None], out: queue.Queue[Any]) -> None:
        """Runs a thread's work; its end (None) or its failure goes down the line."""
        try:
            work()
            self._put(out, None)
        except BaseException as error:
            self._put(out, error)

    def _put(self, target: queue.Queue[Any], item: Any) -> bool:
        while not self.stopping.is_set():
            try:
                target.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _get(self, origin: queue.Queue[Any], idle: Callable[[], bool] | None = None) -> Any:
        while not self.stopping.is_set():
            try:
                return origin.get(timeout=0.1)
            except queue.Empty:
                if idle and not idle():
                    self.stop()
        return None

    def _drain(self) -> None:
        for waiting in (self.read_queue, self.done_queue):
            while not waiting.empty():
                waiting.get_nowait()

    def _catch_signals(self) -> dict[int, Any]:
        """SIGTERM and SIGINT end the run as `stop` does, so that a frame is never half written."""
        if threading.current_thread() is not threading.main_thread():
            return {}

        def ask(number: int, frame: FrameType | None) -> None:
            if self.stopping.is_set():  # asked twice: at once
                raise KeyboardInterrupt
            self.summary.complete = False
            self.stopping.set()

        return {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
