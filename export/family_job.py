"""`--exits all`: one checkpoint to a folder of graphs, one for each exit, under one description."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sdps.core.artifact import atomic_path, write_bytes
from sdps.core.errors import UsageError
from sdps.core.family import FamilyManifest, Member
from sdps.export.job import Exported, ExportJob, run_job
from sdps.export.lock import locked
from sdps.export.parity import Bounds, require
from sdps.model import load_checkpoint
from sdps.model.exits import exits_of


def export_family(
    job: ExportJob,
    folder: Path,
    bounds: Bounds,
    step: Callable[[str], None] = lambda _: None,
    made: Callable[[Exported], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Exports every exit, checks each against its bounds, and writes them when all have passed.

    Args:
        job: What to export; its `exit` is not looked at.
        folder: Where the family's own folder is made, named after the job.
        bounds: How far each graph may be from PyTorch at the same exit.
        step: Told in a few words what begins.
        made: Told of each graph when it has been compared.
        say: Told if it waits for another export into the same folder.

    Returns:
        The family's JSON file, in the family's folder.

    Raises:
        UsageError: the network is not an SD-PSFNet.
        SdpsError: the folder cannot be made or written to. And what `run_job` and `require` raise.
    """
    if job.arch:
        raise UsageError("--exits is for SD-PSFNet, whose stages' images are supervised.")
    family = folder / f"{replace(job, exit=-1).stem}-exits"
    exits = exits_of(load_checkpoint(job.weights))
    path = family / "family.json"
    # Around all of it, so that a folder that cannot be written to is found out before the work.
    with locked(path, say), atomic_path(path) as temporary:
        graphs: list[tuple[Member, bytes]] = []
        for exit in exits:
            # The last exit is the whole network, told as such: its graph is the same as without --exits.
            one = replace(job, exit=-1 if exit == exits[-1] else exit)
            exported = run_job(one, lambda text, at=exit: step(f"Exit {at} of {exits[-1]}: {text}"))  # type: ignore[misc]
            made(exported)
            require(exported.drifts, bounds)
            data = exported.model.SerializeToString()
            member = Member(
                exit,
                f"exit{exit}.onnx",
                hashlib.sha256(data).hexdigest(),
                exported.manifest.macs,
                0.0,
                exported.manifest.drift,
            )
            graphs.append((member, data))
        whole = graphs[-1][0].macs
        path.unlink(missing_ok=True)  # its hashes are of the graphs that are replaced now
        for member, data in graphs:
            write_bytes(family / member.file, data)
        last = exported.manifest
        FamilyManifest(
            last.name,
            last.weights_sha256,
            last.precision,
            last.size,
            last.sdps_version,
            tuple(replace(member, share=round(member.macs / whole, 4)) for member, _ in graphs),
        ).write(temporary)  # last, so that a family that is there is complete
    return path
