"""One export at a time into one place."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sdps.core.errors import SdpsError
from sdps.export.lock import locked


def test_a_second_export_waits_and_says_so(tmp_path: Path) -> None:
    holds = (
        "import sys; from pathlib import Path; from sdps.export.lock import locked\n"
        f"with locked(Path({str(tmp_path / 'graph.onnx')!r})):\n"
        "    print('held', flush=True); sys.stdin.readline()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", holds], **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "held\n"
        said: list[str] = []

        def let_go(text: str) -> None:
            said.append(text)
            other.stdin.write("\n")
            other.stdin.flush()

        with locked(tmp_path / "graph.onnx", let_go):
            assert other.wait(30) == 0
    assert said == ["Waiting for another export that writes graph.onnx."]


def test_a_user_without_a_name_may_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is started with --user 1234."""

    def nobody(*_: object) -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with locked(tmp_path / "graph.onnx"):
        assert list((tmp_path / f"sdps-locks-{os.geteuid()}").iterdir())


def test_locks_that_cannot_be_made_are_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the folder is another user's; a file in its place refuses root too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"sdps-locks-{os.geteuid()}").write_text("no folder")
    with pytest.raises(SdpsError, match=r"TMPDIR"), locked(tmp_path / "graph.onnx"):
        pass


def test_a_lock_that_cannot_be_made_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in the lock's place: as full or read-only disks, which root does not feel."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with locked(tmp_path / "graph.onnx"):
        (lock,) = (tmp_path / f"sdps-locks-{os.geteuid()}").iterdir()
    lock.unlink(missing_ok=True)
    lock.mkdir()
    with (
        pytest.raises(SdpsError, match=r"graph\.onnx cannot be made in .*: .*TMPDIR"),
        locked(tmp_path / "graph.onnx"),
    ):
        pass
