"""Source to derainer to sink, each in a thread of its own, with short queues between.

A file loses no frame: a full queue makes the reader wait. Of a live source only the newest frame
counts: a full queue drops its oldest, and the drops are counted.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sdps.core.errors import FrameError
from sdps.core.frame import Frame, Image, check_image
from sdps.runtime.events import Events, Listener, hear
from sdps.runtime.guard import Guard, Started
from sdps.runtime.handover import drain, get, offer_newest, put
from sdps.runtime.interruption import Interruption
from sdps.runtime.output_watch import OutputWatch
from sdps.runtime.overlay import mark_stale, write_lines
from sdps.runtime.several_sinks import LaterSink, stop_waiting
from sdps.runtime.stream import Sink, Source
from sdps.runtime.summary import Summary

__all__ = ["Pipeline", "Summary"]
THREADS = "sdps-"
"""How the names of the pipeline's threads begin."""
DEPTH, WAITING = 4, 300_000_000
"""Frames that may wait between two threads, and bytes that the waiting ones may take: of 4K pictures
there are four, of 8K ones a single one."""
END = 1.0
"""Seconds that threads get to end in, together; finishing the file needs its time as well."""
LATE = 0.5
"""Seconds that a live source gets to give its last frame in, where it was asked for so many seconds."""
STALE_EVERY = 1.0
"""Seconds between two marked copies of the last picture while the source is silent."""


