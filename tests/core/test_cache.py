"""Where what is kept lies, for users with a home folder and without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdps.core import machine
from sdps.core.cache import cache_folder, home_folder
from sdps.core.errors import SdpsError


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As in a container under a number: no $HOME, no entry in passwd. Returns the temporary directory."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "SDPS_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_the_first_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SDPS_HOME", raising=False)
    assert cache_folder() == Path("/home/me/.cache/sdps")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/sdps")
    monkeypatch.setenv("SDPS_HOME", "/kept")
    assert cache_folder() == Path("/kept")


def test_without_a_home_it_is_a_folder_of_this_users_alone(homeless: Path) -> None:
    assert home_folder() is None
    folder = cache_folder()
    assert folder == homeless / f"sdps-{os.geteuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == folder
    assert machine.home_as_tilde("/a/b") == machine.without_home("/a/b") == "/a/b"
    assert machine.disk().cache_folder == str(folder)


def test_a_folder_that_others_may_write_is_refused(homeless: Path) -> None:
    cache_folder().chmod(0o770)
    with pytest.raises(SdpsError, match=r"not this user's alone.*SDPS_HOME"):
        cache_folder()


def test_a_link_that_lies_in_wait_is_refused(homeless: Path) -> None:
    (homeless / "theirs").mkdir(mode=0o700)
    (homeless / f"sdps-{os.geteuid()}").symlink_to(homeless / "theirs")
    with pytest.raises(SdpsError, match="not this user's alone"):
        cache_folder()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_someone_elses_folder_is_refused(homeless: Path) -> None:
    os.chown(cache_folder(), 4711, 4711)
    with pytest.raises(SdpsError, match="not this user's alone"):
        cache_folder()


def test_no_temporary_directory_either(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(homeless / "none"))
    with pytest.raises(SdpsError, match=r"No folder of this user's own.*SDPS_HOME"):
        cache_folder()


HOMELESS = "import pwd\ndef nobody(uid): raise KeyError(uid)\npwd.getpwuid = nobody\n"
PICTURE = """
import numpy as np
from sdps import Derainer
with Derainer.load() as derainer:
    derainer(np.zeros((64, 64, 3), np.uint8))
    print(derainer.backend.name)
"""


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("from sdps.core.doctor_cli import main; main()", "sdps should derain pictures here"),
        (PICTURE, "openvino:CPU"),  # whose telemetry would need a home
    ],
)
def test_whoever_has_no_home_gets_pictures_and_the_doctor(script: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOMELESS)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, "--no-run"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout and "Traceback" not in done.stderr
