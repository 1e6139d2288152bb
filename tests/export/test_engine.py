"""Engines: TensorRT-RTX really builds, and nothing runs an engine that its sidecar does not vouch for."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import ModelProto

from sdps.core.errors import EngineError, MissingDependency, ModelError, UsageError
from sdps.core.sidecar import EngineSidecar, check_sidecar, read_sidecar, sidecar_path
from sdps.core.spec import ShapeRange, Size
from sdps.export.engine import build_engine, pick_flavour
from sdps.export.engine_options import RTX, EngineOptions

pytestmark = pytest.mark.skipif(importlib.util.find_spec(RTX) is None, reason="TensorRT-RTX is not installed")

GraphMaker = Callable[..., ModelProto]
ODD = ShapeRange.fixed(Size(61, 90))
RANGE = ShapeRange(Size(32, 32), Size(64, 96), Size(128, 192))


@pytest.fixture(scope="module")
def built(graph: GraphMaker, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EngineSidecar]:
    path = tmp_path_factory.mktemp("engine") / "tiny.engine"
    return path, build_engine(graph("fp16").SerializeToString(), path, RTX, ODD)


@pytest.mark.parametrize(
    ("precision", "size", "shapes"), [("fp32", "61x90", ODD), ("fp16", "dynamic", RANGE)]
)
def test_rtx_builds(graph: GraphMaker, tmp_path: Path, precision: str, size: str, shapes: ShapeRange) -> None:
    model = tmp_path / "tiny.onnx"
    model.write_bytes(graph(precision, size).SerializeToString())
    engine = tmp_path / "tiny.engine"
    steps: list[tuple[int, int]] = []
    sidecar = build_engine(
        model,
        engine,
        RTX,
        shapes,
        options=EngineOptions(workspace_mib=512),
        progress=lambda _, done, total: steps.append((done, total)),
    )
    assert sidecar.graph_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert sidecar.manifest["sdps.name"] == "tiny"
    assert (sidecar.precision, sidecar.min_size, sidecar.max_size) == (
        precision,
        str(shapes.min),
        str(shapes.max),
    )
    assert any(done for done, _ in steps)  # the builder says how far it is
    assert {path.name for path in tmp_path.iterdir()} == {
        f"tiny.{suffix}" for suffix in ("onnx", "engine", "engine.json", "engine.log")
    }


def test_the_sidecar_vouches_for_the_engine(built: tuple[Path, EngineSidecar]) -> None:
    engine, sidecar = built
    assert check_sidecar(engine, sidecar.flavour_version) == read_sidecar(engine) == sidecar
    assert sidecar.engine_bytes == engine.stat().st_size > 100_000
    assert sidecar.gpu


def test_tampering_is_found(built: tuple[Path, EngineSidecar], tmp_path: Path) -> None:
    engine, sidecar = built
    copy = tmp_path / "copy.engine"
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    with pytest.raises(EngineError, match="has no sidecar"):
        check_sidecar(copy)
    values = json.loads(sidecar_path(engine).read_text())
    sidecar_path(copy).write_text(json.dumps(values))
    with pytest.raises(EngineError, match="not the file that was built"):
        check_sidecar(copy)
    copy.write_bytes(engine.read_bytes())
    assert check_sidecar(copy) == sidecar
    with pytest.raises(EngineError, match=r"9\.9 is installed"):
        check_sidecar(copy, "9.9")
    sidecar_path(copy).write_text(json.dumps(values | {"format": "0"}))
    with pytest.raises(EngineError, match="not one that this sdps reads"):
        check_sidecar(copy)
    sidecar_path(copy).write_text("{")
    with pytest.raises(EngineError, match="damaged"):
        check_sidecar(copy)
    with pytest.raises(EngineError, match="There is no engine"):
        check_sidecar(tmp_path / "none.engine")


def test_ctrl_c_stops_the_build_and_leaves_nothing(graph: GraphMaker, tmp_path: Path) -> None:
    timers: list[threading.Timer] = []

    def interrupt_soon(what: str, done: int, total: int) -> None:
        if not timers:  # while the main thread waits for the builder, as when a user presses the keys
            timers.append(threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)))
            timers[0].start()

    # A shell starts what it runs in the background with SIGINT ignored, the tests too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build_engine(
                graph("fp32").SerializeToString(), tmp_path / "x.engine", RTX, ODD, progress=interrupt_soon
            )
    finally:
        signal.signal(signal.SIGINT, before)
    assert not [thread for thread in threading.enumerate() if thread.name == "engine build"]
    assert not list(tmp_path.iterdir())


def test_what_the_parser_refuses_is_named(graph: GraphMaker, tmp_path: Path) -> None:
    model = graph("fp32")
    node = next(node for node in model.graph.node if node.op_type == "Erf")
    node.op_type, node.name = "NoSuchOperator", "strange"
    with pytest.raises(EngineError, match="NoSuchOperator"):
        build_engine(model.SerializeToString(), tmp_path / "x.engine", RTX, ODD)
    assert [path.name for path in tmp_path.iterdir()] == ["x.engine.log"]  # where to look further
    assert "NoSuchOperator" in (tmp_path / "x.engine.log").read_text()


def test_graphs_and_sizes_must_fit(graph: GraphMaker, tmp_path: Path) -> None:
    fixed = graph("fp32")
    with pytest.raises(EngineError, match="takes 61x90 only"):
        build_engine(fixed.SerializeToString(), tmp_path / "x.engine", RTX, RANGE)
    with pytest.raises(EngineError, match="multiples of 4"):
        build_engine(graph("fp32", "dynamic").SerializeToString(), tmp_path / "x.engine", RTX, ODD)
    del fixed.metadata_props[:]
    with pytest.raises(ModelError, match="no sdps description"):
        build_engine(fixed.SerializeToString(), tmp_path / "x.engine", RTX, ODD)


def test_flavours() -> None:
    assert pick_flavour("none") == (None, "")
    assert pick_flavour("rtx") == (RTX, "")
    assert pick_flavour("auto")[0] in (RTX, "tensorrt")
    with pytest.raises(UsageError):
        pick_flavour("fast")
    if importlib.util.find_spec("tensorrt") is None:
        with pytest.raises(MissingDependency, match="JetPack"):
            pick_flavour("tensorrt")