class Pipeline:
    """Runs frames of a source through a derainer into a sink.

    >>> with Pipeline(open_source("rtsp://cam/1"), Derainer.load(), open_sink("window")) as pipeline:
    ...     summary = pipeline.run()

    Args:
        source, sink: See `open_source` and `open_sink`; both are closed at the end.
        derain: (H, W, 3) uint8 RGB to the same, a `Derainer` for example. Called from one thread.
        on_frame: Called after each written frame with the running summary, from the thread of `run`.
        limit: Stop after so many frames.
        on_event: Called with each `Event` (lost, stale, recovered, passed, ...), from any thread.
        overlay: Texts for the lines to be drawn into every frame, asked once per frame.
        reopen: Opens the model anew after it hung or failed repeatedly on a live source; the one before
            is closed, and what was opened so at the end.
        patience: Seconds after which the model counts as hung on a frame of a live source.
        closing: Close the model that was given at the end as well, unless it hangs.
    """

    def __init__(
        self,
        source: Source,
        derain: Callable[[Image], Image],
        sink: Sink,
        on_frame: Callable[[Summary], None] | None = None,
        limit: int | None = None,
        on_event: Listener | None = None,
        overlay: Callable[[], list[str]] | None = None,
        reopen: Callable[[], Callable[[Image], Image]] | None = None,
        patience: float = 3.0,
        closing: bool = False,
    ) -> None:
        self.source, self.sink = source, sink
        self.on_frame, self.limit, self.overlay = on_frame, limit, overlay
        self.summary = Summary()
        self.events = Events()
        self.stopping = threading.Event()
        self.live = source.info.live
        depth = 1 if self.live else waiting_frames(source.info.width, source.info.height)
        self.read_queue: queue.Queue[Any] = queue.Queue(depth)
        self.done_queue: queue.Queue[Any] = queue.Queue(depth)
        several = source.info.frames != 1  # a single picture has the whole machine
        self.guard = Guard(derain, self.live, self.events, patience, reopen, several, closing)
        self.watch = OutputWatch(sink, self.events)
        self._last: tuple[Frame, Frame] | None = None
        self._first_at: float | None = None
        self._marked_at = 0.0
        self._written_at: deque[float] = deque(maxlen=60)
        self._unreadable = 0
        self._closed = self._failed = self._over = False
        if on_event:
            self.events.listen(on_event)
        if isinstance(sink, LaterSink):
            sink.open_for(source.info)
        for part in (source, sink):
            hear(part, self._pass_on)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends a run that is going on elsewhere, and frees what `run` did not."""
        self.stop()
        if not self._closed:
            self._closed = True
            self.source.close()
            self.guard.close()
            self.sink.discard()

    def stop(self) -> None:
        """Ends the run after the frame at hand; may be called from any thread or a callback."""
        self.stopping.set()
        stop_waiting(self.sink)

    def run(self) -> Summary:
        """Runs to the end of the source, to the limit, to `stop`, Ctrl-C, SIGTERM or SIGHUP.

        Returns:
            What was done; `complete` is False if it was stopped before the source's end, in which
            case the output ends with the last frame and is playable.

        Raises:
            SdpsError: reading, restoring or writing failed; the output is discarded, except what
                was recorded of a live source.
            KeyboardInterrupt: it was asked to stop three times, and of a file the output is discarded.
        """
        stages = ((self._read, self.read_queue), (self._infer, self.done_queue))
        workers = [
            threading.Thread(target=self._guard, args=stage, name=THREADS + stage[0].__name__, daemon=True)
            for stage in stages
        ]
        if self.live:
            workers.append(
                threading.Thread(
                    target=self.watch.watch, args=(self.stopping,), name=THREADS + "watch", daemon=True
                )
            )
        begin = self._begun = time.monotonic()
        failed, whole = False, False
        with Interruption(self._interrupt, lambda: (self.watch.busy and not self._closed, self.watch.hung)):
            try:
                for worker in workers:
                    worker.start()
                whole = self._write()
            except KeyboardInterrupt:
                self.summary.complete = False
            except BaseException:
                failed, self.summary.complete = True, False
                raise
            finally:
                self._closed, self._failed = True, failed
                self.stopping.set()
                self.summary.seconds = time.monotonic() - begin
                self._end(workers, whole)
        return self.summary

    def _end(self, workers: list[threading.Thread], whole: bool) -> None:
        """Frees everything and finishes the output."""
        try:
            drain(self.read_queue, self.done_queue)
            if self.live:  # wakes its reader; a file must not be taken away beneath its decoder
                self.source.close()
            deadline = time.monotonic() + END
            for worker in workers:
                worker.join(timeout=max(0.05, deadline - time.monotonic()))
            if not self.live and not workers[0].is_alive():
                self.source.close()
            if self.live or not workers[1].is_alive():  # nor a model
                self.guard.close()
            self._gather()
            # Half a film looks like a whole one, so it goes; of a camera every second counts.
            if self._failed and not self.live:
                self.sink.discard()
            else:
                self.sink.close(whole)
        except KeyboardInterrupt:
            self.summary.complete = False
            if not self.live:
                self.sink.discard()
            raise

    def _interrupt(self, number: int) -> None:
        """Ends the run as `stop` does, so that a frame is never half written."""
        if not self._closed:  # else it is ending already, and is only not to be broken off
            self.summary.complete, self.summary.signal = False, number
            self.stop()

    def figures(self) -> dict[str, Any]:
        """The state of a run for a health file; may be asked from any thread."""
        self._gather()
        state = getattr(self.source, "state", "live" if self.live else "reading")
        if self.stopping.is_set():
            state = "failed" if self._failed else "ended"
        elif self.live and self.watch.hung:
            state = "output-hung"
        elif state == "live" and self.guard.trouble:
            state = f"model-{self.guard.trouble}"
        newest = self._written_at[-1] if self._written_at else None
        age = None if newest is None else round(time.monotonic() - newest, 3)
        return {
            "state": state,
            "healthy": state in ("live", "reading", "model-warming", "ended"),
            "fps_now": round(self.fps_now, 2),
            "last_frame_age_s": age,
            "source_silent_s": round(getattr(self.source, "silence", age or 0.0), 3),
            **self.summary.figures(),
        }

    @property
    def fps_now(self) -> float:
        """Frames written per second, of the last sixty."""
        times = list(self._written_at)
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0

    def _read(self) -> None:
        shape: tuple[int, ...] | None = None
        for frame in self.source:
            if self.stopping.is_set():
                return
            self.summary.read += 1
            try:
                frame = replace(
                    frame, image=check_image(frame.image), arrived=frame.arrived or time.monotonic()
                )
            except FrameError as error:
                self._unreadable += 1
                self.events.emit("unreadable", f"a frame was no picture: {error.message}", loud=False)
                continue
            if shape not in (None, frame.image.shape) and self.source.info.kind != "pictures":
                (height, width), (h, w) = shape[:2], frame.image.shape[:2]
                self.events.emit("resized", f"the picture changed from {width}x{height} to {w}x{h}")
            shape = frame.image.shape
            if self.live:
                self.summary.dropped += offer_newest(self.read_queue, frame)
            elif not put(self.read_queue, frame, self.stopping):
                return
            if self.limit is not None and self.summary.read >= self.limit and not self.live:
                return

    def _infer(self) -> None:
        # A file's next frame is begun before the one before it is waited for, where the model can. But
        # nobody waits for a slow reader with a frame in hand.
        begun: deque[tuple[Frame, Started]] = deque()
        ended = False
        while begun or not ended:
            if begun and (
                ended or len(begun) >= self.guard.depth or begun[0][1].ready or self.read_queue.empty()
            ):
                if not self._finish(*begun.popleft()):
                    return
                continue
            frame = get(self.read_queue, self.stopping)
            if isinstance(frame, BaseException):
                raise frame
            if frame is None:
                ended = True
            else:
                begun.append((frame, self.guard.begin(frame.image)))
                self.summary.in_flight = max(self.summary.in_flight, self.guard.in_flight)

    def _finish(self, frame: Frame, started: Started) -> bool:
        result = self.guard.finish(started)
        self.summary.inference.append(result.seconds)
        return put(self.done_queue, (frame, frame.with_image(result.image)), self.stopping)

    def _write(self) -> bool:
        """Writes until the end (True), or until something stopped it (False)."""
        while (item := get(self.done_queue, self.stopping, self._idle)) is not None:
            if isinstance(item, BaseException):
                raise item
            rainy, clean = item
            self._last = (rainy, clean)
            if self._first_at is None:
                self._first_at = clean.arrived
            drawn = self._drawn_on(rainy, clean)
            with self.watch:
                going_on = self.sink.write(*drawn)
            now = time.monotonic()
            self.summary.latency.append(now - clean.arrived)
            self._written_at.append(now)
            self.summary.written += 1
            self.summary.seconds = now - self._begun
            if self.on_frame:
                self.on_frame(self.summary)
            if not going_on:
                self.summary.complete = False
                return False
            if self.limit is not None and self.summary.written >= self.limit:
                return False
        if self.stopping.is_set() and not self._over:
            self.summary.complete = False
            return False
        return True

    def _drawn_on(self, rainy: Frame, clean: Frame) -> tuple[Frame, Frame]:
        """With the overlay on both, because a wipe shows the left part of the rainy one, where it stands."""
        lines = self.overlay() if self.overlay else []
        if not lines:
            return rainy, clean
        return (
            rainy.with_image(write_lines(rainy.image, lines)),
            clean.with_image(write_lines(clean.image, lines)),
        )

    def _idle(self) -> None:
        """What there is to do while no frame is ready."""
        if self._is_over():
            self._over = True
            self.stopping.set()
            return
        with self.watch:
            going_on = self._mark_stale() and self.sink.idle()
        if not going_on:
            self.stop()

    def _is_over(self) -> bool:
        """Whether the time that was asked for is over: a live source that was lost gives no frame to tell."""
        asked = self.source.info.duration
        if not self.live or math.isinf(asked):
            return False
        begin = self._begun + self.source.info.offset if self._first_at is None else self._first_at
        return time.monotonic() - begin > asked + LATE

    def _mark_stale(self) -> bool:
        """Shows the last picture again, marked, once a second while the source is silent."""
        now = time.monotonic()
        if self._last and getattr(self.source, "is_stale", False) and now - self._marked_at >= STALE_EVERY:
            self._marked_at = now
            rainy, clean = self._last
            age = now - clean.arrived
            # Both, because a comparison shows parts of both.
            rainy, clean = (
                replace(frame, image=mark_stale(frame.image, age), stale=True, time=frame.time + age)
                for frame in (rainy, clean)
            )
            return self.sink.write(rainy, clean)
        return True

    def _pass_on(self, event: Any) -> None:
        if event.kind == "stale":
            self.summary.stale += 1
        self.events.pass_on(event)

    def _gather(self) -> None:
        """Takes over what the parts counted themselves."""
        self.summary.skipped = self.source.skipped + self._unreadable
        self.summary.passed = self.guard.passed
        self.summary.restarts = self.guard.restarts
        self.summary.reconnects = getattr(self.source, "reconnects", 0)
        self.summary.recoveries = list(getattr(self.source, "recoveries", []))
        self.summary.failed_sinks = list(getattr(self.sink, "failed", []))

    def _guard(self, work: Callable[[], None], out: queue.Queue[Any]) -> None:
        """Runs a thread's work; its end (None) or its failure goes down the line."""
        try:
            work()
            put(out, None, self.stopping)
        except BaseException as error:
            put(out, error, self.stopping)


def waiting_frames(width: int, height: int) -> int:
    """How many frames of a file may wait before the model, and as many after it with their rainy ones."""
    return max(1, min(DEPTH, WAITING // (3 * 3 * width * height)))
