"""Picture files: what is written, and what is read from whole, odd and damaged ones."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures
from PIL import ImageCms

from sdps.core.errors import SinkError
from sdps.core.frame import Image
from sdps.core.pictures import decode, decode_picture
from sdps.core.samples import PICTURE, sample
from sdps.runtime.picture_sink import WRITABLE, encode_picture
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.sinks import open_sink
from sdps.runtime.sources import PICTURES, open_source

MakePicture = Callable[[int, int], Image]
ORIENTATION, MOMENT, EXIF, PLACE, SHUTTER, WIDTH, MAKERS_OWN = 274, 306, 0x8769, 0x8825, 33434, 40962, 37500


def photograph() -> Image:
    image = decode_picture(sample(PICTURE).read_bytes())
    assert image is not None
    return image


def encoded(image: Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Pictures.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def test_what_is_read_can_be_written() -> None:
    assert set(WRITABLE) == PICTURES


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF"])
def test_these_files_keep_every_pixel(suffix: str, picture: MakePicture) -> None:
    image = picture(31, 45)
    again = decode_picture(encode_picture(image, suffix))
    assert again is not None and np.array_equal(again, image)
    assert again.flags.c_contiguous and again.flags.writeable


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_these_stay_close(suffix: str) -> None:
    image = photograph()
    again = decode_picture(encode_picture(image, suffix))
    assert again is not None
    assert 10 * np.log10(255**2 / np.mean((again.astype(float) - image) ** 2)) > 33


def test_a_picture_that_is_too_wide_for_its_format_is_one_clear_line() -> None:
    with pytest.raises(SinkError, match=r"A \.webp file cannot hold this picture.*\.png"):
        encode_picture(np.zeros((2, 20_000, 3), np.uint8), ".webp")
    with pytest.raises(SinkError, match="no picture that sdps writes"):
        encode_picture(np.zeros((2, 2, 3), np.uint8), ".gif")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_every_kind(kind: str, orientation: int) -> None:
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :32] = 200
    exif = Pictures.Exif()
    exif[0x0112] = orientation
    flipped = stored[:, ::-1] if orientation in (2, 4, 5, 7) else stored
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    got = decode_picture(encoded(stored, kind, exif=exif))
    expected = np.rot90(flipped, turns)
    assert got is not None and got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).mean() < 3


def png(width: int, height: int, depth: int, colour: int, rows: bytes, more: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_colour_profile_is_kept(suffix: str, tmp_path: Path) -> None:
    """Without it a telephone's photograph, in Display P3, would change its colours."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Pictures.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / f"in{suffix}", icc_profile=profile)
    source = open_source(str(tmp_path / f"in{suffix}"))
    Pipeline(source, lambda image: image, open_sink(str(tmp_path / f"out{suffix}"), source.info)).run()
    assert Pictures.open(tmp_path / f"out{suffix}").info["icc_profile"] == profile


