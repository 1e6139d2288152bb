"""`python -m sdps.benchmarks.ladder`: what each rung of the paper's ablation costs, and brought there.

Parameters and multiply-accumulates of every preset at 256x256, counted as `macs.py` says, beside the
PSNR that the paper reports for RealRain-1k-L. How the rungs below the last are built is our reading
(`model/ablations.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sdps.benchmarks.macs import stage_costs
from sdps.core.spec import Size
from sdps.model.presets import LADDER, NETWORKS, STAGES
from sdps.model.psfnet import SDPSFNet, SDPSFNetConfig

SIZE = Size(256, 256)
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


def _shape(config: SDPSFNetConfig) -> str:
    return f"tau={config.tau}, F={config.features}, S={config.scale_unet}, R={config.scale_orb}"


def main() -> None:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Presets at {SIZE}, and the paper's PSNR on RealRain-1k-L")
    for column in ("preset", "network", "parameters", "GMACs", "paper, dB"):
        table.add_column(column, justify="left" if column in ("preset", "network") else "right")
    last = (next(reversed(LADDER)), next(reversed(STAGES)))
    for rung in rungs():
        paper = f"{rung.paper_psnr:.2f}" if rung.paper_psnr else ""
        row = (rung.name, rung.label, f"{rung.parameters:,}", f"{rung.macs / 1e9:.2f}", paper)
        table.add_row(*row, end_section=rung.name in last)
    Console().print(table)


if __name__ == "__main__":
    main()
