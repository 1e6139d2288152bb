"""What should be mended on a machine of which the facts are known, though nothing may be missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdps.core import packages
from sdps.core.jetson import TENSORRT_MINIMUM
from sdps.core.remedies import JETPACK, pip_command

if TYPE_CHECKING:
    from sdps.core.doctor import Facts

ROOM_GB = 2.0
"""Free disk and memory below which a warning stands: an export of the large network takes as much."""


@dataclass(frozen=True)
class Problem:
    """Something that should be mended though nothing may be missing."""

    what: str
    remedy: str = ""


def problems(facts: Facts) -> list[Problem]:
    """What stands in the way or will, most serious first."""
    found = [Problem(f"{what}: {why}") for what, why in facts.failed.items()]
    for name, library in facts.libraries.items():
        if library.state == "broken":
            found.append(
                Problem(f"{name} {library.version} cannot be imported: {library.error}".replace("  ", " "))
            )
    if facts.ort_builds[1:]:
        what = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
        found.append(Problem(what, packages.ORT_MEND))
    if builds := facts.opencv_builds[1:] and facts.opencv_builds:
        mend = f"{pip_command()} uninstall -y {' '.join(builds)} && {pip_command()} install {builds[0]}"
        found.append(Problem(f"{' and '.join(builds)} overwrite each other's files", mend))
    if facts.jetson:
        found += _jetson_problems(facts)
    if facts.system and facts.system.managed:
        what = "This Python belongs to the system, which refuses pip"
        found.append(Problem(what, "python3 -m venv ~/sdps && . ~/sdps/bin/activate"))
    if facts.smi and facts.smi.error:
        found.append(Problem(f"nvidia-smi: {facts.smi.error}"))
    elif facts.smi and facts.gpu is None:
        found.append(Problem("nvidia-smi sees a GPU and CUDA does not", "is CUDA_VISIBLE_DEVICES empty?"))
    if facts.disk and not facts.disk.writable:
        what = f"The cache folder {facts.disk.cache_folder} cannot be written"
        found.append(Problem(what, "export SDPS_HOME=/a/folder/of/yours"))
    if facts.disk and facts.disk.free_gb < ROOM_GB:
        found.append(Problem(f"Only {facts.disk.free_gb} GB free at the cache folder", "df -h"))
    if facts.memory and facts.memory.total_gb and facts.memory.available_gb < ROOM_GB:
        found.append(Problem(f"Only {facts.memory.available_gb} GB of memory available: give --tile 256"))
    return found


def _jetson_problems(facts: Facts) -> list[Problem]:
    board, found = facts.jetson, []
    assert board is not None
    release = board.release
    if release and not release.supported:
        found.append(
            Problem(
                f"JetPack {board.jetpack} has TensorRT {release.tensorrt}; sdps needs {TENSORRT_MINIMUM}",
                JETPACK,
            )
        )
    if shadow := shadowed_tensorrt(facts):
        found.append(shadow)
    if board.power_mode and board.fastest_mode and board.power_mode != board.fastest_mode.split()[1]:
        number, name = board.fastest_mode.split()
        what = f"Power mode {board.power_mode} is not the fastest, {name}"
        found.append(Problem(what, f"sudo nvpmodel -m {number}"))
    if board.clocks_pinned is False:
        found.append(
            Problem("The clocks change with the load; measure with them pinned", "sudo jetson_clocks")
        )
    return found


def shadowed_tensorrt(facts: Facts) -> Problem | None:
    """On a Jetson: a TensorRT from pip that hides JetPack's, which alone fits the board."""
    if not facts.jetson or not facts.tensorrt_file or facts.tensorrt_file.startswith("/usr/lib/"):
        return None
    names = facts.tensorrt_packages or ["tensorrt"]
    return Problem(
        f"A TensorRT from pip ({Path(facts.tensorrt_file).parent}) hides JetPack's",
        f"{pip_command()} uninstall -y {' '.join(names)}",
    )