def test_a_profile_of_other_colours_than_rgb_is_not(tmp_path: Path) -> None:
    """What was grey is RGB afterwards."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = b"GRAY"
    Pictures.new("L", (64, 48), 90).save(tmp_path / "in.png", icc_profile=bytes(profile))
    decoded = decode((tmp_path / "in.png").read_bytes())
    assert decoded is not None and decoded.profile == b""


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_exif_is_kept_but_for_what_is_no_longer_true(suffix: str, tmp_path: Path) -> None:
    """Archives are sorted by the moment; the picture is upright by now, and of another size."""
    exif = Pictures.Exif()
    exif[ORIENTATION], exif[MOMENT] = 6, "2026:11:22 10:00:00"
    exif.get_ifd(EXIF).update({SHUTTER: (1, 250), WIDTH: 64, MAKERS_OWN: b"points elsewhere"})
    exif.get_ifd(PLACE)[1] = "N"
    Pictures.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / f"in{suffix}", exif=exif.tobytes())
    source = open_source(str(tmp_path / f"in{suffix}"))
    Pipeline(source, lambda image: image, open_sink(str(tmp_path / f"out{suffix}"), source.info)).run()
    with Pictures.open(tmp_path / f"out{suffix}") as written:
        assert written.size == (48, 64)
        kept = written.getexif()
    assert kept[MOMENT] == "2026:11:22 10:00:00" and ORIENTATION not in kept
    assert set(kept.get_ifd(EXIF)) == {SHUTTER} and kept.get_ifd(PLACE)[1] == "N"


def test_damaged_exif_costs_nothing_but_itself(tmp_path: Path) -> None:
    Pictures.new("RGB", (64, 48), (200, 30, 30)).save(
        tmp_path / "in.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"
    )
    decoded = decode((tmp_path / "in.jpg").read_bytes())
    assert decoded is not None and decoded.image.shape == (48, 64, 3) and decoded.exif == b""


def test_a_glob_goes_through_folders(picture: MakePicture, tmp_path: Path) -> None:
    for name in ("a.png", "b/c.png", "b/d/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Pictures.fromarray(picture(8, 8)).save(tmp_path / name)
    source = open_source(str(tmp_path / "**/*.png"))
    assert [frame.name for frame in source] == ["a.png", "c.png", "e.png"]


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_all_65536_levels_are_rounded_to_the_nearest(colour: int, channels: int) -> None:
    """Grey, RGB, and both with transparency."""
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(channels, 2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    got = decode_picture(png(256, 256, 16, colour, rows))
    assert got is not None
    assert np.abs(got[..., 1] - levels[..., 0] / 257).max() <= 0.5


def test_floats_and_whole_numbers_of_32_bits_are_refused() -> None:
    for kind in (np.float32, np.int32):
        assert decode_picture(encoded(np.zeros((8, 8), kind), "TIFF")) is None  # type: ignore[arg-type]


def test_large_pictures_are_legal_and_pillows_own_limit_stays(
    picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pictures, "MAX_IMAGE_PIXELS", 12_000)  # ROWS of it are fewer
    data = encode_picture(picture(600, 45), ".png")
    assert decode_picture(data) is not None
    with pytest.raises(Pictures.DecompressionBombError):
        Pictures.open(io.BytesIO(data))
    assert decode_picture(png(2**20, 2**20, 8, 2, b"")) is None


WHOLE = [
    encode_picture(np.tile(np.arange(48, dtype=np.uint8), (9, 1, 1)).reshape(9, 16, 3), s) for s in WRITABLE
]


@pytest.mark.parametrize("data", WHOLE, ids=list(WRITABLE))
def test_a_file_that_was_cut_is_none(data: bytes) -> None:
    assert decode_picture(data) is not None
    for end in range(0, len(data) - 8, 7):
        got = decode_picture(data[:end])
        assert got is None or got.shape == (9, 16, 3)
    assert decode_picture(data[: len(data) // 2]) is None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(WHOLE), st.integers(0, 10_000), st.binary(min_size=1, max_size=6))
def test_damage_never_raises(data: bytes, place: int, noise: bytes) -> None:
    place %= len(data)
    got = decode_picture(data[:place] + noise + data[place + len(noise) :])
    assert got is None or (got.ndim == 3 and got.shape[2] == 3 and got.dtype == np.uint8)


SHORT = """
import resource, sys
from pathlib import Path
from sdps.core.errors import SourceError
from sdps.runtime.picture_source import PictureSource
large, small = (Path(name) for name in sys.argv[1:])
used = next(int(x.split()[1]) << 10 for x in open("/proc/self/status") if x.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
source = PictureSource([large, small])
print([frame.name for frame in source], source.skipped, *source.notes)
try:
    PictureSource([large])
except SourceError as error:
    print(error.message)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits and reads memory as Linux does")
@pytest.mark.parametrize("options", [("PNG", {}), ("JPEG", {"progressive": True})], ids=lambda o: o[0])
def test_a_picture_that_memory_does_not_hold_is_not_called_unreadable(
    options: tuple[str, dict[str, object]], tmp_path: Path
) -> None:
    large, small = tmp_path / "large", tmp_path / "small.png"
    kind, more = options
    Pictures.new("L", (12_000, 12_000)).save(large, kind, compress_level=1, **more)
    Pictures.new("RGB", (8, 8)).save(small)
    done = subprocess.run(
        [sys.executable, "-c", SHORT, large, small], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines() == [
        f"['small.png'] 1 skipped {large}: not enough memory to read it",
        f"There is not enough memory to read {large}.",
    ]


TURNED = """
import resource, sys
from sdps.core.pictures import decode_picture
data = open(sys.argv[1], "rb").read()
used = next(int(x.split()[1]) << 10 for x in open("/proc/self/status") if x.startswith("VmSize"))
pixels = 8000 * 7000
# Room for Pillow's pixels of 4 bytes and ours of 3, not for Pillow's twice.
resource.setrlimit(resource.RLIMIT_AS, (used + round(7.5 * pixels),) * 2)
try:
    print(decode_picture(data).shape)
except MemoryError:
    print("no memory")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits and reads memory as Linux does")
@pytest.mark.parametrize(("orientation", "expected"), [(1, "(7000, 8000, 3)"), (6, "no memory")])
def test_a_picture_that_memory_does_not_turn_does_not_come_unturned(
    orientation: int, expected: str, tmp_path: Path
) -> None:
    exif = Pictures.Exif()
    exif[0x0112] = orientation
    Pictures.new("RGB", (8000, 7000)).save(tmp_path / "large.jpg", exif=exif)
    command = [sys.executable, "-c", TURNED, tmp_path / "large.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == expected


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "TIFF"])
def test_that_only_the_first_of_several_pictures_is_taken_is_said(
    kind: str, picture: MakePicture, tmp_path: Path
) -> None:
    pages = [Pictures.fromarray(np.roll(picture(20, 30), 5 * i, 1)) for i in range(3)]
    for name in ("a", "b", "c"):
        pages[0].save(tmp_path / f"{name}.{kind.lower()}", kind, save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / f"d.{kind.lower()}", kind)
    source = open_source(str(tmp_path))
    assert len(list(source)) == 4
    name = f"a.{kind.lower()}"
    assert source.info.notes == [f"only the first of 3 pictures in {name} is taken, and so of 2 more files"]
    assert len(list(open_source(str(tmp_path / f"d.{kind.lower()}")))) == 1


def test_pictures_of_other_kinds_are_counted_and_jfif_is_a_jpeg(picture: MakePicture, tmp_path: Path) -> None:
    Pictures.fromarray(picture(20, 30)).save(tmp_path / "a.jfif", "JPEG")
    for name in ("b.heic", "c.HEIC", "d.gif", "words.txt"):
        (tmp_path / name).write_bytes(b"1234")
    for uri in (str(tmp_path), str(tmp_path / "*")):
        source = open_source(uri)
        sink = open_sink(str(tmp_path / "out"), source.info)
        assert Pipeline(source, lambda image: image, sink).run().written == 1
        assert source.info.notes == ["3 pictures of other kinds left out: .gif, .heic"]
    assert decode_picture((tmp_path / "out" / "a.jfif").read_bytes()) is not None
