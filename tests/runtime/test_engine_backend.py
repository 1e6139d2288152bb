"""Engine files: checked before they are run. The real TensorRT-RTX builder and runtime, without a GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from sdps.core.errors import EngineError, MissingDependency, UsageError
from sdps.core.gpu import Gpu, first_gpu
from sdps.core.manifest import INPUT, OUTPUT, GraphManifest
from sdps.core.sidecar import read_sidecar, sidecar_path, write_sidecar
from sdps.core.spec import ShapeRange, Size
from sdps.export.engine import RTX, build_engine
from sdps.runtime.backends import open_backend
from sdps.runtime.backends.trt import build_command, deserialise, make_logger, profiles_of, read_for_here
from sdps.runtime.cuda import open_cuda

trt = pytest.importorskip("tensorrt_rtx")
without_gpu = pytest.mark.skipif(first_gpu() is not None, reason="there is a GPU")
SIZES = ShapeRange(Size(8, 8), Size(32, 48), Size(64, 64))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the smallest graph there is: a picture's negative."""
    shape = ["n", "h", "w", 3]
    nodes = [
        helper.make_node("Cast", [INPUT], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["white", "x"], ["y"]),
        helper.make_node("Cast", ["y"], [OUTPUT], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "negative",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.UINT8, shape)],
        [helper.make_tensor("white", TensorProto.FLOAT, [1], [255.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    manifest = GraphManifest("negative", "0" * 64, "test", {}, "fp32", "dynamic", (0.0,) * 3, (1.0,) * 3, "0")
    helper.set_model_props(model, manifest.to_metadata())
    path = tmp_path_factory.mktemp("engine") / "negative.onnx"
    onnx.save(model, path)
    build_engine(path, path.with_suffix(".engine"), RTX, SIZES)
    return path.with_suffix(".engine")


@pytest.fixture
def engine(built: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    copy = tmp_path / built.name
    for source, target in ((built, copy), (sidecar_path(built), sidecar_path(copy))):
        target.write_bytes(source.read_bytes())
    return copy


@without_gpu
@pytest.mark.parametrize("provider", ["auto", "tensorrt"])
def test_a_good_engine_without_a_gpu_is_said_in_one_line(engine: Path, provider: str) -> None:
    with pytest.raises(EngineError, match="needs an NVIDIA GPU") as caught:
        open_backend(engine, provider)
    assert "\n" not in str(caught.value)
    assert ".onnx" in caught.value.remedy


def test_an_engine_is_for_one_provider(engine: Path) -> None:
    with pytest.raises(UsageError, match="only --provider tensorrt"):
        open_backend(engine, "openvino")


def test_another_version_or_gpu_comes_with_the_command_that_mends_it(engine: Path) -> None:
    sidecar = read_sidecar(engine)
    write_sidecar(engine, replace(sidecar, flavour_version="1.4.0.1"))
    with pytest.raises(EngineError, match=r"built by tensorrt_rtx 1\.4\.0\.1") as caught:
        open_backend(engine)
    command = "sdps-export CHECKPOINT --precision fp32 --dynamic --engine-sizes 8x8,32x48,64x64 --engine rtx"
    assert command in caught.value.remedy
    write_sidecar(engine, replace(sidecar, options={"targets": ["8.9"]}))
    with pytest.raises(EngineError, match=r"8\.9, not 8\.6"):
        read_for_here(engine, Gpu("RTX 3060", "8.6", "13.0"))


def test_the_rebuild_command_of_a_fixed_engine(engine: Path) -> None:
    sidecar = read_sidecar(engine)
    fixed = replace(sidecar, flavour="tensorrt", manifest=sidecar.manifest | {"sdps.size": "720x1280"})
    assert build_command(fixed) == "sdps-export CHECKPOINT --precision fp32 --size 720x1280 --engine tensorrt"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"flavour": "os"}, "does not know"),
        ({"stripped": True}, "--refit"),
        ({"engine_sha256": "0" * 64}, "not the file that was built"),
    ],
)
def test_what_is_never_deserialised(engine: Path, change: dict[str, object], says: str) -> None:
    values = json.loads(sidecar_path(engine).read_text())
    sidecar_path(engine).write_text(json.dumps(values | change))
    with pytest.raises(EngineError, match=says):
        open_backend(engine)
    sidecar_path(engine).unlink()
    with pytest.raises(EngineError, match="no sidecar"):
        open_backend(engine)


def test_fault_32_a_flipped_byte_never_reaches_the_runtime(engine: Path) -> None:
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)
    with pytest.raises(EngineError, match="SHA-256"):
        read_for_here(engine, None)


@without_gpu
def test_the_real_runtime_refuses_without_a_driver_in_one_line(engine: Path) -> None:
    module, data, sidecar = read_for_here(engine, None)
    with pytest.raises(EngineError, match="TensorRT-RTX cannot load") as caught:
        deserialise(module, data, sidecar, make_logger(module), engine)
    assert "driver" in caught.value.message
    assert "sdps-export" in caught.value.remedy
    assert "\n" not in str(caught.value)


def test_profiles_become_the_sizes_that_the_runtime_tiles_to(engine: Path) -> None:
    assert profiles_of(read_sidecar(engine)) == [SIZES]


@without_gpu
def test_cuda_without_a_driver_is_one_clear_line() -> None:
    pytest.importorskip("cuda.bindings")
    with pytest.raises(EngineError, match="CUDA does not start") as caught:
        open_cuda()
    assert "\n" not in str(caught.value)


def test_without_a_binding_the_error_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="cuda-python"):
        open_cuda()


def test_every_cuda_name_that_is_used_exists_in_the_binding() -> None:
    """What only a GPU would run must at least be spelled as NVIDIA spells it."""
    import re

    runtime = pytest.importorskip("cuda.bindings.runtime")
    from sdps.runtime import cuda

    text = Path(cuda.__file__).read_text()
    called = set(re.findall(r'_call\(\s*"(\w+)"', text)) | set(re.findall(r"self\.rt\.(\w+)", text))
    assert len(called) > 20
    assert not [name for name in called if not hasattr(runtime, name)]
    for enum, member in re.findall(r"(cuda(?:Error_t|DeviceAttr|StreamCaptureMode))\.(cuda\w+)", text):
        assert hasattr(getattr(runtime, enum), member)
