"""What the pipeline costs around the engine: `python -m sdps.benchmarks.pipeline`.

Throughput on a file (throughput.py), and latency of a live stream over loopback (glass_to_glass.py).
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sdps.benchmarks.environment import Environment
from sdps.benchmarks.glass_to_glass import measure_latency
from sdps.benchmarks.throughput import Derain, Waiting, measure_throughput
from sdps.core.artifact import write_json
from sdps.core.console import failing_clearly
from sdps.core.spec import Size
from sdps.runtime.derainer import Derainer

GOAL = 0.95
app = typer.Typer(add_completion=False)


@app.command()
@failing_clearly
def main(
    model: Annotated[str, typer.Option(help="As for sdps-run.")] = "sdps-nano",
    provider: Annotated[str, typer.Option(help="As for sdps-run.")] = "auto",
    size: Annotated[str, typer.Option(metavar="HxW", help="Of the frames.")] = "360x640",
    frames: Annotated[int, typer.Option(min=2, help="In the file.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="Of throughput.")] = 6,
    fps: Annotated[float, typer.Option(min=1, help="Of the live source.")] = 25,
    seconds: Annotated[float, typer.Option(min=2, help="Of the live source.")] = 20,
    threads: Annotated[int, typer.Option(min=0, help="For the model; 0 leaves it to the engine.")] = 0,
    wait_ms: Annotated[
        float, typer.Option(min=0, help="No model, but one that takes so long and no core, as on a GPU.")
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="Write everything measured to this JSON file.")] = None,
) -> None:
    """Throughput of a file and latency of a live stream through the whole pipeline."""
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    at = Size.parse(size)
    environment = Environment.capture()
    with contextlib.ExitStack() as stack:
        derain: Derain
        if wait_ms:
            name, derain = f"an engine that takes {wait_ms:g} ms and no core", Waiting(wait_ms)
        else:
            derain = stack.enter_context(Derainer.load(model, provider, threads=threads))
            name = f"{derain.manifest.name} on {derain.backend.name}"
        throughput = measure_throughput(derain, at, frames, rounds, lambda text: console.print(text))
        console.print(f"latency, {seconds:.0f} seconds")
        latency = measure_latency(derain, at, fps, seconds)
    per_frame = 1e-6 * float(np.median(throughput.engine_ns)) / frames
    share = throughput.share
    engine, codecs = (1000 * s / frames for s in (throughput.engine_cpu_s, throughput.copy_cpu_s))
    print(
        f"{name}, {at}: engine alone {per_frame:.1f} ms a frame; the pipeline reaches"
        f" {100 * share.median:.0f} % of its rate ({100 * share.low:.0f} to {100 * share.high:.0f};"
        f" goal {100 * GOAL:.0f}). Decoding and encoding take {codecs:.1f} ms of CPU a frame,"
        f" the engine {engine:.1f}, on {environment.cores} cores."
    )
    if not wait_ms:
        print(
            f"If the engine had every core and shared it with them, {100 * throughput.shared_core:.1f} %"
            " would be left."
        )
    print(
        f"Glass to glass at {latency.fps:g} frames/s: p50 {latency.p50_ms:.0f}, p95 {latency.p95_ms:.0f},"
        f" p99 {latency.p99_ms:.0f} ms; {latency.drawn} drawn, {latency.arrived} arrived,"
        f" {latency.dropped} dropped because the engine was busy, {latency.unread} not readable."
    )
    if out:
        result = {"what": name, "size": str(at), "environment": asdict(environment)}
        write_json(out, result | {"throughput": asdict(throughput), "latency": asdict(latency)})


if __name__ == "__main__":
    app()
