"""What is installed: libraries that do not import, and what sdps's extras ask for."""

from __future__ import annotations

from importlib.metadata import metadata
from pathlib import Path

import pytest

from sdps.core import libraries, packages


def test_libraries_that_crash_hang_or_chatter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chatters.py").write_text("print('{\"noise\": 1}', end=''); __version__ = '7'")
    (tmp_path / "crashes.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    (tmp_path / "leaves.py").write_text("import os; os._exit(3)")
    (tmp_path / "raises.py").write_text("raise ImportError('libfoo.so.1: cannot open shared object file')")
    (tmp_path / "hangs.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = libraries.ask(["chatters", "crashes", "leaves", "raises", "hangs", "json"], seconds=6)
    assert found["chatters"] == {"name": "chatters", "version": "7"}
    assert found["crashes"]["error"] == "crashes (SIGSEGV)"
    assert found["leaves"]["error"] == "ends Python with exit code 3"
    assert found["raises"]["error"] == "ImportError: libfoo.so.1: cannot open shared object file"
    assert found["hangs"]["error"].startswith("hangs")
    assert "error" not in found["json"]


def test_what_fails_beside_others_is_tried_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first.py").write_text("")
    (tmp_path / "jealous.py").write_text(
        "import sys\nif 'first' in sys.modules: raise ImportError('static TLS')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "error" not in libraries.ask(["first", "jealous"])["jealous"]


def test_what_is_installed_is_not_called_missing() -> None:
    """Of every extra: a package whose module is called otherwise once made doctor deny all exports."""
    extras = metadata("sdps").get_all("Provides-Extra") or []
    assert {"cpu", "export", "int8", "train", "bench"} <= set(extras)
    parts = [part for extra in extras for part in packages.requirements(extra)]
    here = [part for part in parts if packages.version_of(part.package)]
    assert len(here) > 15
    assert not [lack for part in here if "not installed" in (lack := part.lack())]


def test_the_extras_are_those_of_the_installed_package() -> None:
    named = {part.package: part for part in packages.requirements("bench")}
    assert named["torch"].minimum and "scikit-image" in named  # bench asks for export, which asks for torch
    with pytest.raises(LookupError):
        packages.requirements("no-such-extra")
    assert packages.Requirement("no-such-package").lack() == "no-such-package is not installed"
    assert packages.Requirement("numpy", "99").lack().endswith("is older than 99")
    assert packages.Requirement("numpy", "1.24").lack() == ""
