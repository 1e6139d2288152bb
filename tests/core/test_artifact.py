"""Files appear whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sdps.core.artifact import atomic_path, sha256_of, write_bytes, write_json
from sdps.core.errors import SdpsError


def test_a_file_appears_whole_under_its_name_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"ü": 1})
    assert (tmp_path / "new" / "a.json").read_text(encoding="utf-8") == '{\n  "ü": 1\n}\n'
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    write_bytes(target, b"old")
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError), atomic_path(tmp_path / "new" / "newer" / "a.bin") as temporary:
        temporary.write_bytes(b"half")
        raise ValueError
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError), atomic_path(tmp_path / "new" / "a.bin"):
        write_bytes(tmp_path / "new" / "other.bin", b"whole")
        raise ValueError
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["other.bin"]


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    with (
        pytest.raises(SdpsError, match=r"a\.bin cannot be written: No space left"),
        atomic_path(tmp_path / "a.bin"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SdpsError, match="cannot be written"):
        write_bytes(Path("/proc/a.bin"), b"x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SdpsError, match="Cannot make the folder"):
        write_bytes(tmp_path / "file" / "a.bin", b"x")


def test_what_the_body_reads_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.bin"):
        (tmp_path / "missing").read_bytes()


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_a_cache_that_cannot_be_written_is_no_output_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SDPS_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(SdpsError, match="SDPS_HOME names another"):
        write_bytes(tmp_path / "file" / "home" / "photos" / "a.png", b"")
    with pytest.raises(SdpsError, match="another output folder"):
        write_bytes(tmp_path / "file" / "a.png", b"")
