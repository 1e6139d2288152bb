"""The pipeline's benchmark measures what it says: the time code survives a codec, the counts add up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdps.benchmarks.glass_to_glass import draw_time, read_time
from sdps.benchmarks.throughput import Throughput, still, write_clip
from sdps.benchmarks.timing import Ratio
from sdps.core.frame import Frame
from sdps.core.spec import Size
from sdps.runtime.sinks import open_sink
from sdps.runtime.sources import open_source
from sdps.runtime.stream import StreamInfo

CODES = [0, 1, 2**24 - 1, 0b101010101010101010101010, 123_456, 9_999_999]


def test_the_time_code_survives_encoding_and_decoding(tmp_path: Path) -> None:
    path, picture = tmp_path / "codes.mp4", still(Size(96, 240))
    sink = open_sink([str(path)], StreamInfo("video", 240, 96))
    for i, code in enumerate(CODES):
        frame = Frame(draw_time(picture, code), i, i / 25)
        assert sink.write(frame, frame)
    sink.close()
    source = open_source(str(path))
    assert [read_time(frame.image) for frame in source] == CODES
    source.close()


def test_a_picture_without_a_code_or_with_half_of_two_is_not_read() -> None:
    picture = still(Size(96, 240))
    assert read_time(picture) is None
    halves = (draw_time(picture, 0).astype(np.uint16) + draw_time(picture, 2**24 - 1)) // 2
    assert read_time(halves.astype(np.uint8)) is None


def test_the_clip_has_the_frames_and_the_size_that_were_asked_for(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", Size(64, 96), 7)
    source = open_source(str(tmp_path / "clip.mp4"))
    images = [frame.image for frame in source]
    source.close()
    assert len(images) == 7 and {image.shape for image in images} == {(64, 96, 3)}
    assert not np.array_equal(images[0], images[1]), "it moves, or an engine's output would look frozen"


def test_what_sharing_a_core_would_cost() -> None:
    measured = Throughput(
        10, Ratio(1, 1, 1), (), (), (), engine_cpu_s=9.0, pipeline_cpu_s=10.0, copy_cpu_s=1.0
    )
    assert measured.shared_core == pytest.approx(0.9)


def test_the_command_measures_a_file_and_a_stream(tmp_path: Path) -> None:
    out = tmp_path / "pipeline.json"
    given = {"wait-ms": 5, "size": "96x240", "frames": 6, "rounds": 1, "fps": 10, "seconds": 3, "out": out}
    options = [f"--{name}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "sdps.benchmarks.pipeline", *options]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Glass to glass" in said and "5 ms and no core" in said
    latency = json.loads(out.read_text())["latency"]
    assert 0 < latency["p50_ms"] <= latency["p95_ms"] <= latency["p99_ms"]
    assert latency["arrived"] + latency["dropped"] <= latency["drawn"] and latency["unread"] == 0
