"""sdps-run: rain in, rain out."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from sdps.core.command import Command, new_app
from sdps.core.console import failing_clearly, fill_standard_files, version_printer
from sdps.core.errors import UsageError

app = new_app()


@app.command(cls=Command)
@failing_clearly
def run(
    input: Annotated[
        str | None,
        typer.Option(
            help="A video, a picture, a folder or quoted glob of pictures, rtsp://, http://, csi://0"
            " (Jetson, untested), - (Y4M on stdin), or 'demo'."
        ),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="A camera, by its number or device, e.g. /dev/video0.")
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            help="A video (.mp4 .mov .mkv .webm), a picture, a folder, rtsp:// (push), - (Y4M on stdout),"
            " 'window' (the default) or 'none'. Several may be given."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A bundled name, a graph or engine of sdps-export, or a checkpoint.")
    ] = "sdps-nano",
    provider: Annotated[
        str,
        typer.Option(
            help="auto, openvino, cpu (ONNX Runtime), cuda, tensorrt, torch, or identity (no model)."
        ),
    ] = "auto",
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if that provider does not work here, instead of auto's.")
    ] = False,
    compare: Annotated[
        str, typer.Option(help="Show rainy and derained: off, side (by side) or wipe.")
    ] = "off",
    tile: Annotated[
        int | None, typer.Option(min=8, help="Cut frames into square tiles of so many pixels.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="Pixels over which tiles fade into each other.")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            metavar="frame|tile",
            help="Whose means tiles are restored with: the whole frame's, for models of sdps-export"
            " --tile-means and their default, or each tile's own.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many frames; 1 may go to one picture.")
    ] = None,
    start: Annotated[float, typer.Option(min=0, help="Begin at this second.")] = 0.0,
    duration: Annotated[float | None, typer.Option(min=0.001, help="Stop after so many seconds.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Take one frame of so many.")] = 1,
    width: Annotated[int | None, typer.Option(min=1, help="Ask the camera for this width.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Ask the camera for this height.")] = None,
    fps: Annotated[float | None, typer.Option(min=0.1, help="Ask the camera for this rate.")] = None,
    fourcc: Annotated[str | None, typer.Option(help="Ask the camera for this format, e.g. MJPG.")] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Wait for a stream or camera that is not there yet."),
    ] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Draw rate, latency, model, engine and drops into the picture.")
    ] = False,
    log: Annotated[
        str | None, typer.Option(metavar="FILE", help="Append what happens to this file, as JSON lines.")
    ] = None,
    health: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Rewrite this JSON file every second with the state of the run."),
    ] = None,
    exit: Annotated[
        str | None,
        typer.Option(
            metavar="K|auto",
            help="Of a family of exits (.json): always exit K, or auto, the best in time.",
        ),
    ] = None,
    latency_target: Annotated[
        float | None, typer.Option(metavar="MS", help="With --exit auto: time for a frame. (default: 40)")
    ] = None,
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
    sdps-run --input rtsp://cam/1 --wait --output window --output day.mp4 --overlay
    """
    if (input is None) == (camera is None):
        raise UsageError(
            "Give either --input or --camera.", "For example: sdps-run --input demo, or sdps-run --camera 0"
        )
    from sdps.core.packages import package_advice
    from sdps.runtime.anytime import parse_exit
    from sdps.runtime.derainer import Derainer
    from sdps.runtime.record import HEALTH, LOG, refuse_taken, report_path
    from sdps.runtime.run_view import RunView, judge, sentence
    from sdps.runtime.sinks import open_sink
    from sdps.runtime.sources import open_source

    def say(text: str) -> None:
        if not quiet:
            sys.stderr.write(text + "\n")

    number, target_ms = parse_exit(exit, latency_target)
    outputs = output or [_default_output()]
    if advice := package_advice():
        say(advice)
    uri = input if input is not None else _camera_uri(camera or "")
    reports = {LOG: report_path(LOG, log), HEALTH: report_path(HEALTH, health)}
    refuse_taken(reports, _files(model, outputs))
    with _breaking_off_standard_input() if uri == "-" else contextlib.nullcontext():
        source = open_source(uri, wait, start, duration, every, width, height, fps, fourcc, say=say)

    def load() -> Derainer:
        video = source.info.kind != "pictures"
        return Derainer.load(
            model, provider, tile, overlap, threads, number, target_ms, strict, context, video
        )

    with contextlib.ExitStack() as undo:
        undo.callback(source.close)
        read = source.info.inputs if uri != "-" else [Path("/dev/stdin")]
        refuse_taken(reports, (("the input", path) for path in read))
        derainer = load()
        undo.callback(derainer.close)
        title = f"sdps: {derainer.manifest.name}"
        sink = open_sink(outputs, source.info, compare, title, limit=limit)
        undo.pop_all()
    backend = derainer.backend
    why = "; ".join(part for part in (backend.reason, backend.arithmetic()) if part)
    line = f"{derainer.manifest.name} on {backend.name}" + (f" ({why})" if why else "")
    if provider != "auto" and backend.reason:  # not what was asked for: that is heard in any case
        sys.stderr.write(line + "\n")
    else:
        say(line)
    view = RunView(source, derainer, sink, limit, quiet, load, overlay, reports[LOG], reports[HEALTH])
    summary = view.run()
    for note in source.info.notes:
        say(note)
    say(sentence(summary, sink))
    if exit == "auto":
        say(f"by {view.derainer.usage()}")
    judge(summary, source, limit)


@contextlib.contextmanager
def _breaking_off_standard_input() -> Iterator[None]:
    """Has Ctrl-C and SIGTERM end the process while it waits for the first frame: PyAV swallows what is raised
    in what it reads from. Nothing is being written yet."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.stderr.write("interrupted\n")
        sys.stderr.flush()
        os._exit(128 + number)

    ours = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if ours}
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, leave)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _files(model: str, outputs: list[str]) -> list[tuple[str, Path]]:
    """What the command uses beside its input: what each is, and where."""
    written = [Path("/dev/stdout" if uri == "-" else uri) for uri in outputs if uri not in ("none", "window")]
    files = [("the output", path) for path in written]
    return [*files, ("the model", Path(model))] if Path(model).is_file() else files


def _camera_uri(camera: str) -> str:
    if camera.isdecimal():
        return f"camera://{camera}"
    if re.fullmatch(r"/dev/video\d+|csi://\d+", camera):
        return camera
    raise UsageError(f"{camera!r} is no camera.", "Give its number, /dev/videoN, or csi://N on a Jetson.")


def _default_output() -> str:
    from sdps.runtime.window_sink import has_display

    if not has_display():
        raise UsageError(
            "There is no display to show a window on.", "Give --output FILE, or --output none to measure."
        )
    return "window"


def main() -> None:
    """Console entry point."""
    fill_standard_files()
    try:
        app()
    except SystemExit as end:
        # After an interruption a thread may still be deep in an engine or a driver, and the
        # interpreter's own end would take their libraries away beneath it, which aborts.
        if any(thread.name.startswith("sdps-") for thread in threading.enumerate()):
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError):  # who listened may be gone
                    stream.flush()
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


if __name__ == "__main__":
    main()
