"""sdps-run: rain in, rain out."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from sdps.core.console import failing_clearly, version_printer
from sdps.core.errors import SdpsError, UsageError

if TYPE_CHECKING:
    from sdps.runtime.pipeline import Summary
    from sdps.runtime.stream import Sink, Source

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
@failing_clearly
def run(
    input: Annotated[
        str | None,
        typer.Option(
            help="A video, a picture, a folder or quoted glob of pictures, rtsp://, http://, or 'demo'."
        ),
    ] = None,
    camera: Annotated[int | None, typer.Option(min=0, help="A camera, by its number.")] = None,
    output: Annotated[
        str | None,
        typer.Option(
            help="A video (.mp4 .mov .mkv .webm), a picture, a folder, 'window' (the default) or 'none'."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A bundled name, an ONNX file of sdps-export, or a checkpoint.")
    ] = "sdps-nano",
    provider: Annotated[
        str,
        typer.Option(
            help="auto, openvino, cpu (ONNX Runtime), cuda, tensorrt, torch, or identity (no model)."
        ),
    ] = "auto",
    compare: Annotated[
        str, typer.Option(help="Show rainy and derained: off, side (by side) or wipe.")
    ] = "off",
    tile: Annotated[
        int | None, typer.Option(min=8, help="Cut frames into square tiles of so many pixels.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="Pixels over which tiles fade into each other.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads for the model; 0 leaves it to the engine.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=version_printer("sdps-run"), is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Remove rain from a camera, a video or pictures.

    \b
    sdps-run --camera 0
    sdps-run --input rain.mp4 --output clean.mp4
    sdps-run --input photos/ --output clean/ --compare side
    """
    if (input is None) == (camera is None):
        raise UsageError(
            "Give either --input or --camera.", "For example: sdps-run --input demo, or sdps-run --camera 0"
        )
    from sdps.runtime.backends import package_advice
    from sdps.runtime.derainer import Derainer
    from sdps.runtime.sinks import open_sink
    from sdps.runtime.sources import open_camera, open_source

    def say(text: str) -> None:
        if not quiet:
            sys.stderr.write(text + "\n")

    output = output or _default_output()
    if advice := package_advice():
        say(advice)
    source = open_source(input) if input is not None else open_camera(camera or 0)
    try:
        derainer = Derainer.load(model, provider, tile, overlap, threads)
        sink = open_sink(output, source.info, compare, title=f"sdps: {derainer.manifest.name}")
    except SdpsError:
        source.close()
        raise
    backend = derainer.backend
    say(f"{derainer.manifest.name} on {backend.name}" + (f" ({backend.reason})" if backend.reason else ""))
    with derainer:
        summary = _watch(source, derainer, sink, limit, quiet)
    for note in source.info.notes:
        say(note)
    say(_sentence(summary, sink))
    if not summary.written and not summary.complete:
        raise typer.Exit(130)
    if not summary.written:
        raise SdpsError("Not one frame was written.", "Is the input complete?")
    expected = (
        source.info.frames if source.info.kind == "video" and limit is None and summary.complete else None
    )
    if expected and summary.written < 0.95 * expected - 2:
        raise SdpsError(
            f"The input ended after {summary.written} of {expected} frames.",
            "It is damaged or cut off; the output holds what could be read.",
        )


def _default_output() -> str:
    from sdps.runtime.window_sink import has_display

    if not has_display():
        raise UsageError(
            "There is no display to show a window on.", "Give --output FILE, or --output none to measure."
        )
    return "window"


def _watch(source: Source, derainer: object, sink: Sink, limit: int | None, quiet: bool) -> Summary:
    """Runs the pipeline under a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sdps.runtime.pipeline import Pipeline

    frames = source.info.frames
    total = min(frames, limit) if frames and limit else frames or limit
    columns = (
        TextColumn("deraining"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fps]:.1f} frames/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task("", total=total, fps=0.0)

        def on_frame(summary: Summary) -> None:
            elapsed = progress.tasks[task].elapsed or 0
            progress.update(
                task, completed=summary.written, fps=summary.written / elapsed if elapsed else 0.0
            )

        return Pipeline(source, derainer, sink, on_frame, limit).run()  # type: ignore[arg-type]


def _sentence(summary: Summary, sink: Sink) -> str:
    parts = [
        f"{summary.written} frames to {sink.place}" if summary.written != 1 else f"1 frame to {sink.place}"
    ]
    parts.append(
        f"{summary.fps:.1f} frames/s, model p50 {summary.latency_ms(50):.0f} ms"
        f" p90 {summary.latency_ms(90):.0f} ms"
    )
    if summary.dropped:
        parts.append(f"{summary.dropped} late frames dropped")
    if summary.skipped:
        parts.append(f"{summary.skipped} unreadable skipped")
    if not summary.complete:
        parts.append("stopped early")
    return "; ".join(parts)


def main() -> None:
    """Console entry point."""
    try:
        app()
    except SystemExit as end:
        # After an interruption a thread may still be deep in an engine or a driver, and the
        # interpreter's own end would take their libraries away beneath it, which aborts.
        if any(thread.name.startswith("sdps-") for thread in threading.enumerate()):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
