"""What one builder has and the other lacks, tried on the real TensorRT-RTX."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from sdps.core.errors import EngineError, UsageError
from sdps.core.gpu import Gpu, first_gpu
from sdps.core.spec import ShapeRange, Size
from sdps.export.builder import _timing_cache_of, _use_timing_cache
from sdps.export.engine import build_engine, load_flavour
from sdps.export.engine_options import RTX, EngineOptions
from sdps.export.timing_cache import TimingCache

pytestmark = pytest.mark.skipif(importlib.util.find_spec(RTX) is None, reason="TensorRT-RTX is not installed")

SHAPES = ShapeRange.fixed(Size(32, 48))
ORIN = Gpu("Orin (nvgpu)", "8.7", "12.6")


@pytest.fixture
def build(small: Callable[..., onnx.ModelProto], tmp_path: Path) -> Callable[..., Any]:
    """build(size=..., shapes=..., **options): the small graph's engine in tmp_path."""

    def make(
        size: str = "32x48", shapes: Any = SHAPES, folder: Path | None = None, say: Any = print, **o: Any
    ) -> Any:
        graph = small(size).SerializeToString()
        path = tmp_path / "small.engine"
        return build_engine(
            graph, path, RTX, shapes, options=EngineOptions(**o), timing_cache=folder, say=say
        )

    return make


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version_compatible": True}, "no --version-compatible; TensorRT proper has it"),
        ({"hardware_compatible": "ampere+"}, "Use --targets"),
        ({"dla_core": 0}, "no --dla; TensorRT proper"),
        ({"targets": ("9.0",)}, r"does not build for '9\.0'.* knows 7\.5, 8\.0, 8\.6, 8\.9, 12\.0"),
        ({"targets": ("current", "8.6")}, "stands alone"),
        ({"hardware_compatible": "all"}, "Choose ampere"),
        ({"optimisation_level": 6}, "from 0 to 5"),
    ],
)
def test_what_rtx_lacks_is_one_line_that_says_who_has_it(
    build: Callable[..., Any], tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        build(**options)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(first_gpu() is not None, reason="this is about machines without a GPU")
@pytest.mark.parametrize("options", [{"strip_weights": True}, {"targets": ("current",)}])
def test_what_needs_a_gpu_says_so(build: Callable[..., Any], options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="needs a GPU with its driver"):
        build(**options)


def test_targets_are_tensorrt_rtx_s() -> None:
    with pytest.raises(UsageError, match="--engine rtx"):
        EngineOptions(targets=("8.6",)).check(SimpleNamespace(__name__="tensorrt"), has_gpu=True)


def test_targets_decide_what_is_in_the_engine(build: Callable[..., Any]) -> None:
    sidecars = {t: build(targets=t) for t in (("8.6",), ("8.6", "12.0"))}
    assert sidecars[("8.6", "12.0")].engine_bytes > sidecars[("8.6",)].engine_bytes
    one = sidecars[("8.6",)]
    assert one.options == {"targets": ["8.6"]}
    assert one.misfit(Gpu("RTX 3060", "8.6", "13.0")) == ""
    assert "not 8.9" in one.misfit(Gpu("RTX 4090", "8.9", "13.0"))


def test_each_camera_has_a_profile(build: Callable[..., Any]) -> None:
    sizes = (Size(32, 48), Size(64, 32), Size(96, 128))
    sidecar = build("dynamic", [ShapeRange.fixed(size) for size in sizes])
    assert [sidecar.profile_for(size) for size in sizes] == [0, 1, 2]
    assert sidecar.profile_for(Size(32, 52)) is None
    assert (sidecar.min_size, sidecar.opt_size, sidecar.max_size) == ("32x32", "32x48", "96x128")


def test_too_little_workspace_names_the_option(graph: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    shapes = ShapeRange.fixed(Size(61, 90))
    data = graph("fp16").SerializeToString()
    with pytest.raises(EngineError, match="--workspace"):
        build_engine(data, tmp_path / "x.engine", RTX, shapes, options=EngineOptions(workspace_mib=1))
    log = (tmp_path / "x.engine.log").read_text()
    assert "ERROR" in log
    assert "What it was doing when it failed:" in log


def test_the_log_has_what_the_screen_has_not(build: Callable[..., Any], tmp_path: Path) -> None:
    said: list[str] = []
    build(say=said.append)
    assert not said
    assert "Engine generation completed" in (tmp_path / "small.engine.log").read_text()


def test_rtx_says_that_it_keeps_no_timing_cache(build: Callable[..., Any], tmp_path: Path) -> None:
    said: list[str] = []
    build(folder=tmp_path / "cache", say=said.append)
    assert len(said) == 1
    assert "no timing cache" in said[0]
    assert not (tmp_path / "cache").exists()


def test_a_timing_cache_goes_into_the_builder_and_out_again(tmp_path: Path) -> None:
    """With RTX's API, which has the same calls and accepts them."""
    trt = load_flavour(RTX)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    config = builder.create_builder_config()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what the vendor deprecates is not the user's to read
        assert _use_timing_cache(config, b"") == []
        data = _timing_cache_of(config)
        assert _use_timing_cache(builder.create_builder_config(), data) == []
    cache = TimingCache(tmp_path, "10.3.0", ORIN)
    cache.save(data)
    assert cache.load() == (data, "")


def test_a_timing_cache_that_was_touched_is_thrown_away(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path, "10.3.0", ORIN)
    assert cache.load() == (b"", "")
    assert cache.path.name == "tensorrt-10.3.0-orin-nvgpu-8.7-12.6.timing"
    for harm in ("flip", "no hash"):
        cache.save(b"measurements")
        if harm == "flip":
            cache.path.write_bytes(b"measuremenTs")
        else:
            cache.hash_path.unlink()
        data, why = cache.load()
        assert (data, list(tmp_path.iterdir())) == (b"", [])
        assert "does not match its SHA-256" in why
    cache.save(b"measurements")
    for other in (
        TimingCache(tmp_path, "10.4.0", ORIN),
        TimingCache(tmp_path, "10.3.0", Gpu("A2", "8.6", "12.6")),
    ):
        assert other.load() == (b"", "")  # another version or GPU has its own
