"""Runs that are ended while the model is busy: promptly, and without a crash."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdps.core.frame import Frame, Image
from sdps.runtime.pipeline import Pipeline
from sdps.runtime.stream import StreamInfo
from sdps.runtime.window_sink import WindowSink


class Still:
    """A camera that shows the same picture."""

    def __init__(self) -> None:
        self.info, self.skipped = StreamInfo("camera", 64, 48, live=True), 0

    def __iter__(self) -> Iterator[Frame]:
        yield Frame(np.zeros((48, 64, 3), np.uint8))

    def close(self) -> None:
        """Nothing is open."""


def test_the_window_obeys_while_the_model_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    import pygame

    busy, enough = threading.Event(), threading.Event()

    def endless(image: Image) -> Image:
        busy.set()
        enough.wait(60)
        return image

    class Watched(WindowSink):
        def idle(self) -> bool:
            if busy.is_set():
                pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_q))
                going_on = super().idle()
                enough.set()  # only once the key was seen is the frame let go
                return going_on
            return super().idle()

    source = Still()
    summary = Pipeline(source, endless, Watched(source.info)).run()
    assert (summary.written, summary.complete) == (0, False)


def test_the_mouse_may_move_before_the_first_frame_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    import pygame

    window = WindowSink(StreamInfo("video", 64, 48), "wipe")
    frame = Frame(np.zeros((48, 64, 3), np.uint8), time=0.1)  # streams may begin after zero
    pygame.event.post(pygame.event.Event(pygame.MOUSEMOTION, pos=(16, 5), rel=(0, 0), buttons=(0, 0, 0)))
    assert window.write(frame, frame)
    assert window.position == pytest.approx(0.25)
    window.close(complete=False)


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_interrupting_within_a_huge_picture_ends_cleanly(provider: str, tmp_path: Path) -> None:
    """The engine is deep in native code then, which an ordinary exit of Python would crash."""
    path = tmp_path / "huge.png"
    assert cv2.imwrite(str(path), np.full((6000, 9000, 3), 90, np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    code = (
        "import sys; from sdps.runtime import tiling; real = tiling._in_flight\n"
        "def tell(*a): print('busy', flush=True); return real(*a)\n"
        "tiling._in_flight = tell; from sdps.runtime.cli import main; main()"
    )
    arguments = ["--input", str(path), "--output", str(tmp_path / "out.png"), "--provider", provider]
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopped early" in errors and "Traceback" not in errors and "terminate" not in errors
    assert [p.name for p in tmp_path.iterdir()] == ["huge.png"]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['sdps-run', '--help']\n"
        "from sdps.runtime.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('numpy', 'cv2', 'PIL', 'av', 'onnxruntime', 'openvino', 'torch', 'pygame')\n"
        "sys.exit(str([m for m in heavy if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"
