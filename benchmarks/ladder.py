"""`python -m sdps.benchmarks.ladder`: what each rung of the paper's ablation costs.

Parameters and multiply-accumulates of every preset at 256x256, counted as `macs.py` says. The
paper's PSNR column is not here: its figures were not at hand, and a remembered number would be an
invented one. How the rungs below the last are built is our reading (`model/ablations.py`).
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


@dataclass(frozen=True)
class Rung:
    """One preset.

    Attributes:
        name: Of the preset, as `sdps-train --preset` takes it.
        label: What it adds to the rung below, or what it is.
        parameters: Count, aliases once.
        macs: Multiply-accumulates at 256x256.
    """

    name: str
    label: str
    parameters: int
    macs: int


NAMES = (*LADDER, *STAGES, *BUNDLED)
"""The ladder, the numbers of stages, and the bundled networks."""


def rungs(names: Sequence[str] = NAMES) -> Iterator[Rung]:
    """The costs of some presets, in the order given; about a second each."""
    for name in names:
        yield _count(name, ADDS.get(name) or _shape(NETWORKS[name]), NETWORKS[name])


def _count(name: str, label: str, config: SDPSFNetConfig) -> Rung:
    with torch.device("meta"):  # shapes are enough
        costs = stage_costs(SDPSFNet(config), SIZE)
    return Rung(name, label, sum(cost.parameters for cost in costs), sum(cost.macs for cost in costs))


def _shape(config: SDPSFNetConfig) -> str:
    return f"tau={config.tau}, F={config.features}, S={config.scale_unet}, R={config.scale_orb}"


def main() -> None:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Presets at {SIZE}: parameters and multiply-accumulates")
    for column in ("preset", "network", "parameters", "GMACs"):
        table.add_column(column, justify="left" if column in ("preset", "network") else "right")
    last = (next(reversed(LADDER)), next(reversed(STAGES)))
    for rung in rungs():
        row = (rung.name, rung.label, f"{rung.parameters:,}", f"{rung.macs / 1e9:.2f}")
        table.add_row(*row, end_section=rung.name in last)
    Console().print(table)


if __name__ == "__main__":
    main()
