"""An inspection as tables for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from sdps.export.inspection import ENGINE, Inspection

SHOWN_KEYS = (
    "name",
    "architecture",
    "precision",
    "size",
    "config",
    "drift",
    "weights_sha256",
    "sdps_version",
)
SIDECAR_KEYS = (
    "flavour", "flavour_version", "gpu", "compute_capability", "cuda_driver", "options",
    "drift", "stripped", "seconds"
)  # fmt: skip


def show(inspection: Inspection, console: Console) -> None:
    """Prints what the file is, its convolutions by precision, and its layers by type."""
    facts = Table(title=f"{inspection.path} ({inspection.bytes / 1e6:.2f} MB)", show_header=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row("SHA-256", inspection.sha256)
    for key in SHOWN_KEYS:
        if value := inspection.manifest.get(f"sdps.{key}"):
            facts.add_row(key, value)
    if inspection.kind == ENGINE:
        facts.add_row("built from", str(inspection.sidecar["built_from"]))
        for key in SIDECAR_KEYS:
            if value := inspection.sidecar.get(key):
                facts.add_row(key, str(value))
        for number, (low, best, high) in enumerate(inspection.profiles):
            facts.add_row(f"profile {number}", low if low == high else f"{low} to {high}, tuned for {best}")
        for warning in inspection.sidecar["warnings"]:
            facts.add_row("warning", warning)
    if inspection.ranges:
        least, most = min(inspection.ranges.values()), max(inspection.ranges.values())
        facts.add_row("ranges", f"{len(inspection.ranges)} quantised tensors, ±{least:.3g} to ±{most:.3g}")
    console.print(facts)

    total = sum(share.macs for share in inspection.convolutions.values())
    table = Table(title="Convolutions and matrix products")
    for heading in ("precision", "count", "GMACs", "share"):
        table.add_column(heading, justify="left" if heading == "precision" else "right")
    for precision, share in sorted(inspection.convolutions.items(), key=lambda item: -item[1].macs):
        part = f"{share.macs / total:.1%}" if total else "-"
        table.add_row(precision, str(share.count), f"{share.macs / 1e9:.3f}", part)
    console.print(table)

    table = Table(title="Layers", caption=f"from {inspection.source}")
    for heading in ("type", "precision", "count", "weights, kB", "MMACs"):
        table.add_column(heading, justify="left" if heading in ("type", "precision") else "right")
    for row in inspection.rows:
        weights = f"{row['weight_bytes'] / 1e3:.1f}" if row["weight_bytes"] else ""
        macs = f"{row['macs'] / 1e6:.2f}" if row["macs"] else ""
        table.add_row(row["type"], row["precision"], str(row["count"]), weights, macs)
    console.print(table)
