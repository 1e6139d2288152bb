"""Commands that mend, for the machine and the Python of which the facts are known."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdps.core import packages
from sdps.core.machine import home_as_tilde

if TYPE_CHECKING:
    from sdps.core.doctor import Facts

VENV = "/usr/bin/python3 -m venv --system-site-packages .venv"
JETPACK = "flash JetPack 6.2 or newer with NVIDIA's SDK Manager"


def pip(extra: str) -> str:
    """The command that installs an extra; sdps itself is there, so pip only adds what it asks for."""
    return f"{pip_command()} install 'sdps[{extra}]'"


def pip_extra(facts: Facts, extra: str) -> str:
    """As `pip`; where the installed sdps is too old to know the extra, from sdps's own folder."""
    if "no extra" in facts.lacking.get(extra, ""):
        return f"{pip_command()} install '.[{extra}]'   # in the folder of sdps's source"
    return pip(extra)


def pip_command() -> str:
    """How to call the pip of this very Python."""
    mine = shutil.which("pip")
    if mine and Path(mine).parent == Path(sys.executable).parent:
        return "pip"
    return f"{home_as_tilde(sys.executable)} -m pip"


def tensorrt_remedy(facts: Facts) -> str:
    """The command that brings TensorRT into this Python."""
    if not facts.jetson:
        return pip("tensorrt") if facts.gpu else ""
    if not facts.jetson.bindings:
        return "sudo apt install nvidia-jetpack python3-libnvinfer"
    version = facts.system.python if facts.system else platform.python_version()
    if packages.numbers(version)[:2] != packages.numbers(facts.jetson.bindings):
        return f"{VENV}   # JetPack's bindings are for Python {facts.jetson.bindings}, this is {version}"
    if facts.system and facts.system.venv and not facts.system.sees_system_packages:
        settings = home_as_tilde(Path(sys.prefix) / "pyvenv.cfg")
        return (
            "sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/'"
            f" {settings}   # or a new one: {VENV}"
        )
    return "sudo apt install --reinstall python3-libnvinfer"
