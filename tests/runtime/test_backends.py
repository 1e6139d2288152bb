"""The engines agree, and what they cannot run is said clearly."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import pytest
import torch
from PIL import Image as Pictures

from sdps import Derainer
from sdps.core.errors import FrameError, ModelError, SdpsError, UsageError
from sdps.core.frame import Image
from sdps.core.machine import cpu
from sdps.model import SDPSFNet, save_checkpoint
from sdps.runtime.backends import open_backend, openvino_cpu
from sdps.runtime.backends.openvino_cpu import OpenVinoBackend, openvino_core, streams_for
from sdps.runtime.backends.openvino_means import pool_means
from sdps.runtime.backends.ort import FLOATING, OrtBackend
from sdps.runtime.bundled import bundled_models, resolve
from sdps.runtime.graph_file import read_graph

GraphPath = Callable[..., Path]
MakePicture = Callable[[int, int], Image]


@pytest.fixture(scope="module")
def checkpoint(tiny_network: SDPSFNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(tiny_network, path)
    return path


@pytest.mark.parametrize("provider", ["openvino", "cpu"])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1), ("fp16", 4)])
def test_engines_agree_with_pytorch(
    provider: str, precision: str, bound: int, graph_path: GraphPath, checkpoint: Path, picture: MakePicture
) -> None:
    reference = Derainer.load(checkpoint)
    assert reference.backend.name == "torch:CPU"
    with Derainer.load(graph_path(precision, "dynamic"), provider) as derainer:
        for size in ((64, 96), (61, 90), (40, 44)):  # the sizes of one camera after another
            image = picture(*size)
            difference = np.abs(derainer(image).astype(int) - reference(image).astype(int))
            assert difference.max() <= bound
            assert difference.mean() < 0.2


def test_the_same_picture_gives_the_same_answer_and_is_left_alone(
    graph_path: GraphPath, picture: MakePicture
) -> None:
    derainer, image = Derainer.load(graph_path()), picture(64, 96)
    before = image.copy()
    image.setflags(write=False)
    first = derainer(image)
    second = derainer(picture(64, 96)[::-1])
    assert np.array_equal(image, before)
    assert np.array_equal(first, derainer(image)), "the first answer was overwritten by a later one"
    assert not np.array_equal(first, second)
    first[:] = 0  # the caller's to change
    assert derainer(image).any()


def test_auto_prefers_openvino_without_a_gpu_and_says_why(graph_path: GraphPath) -> None:
    backend = open_backend(graph_path())
    assert backend.name == "openvino:CPU"
    assert "GPU" in backend.reason


def test_integers_are_multiplied_where_it_is_said(tmp_path: Path) -> None:
    """OpenVINO computes an INT8 graph in integers; ONNX Runtime would gain nothing so, and does not."""
    graph = resolve("sdps-nano-int8")
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (1, 8, 8, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    integer, floating = OpenVinoBackend(graph), OrtBackend(graph)
    difference = integer.run(picture).astype(int) - floating.run(picture)
    assert 0 < np.abs(difference).mean() < 1
    assert floating.session.get_session_options().get_session_config_entry(FLOATING) == "1"
    count = integer.manifest.int8["integer_convolutions"]
    assert integer.arithmetic() == f"{count} of the graph's {count} INT8 convolutions in integers"
    assert floating.arithmetic().startswith(f"0 of the graph's {count} INT8 convolutions")
    plain = open_backend("sdps-nano", "openvino")
    plain.run(picture)
    assert plain.arithmetic() == ""

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(FLOATING, "1")
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "QLinearConv" not in kinds
    assert kinds.count("QuantizeLinear") > 0, "what is rounded stays rounded"


def test_openvino_restores_two_pictures_at_a_time(
    graph_path: GraphPath, picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun ahead they come out as one after the other, in order, whatever their sizes; each is a copy."""
    monkeypatch.setattr(openvino_cpu, "cpu", lambda: replace(cpu(), usable=2))
    with Derainer.load(graph_path(), "openvino", threads=2) as derainer:
        assert derainer.depth == 2
        pictures = [np.roll(picture(*size), i, axis=1) for i in range(3) for size in ((64, 96), (40, 44))]
        waiting = []
        for image in pictures:
            lent = image.copy()
            waiting.append(derainer.begin(lent))
            lent[:] = 0  # the caller's to change
        restored = [finish() for finish in waiting]
        for image, result in zip(pictures, restored, strict=True):
            assert np.abs(result.astype(int) - derainer(image)).max() <= 1
        restored[0][:] = 0
        assert derainer.begin(pictures[0])().any()
        tiled = Derainer(derainer.backend, tile=64, overlap=16)
        assert np.array_equal(tiled.begin(pictures[0])(), tiled(pictures[0]))
        assert derainer.one_at_a_time() and not derainer.one_at_a_time()
        assert np.array_equal(derainer.begin(pictures[0])(), derainer(pictures[0]))
    assert [streams_for(cores) for cores in (1, 2, 3, 4, 5, 6, 7)] == [1, 2, 1, 2, 1, 2, 2]
    with Derainer.load(graph_path(), "openvino", threads=1) as alone:
        assert alone.depth == 1
        assert np.array_equal(alone.begin(pictures[0])(), alone(pictures[0]))


