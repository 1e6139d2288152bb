"""One export at a time into one place."""

from __future__ import annotations

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

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    with locked(tmp_path / "graph.onnx"):
        pass


def test_locks_that_cannot_be_made_are_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the folder is another user's; a file in its place refuses root too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("getpass.getuser", lambda: "somebody")
    (tmp_path / "sdps-locks-somebody").write_text("no folder")
    with (
        pytest.raises(SdpsError, match=r"graph\.onnx cannot be made in .*: .*TMPDIR"),
        locked(tmp_path / "graph.onnx"),
    ):
        pass
