"""Refitting: what can be known without a GPU is checked before one is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from sdps.core.errors import EngineError, UsageError
from sdps.core.gpu import first_gpu
from sdps.core.sidecar import sidecar_path
from sdps.core.spec import ShapeRange, Size
from sdps.export.engine import build_engine, structure_sha256
from sdps.export.engine_options import RTX
from sdps.export.refit import refit_engine


def test_structure_is_what_training_does_not_change(small: Callable[..., onnx.ModelProto]) -> None:
    assert structure_sha256(small()) == structure_sha256(small(gain=3.0))
    assert small().SerializeToString() != small(gain=3.0).SerializeToString()
    others = [small("64x48"), small("dynamic"), small(quantised=True)]
    assert len({structure_sha256(model) for model in (small(), *others)}) == 4


def test_only_stripped_engines_of_the_same_network_are_refitted(
    small: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    pytest.importorskip(RTX)
    engine = tmp_path / "small.engine"
    build_engine(small().SerializeToString(), engine, RTX, ShapeRange.fixed(Size(32, 48)))
    trained = small(gain=2.0).SerializeToString()
    with pytest.raises(EngineError, match="not built to be refitted"):
        refit_engine(engine, trained, tmp_path / "full.engine")
    # As the sidecar of a stripped one says; without a GPU none can be built here.
    said = json.loads(sidecar_path(engine).read_text())
    sidecar_path(engine).write_text(json.dumps(said | {"options": {"strip_weights": True}, "stripped": True}))
    with pytest.raises(EngineError, match="another network than small"):
        refit_engine(engine, small("64x48").SerializeToString(), tmp_path / "full.engine")
    if first_gpu() is None:
        with pytest.raises(UsageError, match="needs a GPU"):
            refit_engine(engine, trained, tmp_path / "full.engine")
    assert not (tmp_path / "full.engine").exists()
