"""Frames that are empty, odd, frozen, too fast or of another size, clocks that jump: faults 10 to 16."""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sdps import Derainer
from sdps.core.errors import FrameError, SourceError
from sdps.core.frame import Frame
from sdps.runtime.cut import Cut
from sdps.runtime.live_source import LiveSource, Patience
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.sinks import open_sink
from sdps.runtime.sources import open_source
from sdps.runtime.stream import StreamInfo

from .conftest import MakeVideo, probe
from .live import Fake, Run, ticking


def live(frames: Iterator[Frame], **patience: float) -> LiveSource:
    return LiveSource(lambda: Fake(frames), "fake", patience=Patience(**patience))


def endless(rate: float = 100, start: int = 0) -> Iterator[Frame]:
    return (f for f in ticking(10**9, rate, lambda i: np.full((48, 64, 3), (i + start) % 200, np.uint8)))


def test_fault_10_and_13_what_is_no_picture_is_counted_and_never_reaches_the_model() -> None:
    odd: list[Any] = [
        np.zeros((0, 64, 3), np.uint8),
        None,
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 3), np.float32),
        np.zeros((48, 64, 4), np.uint8),
        "text",
    ]
    inferred: list[tuple[int, ...]] = []

    class Faulty(Fake):
        def __init__(self) -> None:
            super().__init__(iter(()))
            self.info = StreamInfo("video", 64, 48)

        def __iter__(self) -> Iterator[Frame]:
            for i, bad in enumerate(odd):
                yield Frame(bad, 2 * i)
                yield Frame(np.full((48, 64, 3), i, np.uint8), 2 * i + 1)

    with Run(Faulty(), derain=lambda image: (inferred.append(image.shape), image)[1]) as run:
        run.until(lambda: not run.thread.is_alive() or run.pipeline.summary.written == len(odd))
    assert inferred == [(48, 64, 3)] * len(odd)
    assert run.pipeline.summary.skipped == len(odd)
    assert [e.kind for e in run.seen] == ["unreadable"] * len(odd)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.none(),
        st.text(max_size=3),
        arrays.arrays(
            st.sampled_from([np.uint8, np.int16, np.float32, np.float64, np.bool_]),
            arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
        ),
    )
)
def test_fault_13_the_derainer_takes_pictures_and_refuses_the_rest_with_its_own_error(value: Any) -> None:
    derainer = Derainer.load(provider="identity")
    good = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3
    if good and value.shape[2] == 3 and 0 not in value.shape:
        assert np.array_equal(derainer(value), value)
    else:
        with pytest.raises(FrameError):
            derainer(value)


def test_fault_11_a_frozen_picture_is_reported_until_it_moves() -> None:
    moving = threading.Event()

    def picture(i: int) -> np.ndarray:
        return np.full((48, 64, 3), i % 200 if moving.is_set() else 90, np.uint8)

    # Through a cut as well: --every must not hide what the camera says of itself.
    with Run(Cut(live(ticking(10**9, 100, picture), frozen=0.4), every=2)) as run:
        frozen = run.event("frozen")
        assert "same picture" in frozen.text
        figures = run.pipeline.figures()
        assert (figures["state"], figures["healthy"]) == ("frozen", False)
        moving.set()
        run.event("moving")
        assert run.pipeline.figures()["healthy"]


def test_fault_12_a_change_of_size_is_said_and_the_recording_goes_on(tmp_path: Path) -> None:
    """Two pieces of a transport stream, joined as a camera does that is switched to another mode."""
    joined = tmp_path / "joined.ts"
    with joined.open("wb") as out:
        for number, (height, width) in enumerate(((48, 64), (96, 96))):
            piece = tmp_path / f"{number}.ts"
            with av.open(str(piece), "w") as container:
                stream: Any = container.add_stream("libx264", rate=25, options={"bf": "0"})
                stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
                for i in range(10):
                    frame = av.VideoFrame.from_ndarray(
                        np.full((height, width, 3), 80 + 90 * number, np.uint8), format="rgb24"
                    )
                    frame.pts, frame.time_base = 10 * number + i, Fraction(1, 25)
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
            out.write(piece.read_bytes())
    source = open_source(str(joined))
    with Run(source, open_sink(str(tmp_path / "out.mp4"), source.info)) as run:
        run.thread.join(20)
    said = [e.text for e in run.seen if e.kind == "resized"]
    assert "the picture changed from 64x48 to 96x96" in said
    assert any("stays 64x48" in text for text in said)
    result = probe(tmp_path / "out.mp4")
    assert (len(result.frames), result.size) == (20, (48, 64))
    last = result.frames[-1].astype(int)
    assert abs(last[24, 32].mean() - 170) < 6 and last[24, 2].mean() < 20, "scaled with its proportions"


