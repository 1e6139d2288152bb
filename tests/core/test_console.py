"""How a command says that a package is not there, or is and breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdps.core.console import need
from sdps.core.errors import MissingDependency


def test_a_package_that_breaks_is_told_as_one_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "breaks_on_import.py").write_text("raise RuntimeError('no such luck')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency, match=r"RuntimeError: no such luck.*sdps-doctor"):
        need("breaks_on_import")
    with pytest.raises(MissingDependency, match=r"pip install 'sdps\[dev\]'"):
        need("not_there_at_all")
