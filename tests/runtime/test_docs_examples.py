"""The examples in docs/runtime.md run as they stand."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from sdps.core.frame import Image

from .conftest import MakeVideo

PAGE = (Path(__file__).parents[2] / "docs" / "runtime.md").read_text()


def example(name: str) -> Any:
    match = re.search(rf"<!-- tested: {name} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert match, name
    return compile(match[1], f"docs/runtime.md:{name}", "exec")


def test_the_opencv_loop(make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video("rain.mp4", times=3)
    monkeypatch.chdir(tmp_path)
    exec(example("opencv"), {})
    capture = cv2.VideoCapture(str(tmp_path / "clean.avi"))
    counted = 0
    while capture.read()[0]:
        counted += 1
    assert counted == 3


def test_the_ros_like_callback() -> None:
    published: list[Image] = []

    def spin(on_image: Callable[[Any], None]) -> None:
        for i in range(5):
            data = np.full((48, 64, 3), 40 * i, np.uint8).tobytes()
            on_image(SimpleNamespace(data=data, height=48, width=64))
        deadline = time.monotonic() + 30
        while not published and time.monotonic() < deadline:
            time.sleep(0.01)

    exec(example("ros"), {"publish": published.append, "spin": spin})
    assert published and published[0].shape == (48, 64, 3)


def test_every_option_that_the_page_names_exists() -> None:
    from typer.main import get_command

    from sdps.runtime.cli import app

    parameters = get_command(app).params
    known = {name for p in parameters for name in (*p.opts, *p.secondary_opts)}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) <= known
