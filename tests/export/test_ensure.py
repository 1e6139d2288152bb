"""An engine is used again if it is what a build would give, and otherwise built, with the reason said."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from sdps.core.artifact import sha256_of
from sdps.core.errors import EngineError
from sdps.core.sidecar import check_sidecar, read_engine, sidecar_path
from sdps.core.spec import ShapeRange, Size
from sdps.export.engine import ensure_engine
from sdps.export.engine_options import RTX, EngineOptions

pytestmark = pytest.mark.skipif(importlib.util.find_spec(RTX) is None, reason="TensorRT-RTX is not installed")

SHAPES = ShapeRange.fixed(Size(32, 48))


@pytest.fixture
def ensured(small: Callable[..., onnx.ModelProto], tmp_path: Path) -> Callable[..., Any]:
    """ensured(**changes): the small graph's engine in tmp_path, as `ensure_engine` returns it."""
    data = small().SerializeToString()

    def ensure(graph: bytes = data, **changes: Any) -> Any:
        return ensure_engine(graph, tmp_path / "small.engine", RTX, SHAPES, **changes)

    return ensure


def test_the_same_again_is_not_built_again(ensured: Callable[..., Any], tmp_path: Path) -> None:
    first = ensured()
    assert (first.reused, first.reason) == (False, "")
    written = (tmp_path / "small.engine").stat().st_mtime_ns
    again = ensured()
    assert again.reused
    assert again.sidecar == first.sidecar
    assert (tmp_path / "small.engine").stat().st_mtime_ns == written
    assert not ensured(rebuild=True).reused


def flip(engine: Path) -> None:
    data = bytearray(engine.read_bytes())
    data[len(data) // 3] ^= 0x10
    engine.write_bytes(data)


def truncate(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes()[:1000])


def empty(engine: Path) -> None:
    engine.write_bytes(b"")


def lose_sidecar(engine: Path) -> None:
    sidecar_path(engine).unlink()


def link(engine: Path) -> None:
    engine.rename(engine.with_name("elsewhere"))
    engine.symlink_to("elsewhere")


def link_to_nothing(engine: Path) -> None:
    engine.unlink()
    engine.symlink_to("nowhere")


def edit(**values: Any) -> Callable[[Path], None]:
    def change(engine: Path) -> None:
        path = sidecar_path(engine)
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (flip, "not the file that was built"),
        (truncate, "not the file that was built"),
        (empty, "not the file that was built"),
        (lose_sidecar, "has no sidecar"),
        (link, "symbolic link"),
        (link_to_nothing, "symbolic link"),
        (edit(flavour_version="1.0.0"), "built by version 1.0.0"),
        (edit(flavour="tensorrt"), "is tensorrt's"),
        (edit(graph_sha256="0" * 64), "graph has changed"),
        (edit(options={"targets": ["8.6"]}), "other options (targets)"),
        (edit(profiles=[["8x8"] * 3]), "sizes have changed"),
        (edit(engine_sha256=5), "not one that this sdps reads"),
        (edit(nonsense=1), "not one that this sdps reads"),
    ],
)
def test_what_is_wrong_is_said_and_mended(
    ensured: Callable[..., Any], tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    engine = tmp_path / "small.engine"
    ensured()
    good = engine.read_bytes()
    harm(engine)
    said: list[str] = []
    after = ensured(say=said.append)
    assert not after.reused
    assert reason in after.reason
    assert any(reason in line for line in said)
    assert engine.read_bytes() == good  # the builder is deterministic
    assert not engine.is_symlink()
    assert check_sidecar(engine) == after.sidecar


def test_other_options_are_another_engine(
    ensured: Callable[..., Any], small: Callable[..., onnx.ModelProto]
) -> None:
    ensured()
    assert "optimisation_level" in ensured(options=EngineOptions(optimisation_level=1)).reason
    assert (
        "graph has changed"
        in ensured(small(gain=2.0).SerializeToString(), options=EngineOptions(optimisation_level=1)).reason
    )


def test_the_bytes_that_were_checked_are_the_bytes_that_run(
    ensured: Callable[..., Any], tmp_path: Path
) -> None:
    ensured()
    engine = tmp_path / "small.engine"
    data, sidecar = read_engine(engine)
    engine.write_bytes(b"swapped after the check")
    assert len(data) == sidecar.engine_bytes
    with pytest.raises(EngineError, match="not the file that was built"):
        read_engine(engine)


CHILD = """
import sys
from pathlib import Path
from sdps.core.spec import ShapeRange, Size
from sdps.export.engine_options import RTX
from sdps.export.engine import ensure_engine
print("ready", flush=True)
sys.stdin.readline()
options = {"rebuild": True} if "again" in sys.argv else {}
done = ensure_engine(Path(sys.argv[1]), Path(sys.argv[2]), RTX, ShapeRange.fixed(Size(32, 48)), **options)
print("reused" if done.reused else "built", flush=True)
"""


def start(graph: Path, engine: Path, *more: str) -> subprocess.Popen[str]:
    """A process that has everything imported and waits for `go`."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(graph), str(engine), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def test_two_at_once_build_once(small: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    graph, engine = tmp_path / "small.onnx", tmp_path / "small.engine"
    onnx.save(small(), graph)
    both = [start(graph, engine) for _ in range(2)]
    for process in both:
        go(process)
    said = sorted(process.communicate(timeout=60)[0].strip() for process in both)
    assert said == ["built", "reused"]
    assert check_sidecar(engine).graph_sha256 == sha256_of(graph)


def test_killed_builds_leave_the_old_engine_or_the_new_one(
    ensured: Callable[..., Any], small: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    graph, engine = tmp_path / "small.onnx", tmp_path / "small.engine"
    onnx.save(small(), graph)
    ensured()
    good = engine.read_bytes()
    for wait_ms in (1, 100, 250, 400, 550):
        process = start(graph, engine, "again")
        go(process)
        time.sleep(wait_ms / 1000)
        process.kill()
        process.communicate()
        assert engine.read_bytes() == good  # deterministic, so old and new are the same
        # The sidecar is there and fits, or is not there and the engine is built again.
        if sidecar_path(engine).exists():
            assert check_sidecar(engine).engine_bytes == len(good)
    assert ensured().sidecar.engine_bytes == len(good)  # and no lock is left behind
