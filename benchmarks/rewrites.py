"""What each exact rewrite is worth, per engine: `python -m sdps.benchmarks.rewrites`.

The plain graph, the rewritten one, and the rewritten one without each rewrite in turn run in processes
of their own, which take turns; compared are the medians of per-round ratios (`timing.versus`) of the CPU
time that a process spends on a picture (on a machine that others use too it is steadier than the clock),
and the most memory that it ever held. Needs Linux.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import typer

from sdps.benchmarks.timing import Ratio, interleave, summarise, versus
from sdps.core.artifact import write_json
from sdps.core.console import failing_clearly
from sdps.core.spec import Size

PLAIN, ALL = "plain", "all"
WARMUP = 1
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Variant:
    """One graph on one engine.

    Attributes:
        engine, graph: 'openvino' or 'cpu' (ONNX Runtime); 'plain', 'all', or 'all but NAME'.
        p50_ms, cpu_p50_ms: Median duration of a picture by the clock, and in CPU time of all threads.
        speed: How many times less CPU time than the plain graph on this engine, with a 95 % interval.
        peak_mib: Most memory that its process held, interpreter and engine included.
        samples_ns, cpu_ns: Every duration, and its CPU time.
    """

    engine: str
    graph: str
    p50_ms: float
    cpu_p50_ms: float
    speed: Ratio
    peak_mib: float
    samples_ns: tuple[int, ...]
    cpu_ns: tuple[int, ...]


class Runner:
    """A graph on an engine, in a process of its own."""

    def __init__(self, path: Path, engine: str, size: Size, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")  # a forked engine would share its thread pool
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(
            target=_serve, args=(theirs, str(path), engine, size, threads), daemon=True
        )
        self.process.start()
        theirs.close()
        self.cpu_ns: list[int] = []  # of each call
        self.pipe.recv()

    def __call__(self) -> None:
        self.pipe.send("run")
        self.cpu_ns.append(self.pipe.recv())

    def close(self) -> float:
        """Ends the process; returns the most memory it held, in MiB."""
        self.pipe.send("end")
        peak = float(self.pipe.recv())
        self.process.join()
        return peak


def _serve(pipe: Connection, path: str, engine: str, size: Size, threads: int) -> None:
    """The process's side: restores one picture each time it is told to."""
    import time

    import numpy as np

    from sdps.runtime.backends import open_backend

    backend = open_backend(path, engine, threads)
    picture = np.random.default_rng(0).integers(0, 256, (1, size.height, size.width, 3), dtype=np.uint8)
    pipe.send("ready")
    while pipe.recv() == "run":
        start = time.process_time_ns()
        backend.run(picture)
        pipe.send(time.process_time_ns() - start)
    # Not getrusage: its maximum begins with that of the process that this one was forked from.
    status = Path("/proc/self/status").read_text()
    pipe.send(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def make_graphs(weights: str, size: Size, folder: Path, each: bool) -> dict[str, Path]:
    """The plain graph, the rewritten one, and with `each` the ones that lack one rewrite."""
    import onnx
    import onnx_ir as ir
    import torch

    from sdps.benchmarks.contenders import describe_network
    from sdps.export.onnx_export import export_graph
    from sdps.export.rewrite import REWRITES, rewrite
    from sdps.model import SDPSFNet, load_checkpoint
    from sdps.model.zoo import find_weights

    torch.manual_seed(0)
    network = SDPSFNet().eval() if weights == "random" else load_checkpoint(find_weights(weights))
    manifest = describe_network(network, weights, "0" * 64)
    fixed = {**vars(manifest), "size": str(size)}
    plain = export_graph(network, type(manifest)(**fixed), rewrites=())
    sets = {PLAIN: (), ALL: tuple(REWRITES)}
    if each:
        sets |= {f"all but {name}": tuple(n for n in REWRITES if n != name) for name in REWRITES}
    paths = {}
    for label, names in sets.items():
        model = ir.from_proto(plain)
        rewrite(model, names)
        paths[label] = folder / f"{label}.onnx"
        onnx.save(ir.to_proto(model), paths[label])
    return paths


def measure(
    paths: dict[str, Path], engine: str, size: Size, threads: int, rounds: int | None, budget_s: float
) -> list[Variant]:
    """Times the graphs on one engine, in turns."""
    with ExitStack() as stack:
        runners = {name: Runner(path, engine, size, threads) for name, path in paths.items()}
        for runner in runners.values():
            stack.callback(runner.process.kill)
        samples = interleave(runners, rounds=rounds, budget_s=None if rounds else budget_s, warmup=WARMUP)
        cpu = {name: tuple(runner.cpu_ns[WARMUP:]) for name, runner in runners.items()}
        return [
            Variant(
                engine,
                name,
                summarise(samples[name]).p50_ms,
                summarise(cpu[name]).p50_ms,
                versus(cpu[PLAIN], cpu[name]),
                runner.close(),
                samples[name],
                cpu[name],
            )
            for name, runner in runners.items()
        ]


def table(variants: Sequence[Variant]) -> str:
    """As Markdown."""
    lines = [
        "| engine | graph | CPU ms | clock ms | times as fast as plain | peak MiB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for v in variants:
        speed = f"{v.speed.median:.3f} ({v.speed.low:.3f} to {v.speed.high:.3f})"
        lines.append(
            f"| {v.engine} | {v.graph} | {v.cpu_p50_ms:.1f} | {v.p50_ms:.1f} | {speed} | {v.peak_mib:.0f} |"
        )
    return "\n".join(lines)


@app.command()
@failing_clearly
def main(
    weights: Annotated[
        str, typer.Argument(help="A checkpoint, a bundled name, or 'random' for the paper's full network.")
    ] = "sdps-nano",
    size: Annotated[str, typer.Option(metavar="HxW", help="The picture's size.")] = "360x640",
    engines: Annotated[str, typer.Option(help="Engines, with commas.")] = "cpu,openvino",
    each: Annotated[bool, typer.Option("--each", help="Also without each rewrite in turn.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds. (default: as the budget allows)")] = None,
    budget: Annotated[float, typer.Option(min=1, metavar="S", help="Seconds for each engine.")] = 60,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to the engine.")] = 1,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Raw samples as JSON.")] = None,
) -> None:
    """Measure what the exporter's exact rewrites are worth on this machine's engines."""
    from sdps.benchmarks.environment import Environment

    picture = Size.parse(size)
    found: list[Variant] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = make_graphs(weights, picture, Path(folder), each)
        for engine in engines.split(","):
            found += measure(paths, engine, picture, threads, rounds, budget)
    sys.stdout.write(table(found) + "\n")
    if out:
        record: dict[str, Any] = {"weights": weights, "size": str(picture), "threads": threads}
        record |= {"environment": asdict(Environment.capture()), "variants": [asdict(v) for v in found]}
        write_json(out, record)


if __name__ == "__main__":
    app()