CLOCK_TEST = """
import sys, time
from pathlib import Path
from tests.runtime.live import Run, ticking
from tests.runtime.test_faults_frames import live
wall = Path(sys.argv[1])
seen = [time.time()]
with Run(live(ticking(10**9, 50))) as run:
    for jump in ("+40d", "-3000d", "+0"):
        wall.write_text(jump)
        run.frames(4)
        seen.append(time.time())
    s = run.pipeline.summary
    jumped = seen[1] - seen[0] > 3e6 and seen[1] - seen[2] > 2e8
    print(jumped, run.pipeline.figures()["state"], s.stale, s.reconnects, len(run.seen), max(s.latency) < 5)
"""


def test_fault_14_a_wall_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    """Forty days ahead, eight years back, and home again, while frames come."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("needs Debian's faketime")
    wall = tmp_path / "wall"
    wall.write_text("+0")
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(wall),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CLOCK_TEST, str(wall)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert done.stdout.split() == ["True", "live", "0", "0", "0", "True"], done.stderr


def test_fault_14_only_records_for_people_read_the_wall_clock() -> None:
    runtime = Path(__file__).parents[2] / "runtime"
    readers = {
        p.name for p in runtime.rglob("*.py") if "time.time()" in p.read_text() or ".now(" in p.read_text()
    }
    assert readers <= {"record.py"}


def test_fault_15_frames_faster_than_the_model_are_dropped_in_flat_memory() -> None:
    """1,000 frames of 0.9 MB, unpaced, with a model that takes a while: nothing piles up."""
    big = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)

    def flood(i: int) -> np.ndarray:
        return big + np.uint8(i % 50)

    def slow(image: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        return image

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Run(live(ticking(1_000, 100_000, flood)), derain=slow) as run:
        run.event("lost", timeout=60)
    summary = run.pipeline.summary
    assert summary.dropped > summary.written > 5
    assert all(a < b for a, b in itertools.pairwise(run.sink.numbers))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 150, "1,000 frames would be 900 MB"


def test_fault_16_a_device_that_vanishes_is_opened_again() -> None:
    opened: list[Fake] = []

    def connect() -> Fake:
        def frames() -> Iterator[Frame]:
            yield from ticking(10, 100)
            raise OSError(19, "No such device")

        if len(opened) == 1:
            opened.append(Fake(iter(())))
            raise SourceError("Camera 0 cannot be opened.")
        opened.append(Fake(frames() if not opened else endless()))
        return opened[-1]

    with Run(LiveSource(connect, "Camera 0")) as run:
        assert "No such device" in run.event("lost").text
        run.event("recovered")
        run.frames(5)
        numbers = run.sink.numbers
    assert opened[0].closed and opened[2].closed, "no handle is left open"
    assert run.pipeline.summary.reconnects == 2
    assert numbers == sorted(set(numbers)), "numbered on across connections"


def test_a_reader_that_hangs_in_its_library_is_left_behind() -> None:
    """What fault 2 does to OpenCV: the read never returns. Its late frame is not shown."""
    let_go, late = threading.Event(), threading.Event()
    connections = itertools.count()

    def connect() -> Fake:
        def hanging() -> Iterator[Frame]:
            yield from ticking(5, 100)
            let_go.wait(30)
            yield Frame(np.full((48, 64, 3), 255, np.uint8))
            late.set()

        return Fake(hanging() if next(connections) == 0 else endless())

    with Run(LiveSource(connect, "fake", patience=Patience(stale=0.3, silent=0.6))) as run:
        run.event("stale")
        run.event("recovered")
        let_go.set()
        run.frames(10)
        assert not late.is_set(), "its frame was refused, so it ended"
    assert all(image.max() < 255 for image in run.sink.images)


def test_memory_threads_and_descriptors_stay_flat_over_losses() -> None:
    def usage() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    source = LiveSource(lambda: Fake(ticking(3, 500)), "fake", patience=Patience(retry=0.01, retry_most=0.02))
    with Run(source) as run:
        run.event("recovered", after=3)
        before = usage()
        run.event("recovered", after=40, timeout=60)
        after = usage()
    assert abs(after[0] - before[0]) <= 1 and abs(after[1] - before[1]) <= 1


def test_the_pipeline_ends_promptly_while_a_source_hangs(make_video: MakeVideo) -> None:
    let_go = threading.Event()

    def frames() -> Iterator[Frame]:
        yield from ticking(3, 100)
        let_go.wait(60)

    source = live(frames())
    pipeline = Pipeline(source, lambda image: image, open_sink("none", source.info))
    threading.Timer(0.3, pipeline.stop).start()
    begin = time.monotonic()
    summary = pipeline.run()
    let_go.set()
    assert time.monotonic() - begin < 3
    assert summary.written >= 1 and not summary.complete
