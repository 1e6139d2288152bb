"""The photographs: fetched, unpacked, licensed, and split without overlap."""

from __future__ import annotations

import io
import lzma
import shutil
import struct
import subprocess
import tarfile
import threading
import zlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path

import pytest

from sdps.core.errors import SdpsError, UsageError
from sdps.training.datasets import difference_hash
from sdps.training.debian import packed_files
from sdps.training.photos import (
    NAME,
    PACKAGE,
    SPLITS,
    VERSION,
    fetch_photos,
    load_photo,
    load_split,
    photo_list,
    read_rcc,
)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a server on loopback serves as Debian's archive; nothing was fetched yet."""
    folder = tmp_path / "archive"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("SDPS_PHOTOS_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("SDPS_HOME", str(tmp_path / "home"))
        yield folder
        server.shutdown()


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """These shell scripts are all that can be called."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def deb(folder: Path, files: dict[str, bytes]) -> Path:
    """A Debian package as dpkg-deb makes it; the first member has an odd size, which is padded."""
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w") as data:
            for name, content in files.items():
                info = tarfile.TarInfo(f"./{name}")
                info.size = len(content)
                data.addfile(info, io.BytesIO(content))
        members = {"debian-binary": b"2.0", "data.tar.xz": lzma.compress(packed.getvalue())}
    made = b"!<arch>\n"
    for name, content in members.items():
        made += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        made += b"\n" * (len(content) % 2)
    path = folder / "made.deb"
    path.write_bytes(made)
    return path


def test_every_photograph_has_a_free_licence_an_author_and_a_source() -> None:
    for split in SPLITS:
        for photo in photo_list(split):
            assert photo.licence in {"Public domain", "CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0"}
            assert photo.author
            assert photo.source
    assert [len(photo_list(split)) for split in SPLITS] == [64, 15, 15]


def test_an_unknown_split() -> None:
    with pytest.raises(UsageError, match="train, calibrate, evaluate"):
        photo_list("holdout")


@pytest.mark.usefixtures("photographs")
def test_no_two_splits_share_a_picture() -> None:
    hashes = {split: [difference_hash(photo) for photo in load_split(split, 256)] for split in SPLITS}
    for a, b in combinations(SPLITS, 2):
        nearest = min(bin(x ^ y).count("1") for x in hashes[a] for y in hashes[b])
        assert nearest > 8, (a, b)


def test_they_are_pictures_of_a_useful_size(photographs: Path) -> None:
    shapes = [load_photo(photographs / photo.path).shape for photo in photo_list("evaluate")]
    assert all(max(shape) == 960 and shape[2] == 3 for shape in shapes)


def test_a_debian_package_is_read_without_debians_tools(tmp_path: Path) -> None:
    files = {"usr/share/a.rcc": b"one", "usr/share/a.txt": b"two", "usr/share/b.rcc": bytes(100_000)}
    found = dict(packed_files(deb(tmp_path, files), ".rcc"))
    assert found == {"./usr/share/a.rcc": b"one", "./usr/share/b.rcc": bytes(100_000)}
    for wrong in (b"", b"PK\3\4" + bytes(99), (tmp_path / "made.deb").read_bytes()[:72]):
        (tmp_path / "wrong.deb").write_bytes(wrong)
        with pytest.raises(SdpsError, match=r"wrong\.deb is no Debian package"):
            list(packed_files(tmp_path / "wrong.deb", ".rcc"))


def test_where_apt_has_another_build_the_package_comes_from_debians_archive(
    photographs: Path,
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["apt-get", "download", f"{NAME}={VERSION}"]
    if not shutil.which("apt-get") or subprocess.run(command, cwd=archive, check=False).returncode:
        pytest.skip("the package cannot be had here, to be served")
    programs(tmp_path / "bin", monkeypatch, apt_get=f"echo another build > {PACKAGE.name}")
    folder = fetch_photos()
    assert "44 MB), once" in capsys.readouterr().err
    assert folder.is_relative_to(tmp_path)
    for photo in (photo for split in SPLITS for photo in photo_list(split)):
        assert (folder / photo.path).read_bytes() == (photographs / photo.path).read_bytes()


def test_photographs_that_cannot_be_had_may_be_brought_by_hand(
    archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A remedy for every command that wants them, where there is no apt and where it has another version."""
    programs(tmp_path / "bin", monkeypatch)
    place = tmp_path / "home" / "photos" / PACKAGE.name
    with pytest.raises(SdpsError, match=rf"answers 404 .*By hand: .*SHA-256 .* put it at {place}"):
        fetch_photos()
    programs(tmp_path / "apt", monkeypatch, apt_get="exit 100")
    (archive / PACKAGE.name).write_bytes(b"another")
    with pytest.raises(SdpsError, match=r"has 7 bytes instead of 44196292; it was deleted"):
        fetch_photos()


def test_what_is_no_resource_file_or_picture(tmp_path: Path) -> None:
    with pytest.raises(SdpsError, match="Not a Qt resource"):
        list(read_rcc(b"RIFF" + bytes(64)))
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    for name, data in (("fake.webp", b"no picture"), ("empty.jpg", b""), ("huge.png", huge)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SdpsError, match=f"{name} is not a readable picture"):
            load_photo(tmp_path / name)
    with pytest.raises(SdpsError, match=r"gone\.png cannot be read"):
        load_photo(tmp_path / "gone.png")
