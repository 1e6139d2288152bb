"""What makes two runs comparable: the machine, its software, and what else it was doing."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from sdps.core import machine, packages
from sdps.core.free_memory import memory
from sdps.core.jetson import parse_power_mode
from sdps.core.version import __version__

LIBRARIES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "numpy")
PASSING = ("load", "time")
"""Fields that differ from run to run on one and the same machine; the fingerprint leaves them out."""
GOVERNOR = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


@dataclass(frozen=True)
class Environment:
    """Where a run took place.

    Attributes:
        cpu: Model name.
        cores: Cores this process may use (affinity and a container's quota), not those of the machine.
        memory_gb: Total memory in GB (1e9 bytes), within a container's limit; 0 if it cannot be told.
        system: Kernel and architecture.
        python: Version.
        libraries: Installed versions, sdps included.
        gpu: 'name, driver version' of each NVIDIA GPU, empty without.
        power: Power mode (nvpmodel on a Jetson, else the CPU's frequency governor), empty if unknown.
        load: 1-minute load average before the run: threads that wanted a core; 0 on Windows.
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
    def capture(cls, root: Path = machine.ROOT) -> Environment:
        """Looks at this machine; what cannot be told is empty.

        Args:
            root: Whose files to read; programs and Python are always this machine's.
        """
        processor = machine.cpu(root)
        versions = {name: packages.version_of(name) for name in LIBRARIES}
        return cls(
            cpu=processor.model,
            cores=processor.usable,
            memory_gb=memory(root).total_gb,
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            python=platform.python_version(),
            libraries={"sdps": __version__} | {name: found for name, found in versions.items() if found},
            gpu=_gpus(),
            power=parse_power_mode(machine.run("nvpmodel", "-q")[1]) or machine.text(root / GOVERNOR).strip(),
            load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0,
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


def _gpus() -> str:
    code, output = machine.run("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return "; ".join(output.splitlines()) if code == 0 else ""
