"""What is done with a new engine where there is a GPU, tried with a graph in the engine's place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from sdps.core.errors import EngineError, ParityError
from sdps.core.samples import PICTURE, sample
from sdps.core.spec import ShapeRange, Size
from sdps.export.device_check import device_drift, require_on_device, size_to_run
from sdps.export.parity import Bounds


def test_sdps_run_makes_the_graph_s_picture(small: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    file = tmp_path / "small.onnx"
    onnx.save(small(), file)
    drift = device_drift(file, small(), sample(PICTURE), Size(32, 48))
    assert drift.psnr_db > 60
    require_on_device(drift, Bounds.of("fp32"))
    with pytest.raises(ParityError, match="not vouched for"):
        require_on_device(
            device_drift(file, small(gain=2.0), sample(PICTURE), Size(32, 48)), Bounds.of("fp32")
        )


def test_what_does_not_run_says_why(small: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    engine = tmp_path / "small.engine"
    engine.write_bytes(b"no engine")
    with pytest.raises(EngineError, match=r"does not run here: .*engine"):
        device_drift(engine, small(), sample(PICTURE), Size(32, 48))


def test_a_size_that_the_profile_takes_is_run() -> None:
    assert size_to_run(ShapeRange.fixed(Size(61, 90))) == Size(61, 90)
    assert size_to_run(ShapeRange(Size(64, 64), Size(720, 1280), Size(1088, 1920))) == Size(256, 256)
    assert size_to_run(ShapeRange(Size(64, 320), Size(128, 320), Size(128, 640))) == Size(128, 320)