def test_openvino_pools_the_bundled_model() -> None:
    """The largest maps at least; means of maps that fit into a cache stay as they are."""
    backend = OpenVinoBackend(resolve("sdps-nano"))
    for side, pooled in ((256, True), (32, False)):
        backend.run(np.zeros((1, side, side, 3), np.uint8))
        compiled = next(reversed(backend.compiled.values())).compiled
        kinds = {str(op.get_rt_info()["layerType"].value) for op in compiled.get_runtime_model().get_ops()}
        assert ("Pooling" in kinds) == pooled


def test_openvino_takes_means_in_two_steps() -> None:
    """The same means, whatever divides the picture's sides; without them nothing is changed."""
    core = openvino_core()
    for size in ((256, 320), (4 * 61, 4 * 67)):
        image = ov.opset13.parameter([1, 8, *size], np.float32)
        axes = ov.opset13.constant(np.array([2, 3], np.int64))
        mean = ov.opset13.reduce_mean(image, axes, keep_dims=True)
        channels = ov.opset13.reduce_mean(image, ov.opset13.constant(np.array([1], np.int64)), keep_dims=True)
        plain = ov.Model([mean, channels], [image])
        pooled = plain.clone()
        assert pool_means(pooled) == 1
        assert "AvgPool" in {node.get_type_name() for node in pooled.get_ops()}
        values = np.random.default_rng(0).random((1, 8, *size), np.float32)
        exact, ours = (core.compile_model(m, "CPU")([values]) for m in (plain, pooled))
        np.testing.assert_allclose(ours[0], values.mean((2, 3), np.float64, keepdims=True), rtol=1e-5)
        np.testing.assert_array_equal(ours[1], exact[1])
    image = ov.opset13.parameter([1, 8, 251, 257], np.float32)  # primes
    axes = ov.opset13.constant(np.array([2, 3], np.int64))
    assert pool_means(ov.Model([ov.opset13.reduce_mean(image, axes, keep_dims=True)], [image])) == 0


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_provider_that_is_not_there_is_said_not_replaced(
    provider: str, graph_path: GraphPath, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SdpsError, match="ExecutionProvider"):
        open_backend(graph_path(), provider)
    instead = open_backend(graph_path(), provider, strict=False)
    assert instead.name == "openvino:CPU"
    assert instead.reason.startswith(f"{provider} does not work here: ")
    assert "\n" not in instead.reason
    command = [sys.executable, "-c", "from sdps.runtime.cli import main; main()", "--provider", provider]
    command += ["--quiet", "--input", str(tmp_path / "small.png"), "--output", "none"]
    Pictures.new("RGB", (16, 16)).save(tmp_path / "small.png")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("sdps-nano on openvino:CPU (")
    assert f"{provider} does not work here: " in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ([[1, 2], [3, 4]], "NumPy array, got list"),
        (np.zeros((8, 8), np.uint8), r"got \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"got \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"got \(0, 8, 3\)"),
        (np.zeros((8, 8, 3), np.float32), "uint8, got float32"),
    ],
)
def test_what_is_no_picture(image: object, says: str) -> None:
    with pytest.raises(FrameError, match=says):
        Derainer.load(provider="identity")(image)


def test_names_and_paths() -> None:
    assert resolve("sdps-nano").is_file()
    assert bundled_models()[0] == "sdps-nano"
    with pytest.raises(UsageError, match="sdps-nano"):
        resolve("sdps-giant")
    with pytest.raises(UsageError, match="openvino"):
        open_backend("sdps-nano", "quantum")


def test_files_that_are_no_graphs(tmp_path: Path, graph_path: GraphPath) -> None:
    bad = tmp_path / "bad.onnx"
    for content in (b"", b"not a graph at all", graph_path().read_bytes()[:50_000]):
        bad.write_bytes(content)
        for provider in ("openvino", "cpu"):
            with pytest.raises(ModelError):
                open_backend(bad, provider)


def test_a_foreign_graph_is_refused(tmp_path: Path, graph_path: GraphPath) -> None:
    model = onnx.load(graph_path())
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ModelError, match="no sdps description"):
        open_backend(tmp_path / "foreign.onnx")


def test_weights_in_other_files_are_refused(tmp_path: Path, graph_path: GraphPath) -> None:
    model = onnx.load(graph_path())
    onnx.save(
        model, tmp_path / "split.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    with pytest.raises(ModelError, match="other files"):
        open_backend(tmp_path / "split.onnx")


def test_the_description_is_read_without_the_onnx_package(graph_path: GraphPath) -> None:
    data, manifest = read_graph(graph_path())
    written = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
    assert manifest.to_metadata() == written


def test_the_runtime_loads_neither_torch_nor_onnx_nor_pygame() -> None:
    code = (
        "import sys, sdps; from sdps.runtime import cli, derainer, pipeline, sinks, sources; "
        "import numpy; sdps.Derainer.load('sdps-nano')(numpy.zeros((16, 16, 3), 'uint8')); "
        "print([m for m in ('torch', 'onnx', 'onnxscript', 'pygame') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("provider", ["cpu", "openvino", "torch"])
def test_a_closed_model_says_that_it_is_closed(
    provider: str, graph_path: GraphPath, checkpoint: Path, picture: MakePicture
) -> None:
    derainer = Derainer.load(checkpoint if provider == "torch" else graph_path(), provider)
    derainer(picture(64, 96))
    for _ in range(2):
        derainer.close()
    with pytest.raises(SdpsError, match="is closed"):
        derainer(picture(64, 96))
