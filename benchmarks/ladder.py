"""`python -m sdps.benchmarks.ladder`: what each rung of the paper's ablation costs, and brought there.

Parameters and multiply-accumulates of every preset at 256x256, counted as `macs.py` says, beside the
PSNR that the paper reports for RealRain-1k-L; with `--latency` also how long each takes here. How the
rungs below the last are built is our reading (`model/ablations.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from sdps.benchmarks.macs import stage_costs
from sdps.benchmarks.timing import MIN_ROUNDS, Latency, Ratio, interleave, summarise, versus
from sdps.core.artifact import write_json
from sdps.core.console import failing_clearly
from sdps.core.errors import UsageError
from sdps.core.spec import Size
from sdps.model.presets import LADDER, NETWORKS, STAGES
from sdps.model.psfnet import SDPSFNet, SDPSFNetConfig

SIZE = Size(256, 256)
FULL = "psf40"
"""The paper's network, which the others' speed is compared with."""
WIDE = 120
"""Characters of the table where it goes into a file."""
BUNDLED = ("nano", "small")
ADDS = {
    "mprnet": "MPRNet (baseline)",
    "gates": "+ gates",
    "hierarchical": "+ hierarchical update",
    "csff": "+ enhanced CSFF",
    "psf1": "+ 1-channel PSF",
    "psf40": "+ 40-channel PSF",
}
PAPER_PSNR = {
    **{"mprnet": 37.24, "gates": 38.65, "hierarchical": 40.41, "csff": 41.41, "psf1": 41.63, "psf40": 42.28},
    **{"tau0": 40.81, "tau3": 41.54},
}
"""dB on RealRain-1k-L as the paper's tables 4 (2000 epochs) and 5 (1000 epochs) have it, by the public
notes on papernotes.org (AAAI 2026); those leave tau 1 and 2 out."""


@dataclass(frozen=True)
class Rung:
    """One preset.

    Attributes:
        name: Of the preset, as `sdps-train --preset` takes it.
        label: What it adds to the rung below, or what it is.
        parameters: Count, aliases once.
        macs: Multiply-accumulates at 256x256.
        paper_psnr: The paper's, dB on RealRain-1k-L; None where it is not known.
    """

    name: str
    label: str
    parameters: int
    macs: int
    paper_psnr: float | None


@dataclass(frozen=True)
class Pace:
    """How long a preset's FP32 graph takes for one picture of 256x256.

    Attributes:
        latency: Of its samples.
        speed: How many times as fast as the paper's network, of the same rounds.
        samples_ns: Every duration.
    """

    latency: Latency
    speed: Ratio
    samples_ns: tuple[int, ...]


NAMES = (*LADDER, *STAGES, *BUNDLED)
"""The ladder, the numbers of stages, and the bundled networks."""


def rungs(names: Sequence[str] = NAMES) -> Iterator[Rung]:
    """The costs of some presets, in the order given; about a second each."""
    for name in names:
        yield _count(name, ADDS.get(name) or _shape(NETWORKS[name]), NETWORKS[name])


def _count(name: str, label: str, config: SDPSFNetConfig) -> Rung:
    with torch.device("meta"):  # shapes are enough
        costs = stage_costs(SDPSFNet(config), SIZE)
    parameters, macs = sum(cost.parameters for cost in costs), sum(cost.macs for cost in costs)
    return Rung(name, label, parameters, macs, PAPER_PSNR.get(name))


def paces(
    names: Sequence[str] = NAMES,
    provider: str = "auto",
    threads: int = 0,
    rounds: int = 10,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Pace]:
    """Exports presets with weights at random (speed does not depend on them) and times their graphs in turns.

    Args:
        names: Presets; the paper's network, which the others are compared with, is measured in any case.
        provider: The runtime's provider.
        threads: CPU threads; 0 leaves it to the engine.
        rounds: Samples of each.
        say: Told what is going on, which takes long.

    Raises:
        UsageError: there is no such provider here.
    """
    import numpy as np
    import onnx

    from sdps.benchmarks.contenders import describe_network
    from sdps.export.onnx_export import export_graph
    from sdps.runtime.backends import open_backend

    if provider == "identity":
        raise UsageError("--provider identity runs no graph.", "Take auto, openvino, cpu, cuda or tensorrt.")
    open_backend(provider=provider, threads=threads).close()  # a wrong one is refused at once
    picture = np.random.default_rng(0).integers(0, 256, (1, SIZE.height, SIZE.width, 3), dtype=np.uint8)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        calls: dict[str, Callable[[], object]] = {}
        for name in dict.fromkeys((FULL, *names)):
            torch.manual_seed(0)
            network, path = SDPSFNet(NETWORKS[name]).eval(), folder / f"{name}.onnx"
            manifest = replace(describe_network(network, name, "0" * 64), size=str(SIZE))
            onnx.save(export_graph(network, manifest), path)
            backend = open_backend(path, provider, threads)
            stack.callback(backend.close)
            calls[name] = lambda backend=backend: backend.run(picture)  # type: ignore[misc]
            say(f"{name} on {backend.name}")
        samples = interleave(calls, rounds=rounds, on_round=lambda done: say(f"round {done} of {rounds}"))
    full = samples[FULL]
    return {name: Pace(summarise(mine), versus(full, mine), mine) for name, mine in samples.items()}


def _shape(config: SDPSFNetConfig) -> str:
    return f"tau={config.tau}, F={config.features}, S={config.scale_unet}, R={config.scale_orb}"


app = typer.Typer(add_completion=False)


@app.command()
@failing_clearly
def main(
    latency: Annotated[
        bool, typer.Option("--latency", help="Export each preset and time its graph, in turns.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=MIN_ROUNDS, help="Of --latency: samples of each.")] = 10,
    provider: Annotated[
        str, typer.Option(metavar="NAME", help="Of --latency: auto, openvino, cpu, cuda, tensorrt.")
    ] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to the engine.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of --latency: raw samples as JSON.")
    ] = None,
) -> None:
    """Parameters, multiply-accumulates and, if asked for, latency of every preset."""
    from rich.console import Console
    from rich.table import Table

    if out and not latency:
        raise UsageError("--out keeps the samples of --latency.", "Give both.")
    if out and not out.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {out.absolute().parent}.", "Make it, or choose another --out.")
    say = Console(stderr=True).print
    measured = paces(NAMES, provider, threads, rounds, say) if latency else {}
    table = Table(title=f"Presets at {SIZE}, and the paper's PSNR on RealRain-1k-L")
    columns = ["preset", "network", "parameters", "GMACs", "paper, dB"]
    for column in columns + (["p50, ms", f"speed to {FULL}"] if latency else []):
        table.add_column(column, justify="left" if column in ("preset", "network") else "right")
    last = (next(reversed(LADDER)), next(reversed(STAGES)))
    for rung in rungs(NAMES):
        paper = f"{rung.paper_psnr:.2f}" if rung.paper_psnr else ""
        row = [rung.name, rung.label, f"{rung.parameters:,}", f"{rung.macs / 1e9:.2f}", paper]
        if pace := measured.get(rung.name):
            speed = pace.speed
            row += [f"{pace.latency.p50_ms:.1f}", f"{speed.median:.2f} ({speed.low:.2f} to {speed.high:.2f})"]
        table.add_row(*row, end_section=rung.name in last)
    terminal = Console().is_terminal
    Console(width=None if terminal else WIDE).print(table)
    if out:
        from sdps.benchmarks.environment import Environment

        record = {"size": str(SIZE), "provider": provider, "threads": threads}
        record["environment"] = asdict(Environment.capture())
        record["presets"] = {name: asdict(pace) for name, pace in measured.items()}
        write_json(out, record)


if __name__ == "__main__":
    app()
