"""How a run looks from the terminal: progress, what happens, the closing line and the verdict."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sdps.core.errors import SdpsError
from sdps.runtime.derainer import Derainer
from sdps.runtime.events import Event
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.record import HealthFile, JsonLog
from sdps.runtime.stream import Sink, Source
from sdps.runtime.summary import Summary, percentile_ms


class RunView:
    """Runs a pipeline under a progress bar, with a log and a health file where they are asked for.

    Source, model and sink are closed at the end, and where it cannot begin.
    """

    def __init__(
        self,
        source: Source,
        derainer: Derainer,
        sink: Sink,
        limit: int | None = None,
        quiet: bool = False,
        reopen: Callable[[], Derainer] | None = None,
        overlay: bool = False,
        log: Path | None = None,
        health: Path | None = None,
    ) -> None:
        self.source, self.sink, self.quiet, self.limit = source, sink, quiet, limit
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.health = health
        self.log: JsonLog | None = None
        try:
            self.log = JsonLog(log) if log else None
            self.pipeline = Pipeline(
                source,
                derainer,
                sink,
                limit=limit,
                overlay=self._lines if overlay else None,
                reopen=reopen,
                closing=True,
            )
        except SdpsError:
            source.close()
            derainer.close()
            sink.discard()
            raise

    @property
    def derainer(self) -> Derainer:
        """The one in use: it may have been opened anew."""
        model = self.pipeline.guard.model
        assert isinstance(model, Derainer)
        return model

    @property
    def model(self) -> str:
        """What restores on what."""
        return f"{self.derainer.manifest.name} on {self.derainer.backend.name}"

    def run(self) -> Summary:
        """Runs to the end. Raises what the pipeline raises."""
        frames, limit = self.source.info.frames, self.limit
        total = min(frames, limit) if frames and limit else frames or limit
        columns = (
            TextColumn("deraining"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[fps]:.1f} frames/s"),
            TimeRemainingColumn(),
        )
        with contextlib.ExitStack() as stack:
            pipeline = stack.enter_context(self.pipeline)
            if self.log:
                stack.callback(self.log.close)
                self.log.write("start", f"{self.model} to {self.sink.place}", **_figures_of(self.source))
                pipeline.events.listen(self.log.event)
            progress = stack.enter_context(
                Progress(*columns, console=self.console, disable=self.quiet, transient=False)
            )
            task = progress.add_task("", total=total, fps=0.0)

            def on_frame(summary: Summary) -> None:
                progress.update(task, completed=summary.written, fps=pipeline.fps_now)

            pipeline.on_frame = on_frame
            pipeline.events.listen(self._say)
            if self.health:
                stack.callback(HealthFile(self.health, pipeline.figures).close)
            text = ""
            try:
                return pipeline.run()
            except SdpsError as error:
                text = error.message
                raise
            finally:
                if self.log:
                    text = text or sentence(pipeline.summary, self.sink)
                    self.log.write("end", text, **pipeline.summary.figures())

    def _say(self, event: Event) -> None:
        if event.loud and not self.quiet:
            style = "bold red" if event.kind in ("sink", "passed", "stale", "lost", "frozen") else "yellow"
            self.console.print(event.text, style=style, markup=False)

    def _lines(self) -> list[str]:
        summary = self.pipeline.summary
        newest = list(summary.latency)[-60:]
        return [
            self.model,
            f"{self.pipeline.fps_now:.1f} frames/s  {percentile_ms(newest, 50):.0f} ms"
            f"  {summary.dropped} dropped",
        ]


def sentence(summary: Summary, sink: Sink) -> str:
    """The closing line: how many, how fast, and what did not go as it should."""
    count = f"{summary.written} frames" if summary.written != 1 else "1 frame"
    parts = [
        f"{count} to {sink.place}",
        f"{summary.fps:.1f} frames/s, model p50 {summary.latency_ms(50):.0f} ms"
        f" p90 {summary.latency_ms(90):.0f} ms"
        + (f" with {summary.in_flight} at a time" if summary.in_flight > 1 else ""),
        "source to sink " + " ".join(f"p{p} {summary.through_ms(p):.0f}" for p in (50, 95, 99)) + " ms",
    ]
    for count_of, text in (
        (summary.dropped, "late frames dropped"),
        (summary.skipped, "unreadable skipped"),
        (summary.reconnects, "attempts to reconnect"),
        (summary.restarts, "restarts of the model"),
    ):
        if count_of:
            parts.append(f"{count_of} {text}")
    if summary.passed:
        reasons = ", ".join(f"{why} {n}" for why, n in summary.passed.most_common())
        parts.append(f"{sum(summary.passed.values())} passed through as they came ({reasons})")
    parts.extend(summary.failed_sinks)
    if not summary.complete:
        parts.append("stopped early")
    return "; ".join(parts)


def judge(summary: Summary, source: Source, limit: int | None) -> None:
    """Raises what makes a run that came to its end a failure all the same.

    Raises:
        typer.Exit: it was interrupted before the first frame, or within a file.
        SdpsError: nothing was written, an input was cut off, a file's frames were not restored, or an
            output was lost.
    """
    if not summary.written and not summary.complete:
        raise typer.Exit(128 + (summary.signal or signal.SIGINT))
    if not summary.written:
        raise SdpsError("Not one frame was written.", "Is the input complete, and longer than --start?")
    to_its_end = summary.complete and (limit is None or summary.written < limit)
    video = source.info.kind == "video" and to_its_end
    missing = getattr(source, "missing", 0.0) if video else 0.0
    if missing:
        raise SdpsError(
            f"The input ended {missing:.1f} s too early, after {summary.written} frames.",
            "It is cut off; the output holds what could be read.",
        )
    # How many frames a file has is often an estimate only, and proves nothing by itself.
    expected = source.info.frames if video and summary.skipped else None
    if expected and summary.written < 0.95 * expected - 2:
        raise SdpsError(
            f"Only {summary.written} of {expected} frames of the input could be read.",
            "It is damaged; the output holds what could be read.",
        )
    if summary.passed and not source.info.live:
        raise SdpsError(
            f"{sum(summary.passed.values())} frames were not restored and stand in the output as they came.",
            "Try another --provider, or sdps-bench on the model.",
        )
    if summary.failed_sinks:
        raise SdpsError(" ".join(summary.failed_sinks), "The other outputs are complete.")
    if (
        summary.signal and not source.info.live
    ):  # a script may be about to delete what was not read to its end
        raise typer.Exit(128 + summary.signal)


def _figures_of(source: Source) -> dict[str, Any]:
    info = source.info
    return {"width": info.width, "height": info.height, "fps": round(float(info.fps), 3), "live": info.live}
