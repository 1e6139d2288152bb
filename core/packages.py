"""What Python packages are installed, and what sdps's extras ask for. Imports none of them."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

ORT_BUILDS = ("onnxruntime", "onnxruntime-gpu")
ORT_MEND = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
OPENCV_BUILDS = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
CUDA_BINDINGS = ("cuda-bindings", "pycuda")
TENSORRT_PARTS = (
    "tensorrt",
    *(f"tensorrt-{cuda}{part}" for cuda in ("cu12", "cu13") for part in ("", "-bindings", "-libs")),
)
MODULES = {
    "pillow": "PIL",
    "opencv-python-headless": "cv2",
    "onnxruntime-gpu": "onnxruntime",
    "pygame-ce": "pygame",
    "pytest-xdist": "xdist",
    "scikit-image": "skimage",
    "tensorrt-rtx-cu13": "tensorrt_rtx",
}
"""Modules whose names are not their package's."""


@dataclass(frozen=True)
class Requirement:
    """One package that an extra of sdps asks for, e.g. onnx, at least 1.16."""

    package: str
    minimum: str = ""

    @property
    def module(self) -> str:
        return MODULES.get(self.package, self.package.replace("-", "_"))

    def lack(self) -> str:
        """What is wrong with it, e.g. 'onnx is not installed' or 'onnx 1.10 is older than 1.16'; else ''.

        A module without a package is taken as new enough: JetPack's OpenCV is one.
        """
        if not module_there(self.module):
            return f"{self.package} is not installed"
        version = version_of(self.package)
        if version and self.minimum and numbers(version) < numbers(self.minimum):
            return f"{self.package} {version} is older than {self.minimum}"
        return ""


def requirements(extra: str) -> list[Requirement]:
    """What `pip install 'sdps[extra]'` asks for, beside what every command needs ('' for that).

    Read from the metadata of the installed package, so that it is what pyproject.toml says.

    Raises:
        LookupError: sdps was never installed, or by a version that had no such extra.
    """
    found: list[Requirement] = []
    for line in requires("sdps") or []:
        text, _, marker = line.partition(";")
        named = re.search(r"extra == [\"']([\w-]+)[\"']", marker)
        if (named[1] if named else "") != extra:
            continue
        match = re.match(r"([\w.-]+)\s*(?:\[([\w,-]+)\])?\s*(?:>=\s*([\d.]+))?", text.strip())
        if match and match[1] == "sdps":
            for part in match[2].split(","):
                found += requirements(part)
        elif match:
            found.append(Requirement(match[1].lower(), match[3] or ""))
    if not found:
        raise LookupError(f"the installed sdps knows no extra '{extra}'")
    return found


def lacking(extra: str) -> str:
    """Everything that an extra lacks, in one line; '' if it is complete."""
    try:
        return "; ".join(lack for part in requirements(extra) if (lack := part.lack()))
    except LookupError as error:
        return str(error)


def version_of(package: str) -> str:
    """Installed version of a package, '' if it is not installed."""
    try:
        return distribution(package).version
    except PackageNotFoundError:
        return ""


def installed(packages: tuple[str, ...]) -> list[str]:
    """Those of the packages that are installed."""
    return [package for package in packages if version_of(package)]


def module_file(module: str) -> Path | None:
    """Where a top-level module would be imported from; None if nowhere. Does not import it."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a broken entry of sys.meta_path, or a half-loaded module
        return None
    return Path(found.origin) if found and found.origin else None


def module_there(module: str) -> bool:
    """Whether a top-level module is there to be imported (a folder without __init__.py is not)."""
    return module in sys.modules or module_file(module) is not None


def numbers(version: str) -> tuple[int, ...]:
    """'10.3.0.30-1+cuda12.5' -> (10, 3, 0, 30): the leading numbers, to compare versions by."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def package_advice() -> str:
    """One line if both builds of ONNX Runtime are installed, which overwrite each other; else ''."""
    if len(installed(ORT_BUILDS)) < 2:
        return ""
    return (
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files. "
        f"Mend it with: {ORT_MEND}"
    )
