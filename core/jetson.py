"""NVIDIA Jetson: what board it is, which JetPack is on it, and how it is set.

The table is NVIDIA's JetPack release notes; the files are those of Jetson Linux (L4T).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sdps.core import machine
from sdps.core.packages import numbers

TENSORRT_MINIMUM = "10.3"


@dataclass(frozen=True)
class JetPack:
    """One release: its TensorRT, CUDA and the Python of its bindings."""

    version: str
    tensorrt: str
    cuda: str
    python: str

    @property
    def supported(self) -> bool:
        return numbers(self.tensorrt) >= numbers(TENSORRT_MINIMUM)


JETPACKS = (
    JetPack("5.1", "8.5", "11.4", "3.8"),
    JetPack("6.0", "8.6", "12.2", "3.10"),
    JetPack("6.1", "10.3", "12.6", "3.10"),
    JetPack("6.2", "10.3", "12.6", "3.10"),
    JetPack("7.0", "10.13", "13.0", "3.12"),
    JetPack("7.1", "10.13", "13.0", "3.12"),
    JetPack("7.2", "10.16", "13.2", "3.12"),
)
BY_L4T = {"35": "5.1", "36.2": "6.0", "36.3": "6.0", "36.4": "6.1", "38.2": "7.0", "38.4": "7.1"}
"""JetPack of a Jetson Linux release, for where the package nvidia-jetpack is not installed.
36.4 is 6.1 and 6.2, which hold the same TensorRT."""


@dataclass(frozen=True)
class Jetson:
    """A Jetson.

    Attributes:
        model: e.g. 'NVIDIA Jetson Orin Nano Developer Kit'.
        l4t: Jetson Linux, e.g. '36.4.3'; '' if it does not say (in most containers).
        jetpack: e.g. '6.2'; '' if unknown.
        tensorrt: Version of the system's own TensorRT, e.g. '10.3.0.30'; '' if not installed.
        bindings: Python of the system's TensorRT bindings, e.g. '3.10'; '' if not installed.
        power_mode: e.g. 'MAXN'; '' if unknown.
        fastest_mode: The mode's number and name without limits, e.g. '0 MAXN'; '' if unknown.
        clocks_pinned: jetson_clocks holds the GPU at its highest clock; None if it would not say.
    """

    model: str
    l4t: str
    jetpack: str
    tensorrt: str
    bindings: str
    power_mode: str
    fastest_mode: str
    clocks_pinned: bool | None

    @property
    def release(self) -> JetPack | None:
        """The row of JETPACKS; None for one that is not in it."""
        return next((row for row in JETPACKS if self.jetpack.startswith(row.version)), None)


def jetson(root: Path = machine.ROOT) -> Jetson | None:
    """The Jetson that this is, or None. The two programs are asked on the running machine only."""
    model = machine.board(root)
    release = machine.text(root / "etc/nv_tegra_release")
    if "Jetson" not in model and not release:
        return None
    l4t = parse_release(release)
    packages = parse_dpkg(machine.text(root / "var/lib/dpkg/status"))
    here = root == machine.ROOT
    return Jetson(
        model=model or "NVIDIA Jetson",
        l4t=l4t,
        jetpack=packages.get("nvidia-jetpack", "").split("+")[0] or jetpack_of(l4t),
        tensorrt=next(
            (v.split("-")[0] for k, v in packages.items() if re.fullmatch(r"libnvinfer\d+", k)), ""
        ),
        bindings=system_bindings(root)[0],
        power_mode=parse_power_mode(machine.run("nvpmodel", "-q")[1]) if here else "",
        fastest_mode=parse_fastest_mode(machine.text(root / "etc/nvpmodel.conf")),
        clocks_pinned=parse_clocks(machine.run("jetson_clocks", "--show")[1]) if here else None,
    )


def jetpack_of(l4t: str) -> str:
    """JetPack of a Jetson Linux release such as '36.4.3', '' if the table does not know it."""
    parts = l4t.split(".")
    return BY_L4T.get(".".join(parts[:2])) or BY_L4T.get(parts[0], "")


def system_bindings(root: Path = machine.ROOT) -> tuple[str, Path | None]:
    """Python version and folder of the TensorRT bindings that apt installed; ('', None) without."""
    for folder in sorted((root / "usr/lib").glob("python3*/dist-packages/tensorrt")):
        if match := re.fullmatch(r"python(3\.\d+)", folder.parts[-3]):
            return match[1], folder
        # Debian's folder for all versions: the name of the compiled part tells which.
        for library in folder.glob("*.cpython-3*.so"):
            if match := re.search(r"cpython-3(\d+)", library.name):
                return f"3.{match[1]}", folder
    return "", None


def parse_release(text: str) -> str:
    """'# R36 (release), REVISION: 4.3, GCID: ...' -> '36.4.3'; '' if it is something else."""
    match = re.match(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else ""


def parse_dpkg(text: str) -> dict[str, str]:
    """Versions of NVIDIA's packages that dpkg's status file calls installed."""
    found = {}
    for block in text.split("\n\n"):
        rows = dict(re.findall(r"^(Package|Status|Version): (.*)$", block, re.MULTILINE))
        name = rows.get("Package", "")
        if name.startswith(("nvidia-", "libnvinfer", "python3-libnvinfer")) and rows.get(
            "Status", ""
        ).endswith(" installed"):
            found[name] = rows.get("Version", "")
    return found


def parse_power_mode(text: str) -> str:
    """Of `nvpmodel -q`: 'NV Power Mode: MAXN_SUPER' -> 'MAXN_SUPER'."""
    match = re.search(r"NV Power Mode:\s*(\S+)", text)
    return match[1] if match else ""


def parse_fastest_mode(text: str) -> str:
    """Of nvpmodel.conf: number and name of the MAXN mode, the one of the longest name (MAXN_SUPER)."""
    modes: list[tuple[str, str]] = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(MAXN\w*)", text)
    if not modes:
        return ""
    number, name = max(modes, key=lambda mode: len(mode[1]))
    return f"{number} {name}"


def parse_clocks(text: str) -> bool | None:
    """Of `jetson_clocks --show`: whether the GPU's lowest clock is its highest. None if it does not say."""
    match = re.search(r"GPU\s+MinFreq=(\d+)\s+MaxFreq=(\d+)", text)
    return match[1] == match[2] if match else None
