"""Videos and pictures in and out: sizes, times, sound and colours survive."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdps.core.errors import SdpsError, SourceError, UsageError
from sdps.core.frame import Image
from sdps.runtime.color import BT601_NTSC, BT709, BT2020, FULL, LIMITED, ColorSpec, to_rgb, to_yuv
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.sinks import open_sink
from sdps.runtime.sources import natural, open_source, redacted

from .conftest import MakeVideo, probe

MakePicture = Callable[[int, int], Image]


def same(image: Image) -> Image:
    return image


def copy(source: Path | str, target: Path, compare: str = "off", limit: int | None = None) -> None:
    stream = open_source(str(source))
    Pipeline(stream, same, open_sink(str(target), stream.info, compare, limit=limit), limit=limit).run()


def test_size_rate_count_and_times_survive(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(times=12)
    copy(path, tmp_path / "out.mp4")
    before, after = probe(path), probe(tmp_path / "out.mp4")
    assert (len(after.frames), after.size, after.rate) == (12, (48, 64), 25)
    assert after.times == before.times
    for a, b in zip(before.frames, after.frames, strict=True):
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 3


def test_a_variable_frame_rate_stays_variable(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video(times=[0, 1, 2, 7, 8, 20, 21])
    copy(path, tmp_path / "out.mkv")
    assert probe(tmp_path / "out.mkv").times == pytest.approx(probe(path).times, abs=0.002)


@pytest.mark.parametrize("size", [(47, 64), (48, 63), (45, 61)])
def test_an_odd_size_is_kept(size: tuple[int, int], make_video: MakeVideo, tmp_path: Path) -> None:
    copy(make_video(size=size), tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4").size == size


@pytest.mark.parametrize(
    ("container", "audio", "target", "expected"),
    [
        ("in.mp4", "aac", "out.mp4", "aac"),
        ("in.mkv", "aac", "out.mkv", "aac"),
        ("in.mkv", "pcm_s16le", "out.mp4", "aac"),  # mp4 holds no such PCM: re-encoded
        ("in.mp4", "aac", "out.webm", "opus"),
    ],
)
def test_sound_is_carried_over(
    container: str, audio: str, target: str, expected: str, make_video: MakeVideo, tmp_path: Path
) -> None:
    copy(make_video(container, times=30, audio=audio), tmp_path / target)
    result = probe(tmp_path / target)
    assert len(result.frames) == 30
    assert expected in result.codec
    assert result.sound == pytest.approx(30 / 25, abs=0.08)


def test_the_sound_ends_with_the_pictures_when_a_limit_cuts_them(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    copy(make_video(times=50, audio="aac"), tmp_path / "out.mp4", limit=10)
    result = probe(tmp_path / "out.mp4")
    assert len(result.frames) == 10
    assert 0.2 < result.sound < 0.6


BARS = [
    (255, 255, 255),
    (230, 230, 20),
    (20, 230, 230),
    (20, 230, 20),
    (230, 20, 230),
    (230, 20, 20),
    (20, 20, 230),
    (0, 0, 0),
]


@pytest.mark.parametrize("matrix", [BT709, BT601_NTSC, BT2020])
@pytest.mark.parametrize("spread", [LIMITED, FULL])
def test_colour_bars_come_through(matrix: int, spread: int, make_video: MakeVideo, tmp_path: Path) -> None:
    bars = np.repeat(np.array(BARS, np.uint8)[None], 48, 0).repeat(16, 1)
    color, middles = ColorSpec(matrix, spread), slice(8, None, 16)
    converted = to_rgb(to_yuv(bars, "yuv420p", color), color)
    assert np.abs(converted[24, middles].astype(int) - bars[24, middles]).max() <= 2
    # Through two encodings as well: a wrong matrix or range would cost 15 levels and more.
    path = make_video(size=(48, 128), times=3, color=color, picture=bars)
    copy(path, tmp_path / "out.mp4")
    for file in (path, tmp_path / "out.mp4"):
        source = open_source(str(file))
        assert (source.info.color.matrix, source.info.color.range) == (matrix, spread)
        frame = next(iter(source)).image
        assert np.abs(frame[24, middles].astype(int) - bars[24, middles]).max() <= 6
        source.close()


def test_a_rotated_video_comes_out_upright(make_video: MakeVideo, tmp_path: Path) -> None:
    top_bright = np.zeros((48, 64, 3), np.uint8)
    top_bright[:24] = 220
    path = make_video(rotation=90, picture=top_bright)  # 90 degrees counter-clockwise
    source = open_source(str(path))
    assert (source.info.height, source.info.width) == (64, 48)
    frame = next(iter(source)).image
    assert frame.shape == (64, 48, 3)
    assert frame[:, :20].mean() > 200 > 50 > frame[:, 28:].mean(), "the top went to the left"
    source.close()
    copy(path, tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4").size == (64, 48)


def test_a_truncated_video_gives_what_it_has(make_video: MakeVideo, tmp_path: Path) -> None:
    whole = make_video("in.mkv", times=40, noisy=True)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    copy(cut, tmp_path / "out.mp4")
    assert 10 < len(probe(tmp_path / "out.mp4").frames) < 40


def test_damaged_bytes_are_survived(make_video: MakeVideo, tmp_path: Path) -> None:
    data = bytearray(make_video("in.mkv", times=40, noisy=True).read_bytes())
    for at in np.random.default_rng(1).integers(len(data) // 4, len(data) - 100, 30):
        data[at] ^= 0xFF
    (tmp_path / "hurt.mkv").write_bytes(data)
    copy(tmp_path / "hurt.mkv", tmp_path / "out.mp4")
    assert len(probe(tmp_path / "out.mp4").frames) > 10


@pytest.mark.parametrize("content", [b"", b"this is text", bytes(1000)])
def test_what_is_no_video(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=r"bad\.mp4") as caught:
        open_source(str(tmp_path / "bad.mp4"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["nowhere.mp4", "concat:a.mp4|b.mp4", "subfile,,start,0,end,9,,:a.mp4", "file:/etc/passwd"]
)
def test_what_is_not_opened(uri: str) -> None:
    with pytest.raises(UsageError):
        open_source(uri)


def test_passwords_are_not_repeated() -> None:
    assert redacted("rtsp://me:secret@cam/1") == "rtsp://me:***@cam/1"
    with pytest.raises(SourceError) as caught:
        open_source("rtsp://me:secret@127.0.0.1:9/stream")
    assert "secret" not in str(caught.value)


def write(path: Path, image: Image | np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def test_a_folder_of_pictures_in_natural_order_with_its_names(picture: MakePicture, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "new" / "out"
    folder.mkdir()
    for name, size in (("frame10.png", (30, 41)), ("frame9.png", (24, 32)), ("Frame1.JPG", (16, 16))):
        write(folder / name, picture(*size)[:, :, ::-1])
    (folder / "notes.txt").write_text("not a picture")
    (folder / "frame11.png").write_bytes(b"damaged")
    source = open_source(str(folder))
    summary = Pipeline(source, same, open_sink(str(out), source.info)).run()
    assert [p.name for p in sorted(out.iterdir())] == ["Frame1.JPG", "frame10.png", "frame9.png"]
    assert np.array_equal(cv2.imread(str(out / "frame10.png"))[:, :, ::-1], picture(30, 41))
    assert (summary.written, summary.skipped) == (3, 1)
    assert "frame11.png" in source.info.notes[0]


def test_a_glob(picture: MakePicture, tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"a{i}.png", picture(16, 16))
    source = open_source(str(tmp_path / "a[01].png"))
    assert [frame.name for frame in source] == ["a0.png", "a1.png"]
    with pytest.raises(UsageError, match="No picture matches"):
        open_source(str(tmp_path / "b*.png"))


def test_grey_deep_and_transparent_pictures(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (16, 1))
    grey = write(tmp_path / "grey.png", ramp)
    deep = write(tmp_path / "deep.png", ramp.astype(np.uint16)[..., None].repeat(3, 2) * 257)
    clear = write(tmp_path / "clear.png", np.dstack([ramp, ramp, ramp, 255 - ramp]))
    for path in (grey, deep, clear):
        frame = next(iter(open_source(str(path))))
        assert np.array_equal(frame.image, ramp[..., None].repeat(3, 2)), path.name


def test_one_picture_to_one_picture_and_not_several(
    picture: MakePicture, make_video: MakeVideo, tmp_path: Path
) -> None:
    path = write(tmp_path / "in.png", picture(31, 45)[:, :, ::-1])
    copy(path, tmp_path / "out.png", compare="side")
    assert cv2.imread(str(tmp_path / "out.png")).shape == (31, 90, 3)
    film = make_video()
    with pytest.raises(UsageError, match="one picture"):
        copy(film, tmp_path / "out.png")
    copy(film, tmp_path / "first.png", limit=1)
    first = next(iter(open_source(str(film)))).image
    assert np.array_equal(cv2.imread(str(tmp_path / "first.png"))[..., ::-1], first)


def test_the_input_is_never_the_output(make_video: MakeVideo) -> None:
    path = make_video()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="input itself"):
        copy(path, path)
    assert path.read_bytes() == before


def test_pictures_are_never_written_over_themselves(picture: MakePicture, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = write(folder / "a.png", picture(16, 16))
    before = path.read_bytes()
    for source, target in ((path, path), (folder, folder), (path, folder)):
        with pytest.raises(UsageError, match="input itself"):
            copy(source, target)
    assert path.read_bytes() == before


def test_two_pictures_of_one_name_are_refused_before_the_work(picture: MakePicture, tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.png", picture(16, 16))
    with pytest.raises(UsageError, match=r"written as a\.png"):
        copy(str(tmp_path / "[xy]" / "*.png"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_with_odd_digits_are_sorted_too() -> None:
    names = ["a10.png", "a9.png", "a\u00b22.png", "1a.png"]
    assert [p.name for p in sorted(map(Path, names), key=natural)] == [
        "1a.png",
        "a9.png",
        "a10.png",
        "a\u00b22.png",
    ]


@pytest.mark.parametrize("name", ["out.xyz", "out.mp3"])
def test_an_unknown_suffix(name: str, make_video: MakeVideo, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.mp4"):
        copy(make_video(), tmp_path / name)


def test_a_file_where_a_folder_should_be(make_video: MakeVideo, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SdpsError, match="cannot be written"):
        copy(make_video(), tmp_path / "file" / "out.mp4")


def test_frame_rates_such_as_ntsc_stay_exact(tmp_path: Path, make_video: MakeVideo) -> None:
    source = open_source(str(make_video()))
    assert source.info.fps == Fraction(25)
    assert source.info.frames == 12
    source.close()
