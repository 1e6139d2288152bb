"""Running a picture tells nobody, and leaves no identifier behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import numpy
from sdps import Derainer
with Derainer.load(provider={provider!r}) as derainer:
    derainer(numpy.zeros((32, 32, 3), numpy.uint8))
"""


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_the_engines_leave_nothing_in_the_home_folder(provider: str, tmp_path: Path) -> None:
    # Their telemetry is off by itself where it sees a build server.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")
    }
    environment |= {"HOME": str(tmp_path), "SDPS_HOME": str(tmp_path / "sdps")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    environment.pop("XDG_CACHE_HOME", None)
    subprocess.run([sys.executable, "-c", RUN.format(provider=provider)], env=environment, check=True)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["sdps"])
