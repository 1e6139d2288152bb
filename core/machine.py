"""The machine, read from files and small programs: system, processor, disk, GPU driver.

Every function takes the root of the file system, so that the files of another machine can be read.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sdps.core.cache import cache_folder, home_folder

ROOT = Path("/")
FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm")
"""Instructions that decide how fast convolutions are, in FP32, INT8 and BF16."""


@dataclass(frozen=True)
class System:
    """The operating system and the Python of this process.

    Attributes:
        venv: Python runs in a virtual environment.
        sees_system_packages: And it sees the system's packages (always so outside of one).
        managed: pip is refused there, because the system's package manager owns it (PEP 668).
        container: It runs in a container, which sees only the devices that were passed to it.
    """

    os: str
    kernel: str
    machine: str
    python: str
    executable: str
    venv: bool
    sees_system_packages: bool
    managed: bool
    container: bool


@dataclass(frozen=True)
class Cpu:
    """The processor: cores of the machine, cores this process may use, a quota in cores (0: none)."""

    model: str
    cores: int
    usable: int
    quota: float
    features: list[str]


@dataclass(frozen=True)
class Disk:
    """The folder for downloads and caches (it may not exist yet), and the room on its disk."""

    cache_folder: str
    writable: bool
    free_gb: float


@dataclass(frozen=True)
class Smi:
    """The first GPU as nvidia-smi sees it; `error` is its complaint if it fails."""

    name: str = ""
    driver: str = ""
    memory_gb: float = 0.0
    error: str = ""


def system(root: Path = ROOT) -> System:
    release = re.search(r'^PRETTY_NAME="?(.*?)"?$', text(root / "etc/os-release"), re.MULTILINE)
    venv = sys.prefix != sys.base_prefix
    settings = text(Path(sys.prefix) / "pyvenv.cfg")
    sees = not venv or bool(re.search(r"include-system-site-packages\s*=\s*true", settings, re.IGNORECASE))
    return System(
        os=release[1] if release else platform.system(),
        kernel=platform.release(),
        machine=platform.machine(),
        python=platform.python_version(),
        executable=home_as_tilde(sys.executable),
        venv=venv,
        sees_system_packages=sees,
        managed=not venv and (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").is_file(),
        container=(root / ".dockerenv").exists() or (root / "run/.containerenv").exists(),
    )


def cpu(root: Path = ROOT) -> Cpu:
    info = text(root / "proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cpu_quota(root)
    return Cpu(
        # ARM boards name no processor there, but name the board.
        model=model[1].strip() if model else board(root) or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        usable=min(usable, max(1, round(quota))) if quota else usable,
        quota=quota,
        features=[name for name in FEATURES if name in known],
    )


def cpu_quota(root: Path = ROOT) -> float:
    """How many cores' worth of time the control group allows, 0.0 without a limit (cgroup v1 and v2)."""
    found = []
    for folder in control_groups(root, "cpu"):
        v2 = text(folder / "cpu.max").split()
        quota, period = text(folder / "cpu.cfs_quota_us").strip(), text(folder / "cpu.cfs_period_us").strip()
        parts = v2 if len(v2) == 2 else [quota, period]
        if all(part.isdigit() for part in parts) and int(parts[1]):
            found.append(int(parts[0]) / int(parts[1]))
    return round(min(found), 2) if found else 0.0


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and of all above it: the narrowest of them rules."""
    for line in text(root / "proc/self/cgroup").splitlines() or ["0::/"]:
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names and controller not in names.split(","):
            continue
        base = root / "sys/fs/cgroup" / (controller if names else "")
        # In a container the path is the host's, and what rules lies at the top.
        folder = base / path.strip("/")
        yield from (part for part in (folder, *folder.parents) if part.is_relative_to(base))


def disk() -> Disk:
    folder = cache_folder()
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    writable = there.is_dir() and os.access(there, os.W_OK)
    return Disk(home_as_tilde(folder), writable, round(shutil.disk_usage(there).free / 1e9, 1))


def smi() -> Smi | None:
    """The first GPU, or None where there is no nvidia-smi (on a Jetson of JetPack 5 for example)."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    code, output = run(*query)
    if code is None:
        return None
    first = output.splitlines()[0] if output else ""
    if code != 0:
        return Smi(error=first or f"nvidia-smi ends with exit code {code}")
    parts = [part.strip() for part in first.split(",")]
    if len(parts) != 3:
        return Smi(error="nvidia-smi lists no GPU")
    # Jetsons share the memory and print '[N/A]'.
    megabytes = float(parts[2]) if parts[2].isdigit() else 0.0
    return Smi(parts[0], parts[1], round(megabytes * 1.048576 / 1000, 1))


def board(root: Path = ROOT) -> str:
    """The board of the device tree, e.g. 'NVIDIA Jetson Orin Nano Developer Kit'; '' on a PC."""
    return text(root / "proc/device-tree/model").strip("\0 \n")


def run(*command: str, seconds: float = 10.0) -> tuple[int | None, str]:
    """Exit code and output of a small program; code None if it is not there, hangs or cannot start."""
    if not shutil.which(command[0]):
        return None, ""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, ""
    return done.returncode, done.stdout.decode(errors="replace").strip()


def text(path: Path) -> str:
    """A file's text, '' if it cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def home_as_tilde(path: Path | str) -> str:
    """The path with ~ for the home folder, so that a report does not tell who its writer is."""
    home = _home()
    return "~" + str(path)[len(home) :] if home and Path(path).is_relative_to(home) else str(path)


def without_home(message: str) -> str:
    """A message with ~ for the home folder, wherever it stands in it."""
    home = _home()
    return message.replace(home + os.sep, "~" + os.sep) if home else message


def _home() -> str:
    """The home folder; '' where there is none or it is / (containers), with which every path begins."""
    home = str(home_folder() or "")
    return home if len(home) > 1 else ""
