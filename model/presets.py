"""Networks by name: the bundled ones, the paper's, and the ladder of its ablation."""

from __future__ import annotations

from dataclasses import replace

from sdps.core.errors import UsageError
from sdps.model.psfnet import SDPSFNetConfig

PAPER = SDPSFNetConfig()
NANO = SDPSFNetConfig(tau=0, features=8, scale_unet=4, scale_orb=4, cabs=2)
"""For CPUs and small Jetsons: half a million parameters, 2.6 GMACs at 256x256."""
SMALL = SDPSFNetConfig(tau=0, features=16, scale_unet=16, scale_orb=8, cabs=4)
"""For GPUs of laptops and larger Jetsons: a million parameters, 16.3 GMACs at 256x256. No middle stage,
so that it can grow out of a trained nano (growth.py)."""

LADDER = {
    "mprnet": replace(PAPER, ablation="mprnet"),
    "gates": replace(PAPER, ablation="gates"),
    "hierarchical": replace(PAPER, ablation="hierarchical"),
    "csff": replace(PAPER, ablation="csff"),
    "psf1": replace(PAPER, psf_channels=1),
    "psf40": PAPER,
}
"""The rungs of the paper's ablation, from the baseline up; `ablations.py` says how each is read."""

STAGES = {f"tau{tau}": replace(PAPER, tau=tau) for tau in range(4)}
"""The paper's network with fewer middle stages."""

NETWORKS = {"paper": PAPER, "nano": NANO, "small": SMALL, **STAGES, **LADDER}


def network_config(name: str) -> SDPSFNetConfig:
    """A network by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in NETWORKS:
        raise UsageError(f"There is no preset {name!r}.", f"Choose from {', '.join(NETWORKS)}.")
    return NETWORKS[name]
