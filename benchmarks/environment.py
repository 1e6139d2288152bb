"""What makes two runs comparable: the machine, its software, and what else it was doing."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sdps.core.version import __version__

LIBRARIES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "numpy")
PASSING = ("load", "time")
"""Fields that differ from run to run on one and the same machine; the fingerprint leaves them out."""


@dataclass(frozen=True)
class Environment:
    """Where a run took place.

    Attributes:
        cpu: Model name.
        cores: Cores this process may use, not those of the machine.
        memory_gb: Total memory in GB (1e9 bytes).
        system: Kernel and architecture.
        python: Version.
        libraries: Installed versions, sdps included.
        gpu: 'name, driver version' of each NVIDIA GPU, empty without.
        power: Power mode (nvpmodel on a Jetson, else the CPU's frequency governor), empty if unknown.
        load: 1-minute load average before the run: threads that wanted a core.
        time: Start in UTC, ISO 8601.
    """

    cpu: str
    cores: int
    memory_gb: float
    system: str
    python: str
    libraries: dict[str, str]
    gpu: str
    power: str
    load: float
    time: str

    @classmethod
    def capture(cls) -> Environment:
        """Looks at this machine (Linux or macOS); what cannot be told is empty."""
        return cls(
            cpu=_cpu(),
            cores=_cores(),
            memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            python=platform.python_version(),
            libraries={"sdps": __version__} | {name: v for name in LIBRARIES if (v := _version(name))},
            gpu=_output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").replace(
                "\n", "; "
            ),
            power=_power(),
            load=round(os.getloadavg()[0], 2),
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits; two runs with different ones are not comparable."""
        lasting = {key: value for key, value in asdict(self).items() if key not in PASSING}
        return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def busy(self) -> bool:
        """Whether more than half of the usable cores were taken when the run began."""
        return self.load > 0.5 * self.cores


def _cpu() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    # ARM boards name no model there, but name the board.
    return (
        match[1].strip() if match else _text("/proc/device-tree/model").strip("\0 \n") or platform.processor()
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _power() -> str:
    match = re.search(r"NV Power Mode:\s*(\S+)", _output("nvpmodel", "-q"))
    return match[1] if match else _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    if not shutil.which(command[0]):
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
