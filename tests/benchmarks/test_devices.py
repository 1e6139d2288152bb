"""Where the reference runs, and what a report says where that is not where the graphs run."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from sdps.benchmarks.bench import _doubts
from sdps.benchmarks.contenders import Contender, installed_providers, open_all, reference_device
from sdps.benchmarks.measurement import REFERENCE
from sdps.model.zoo import find_weights


def contender(name: str, provider: str) -> Contender:
    manifest = SimpleNamespace(weights_sha256="", architecture="SDPSFNet", precision="fp32")
    backend: Any = SimpleNamespace(name=provider, manifest=manifest)  # an engine of a GPU, which is not here
    return Contender(name, "graph", backend)


CPU, GPU, PYTORCH = (
    contender("a on openvino", "openvino:CPU"),
    contender("a on onnxruntime:CUDA", "onnxruntime:CUDA"),
    contender(REFERENCE, "torch:CPU"),
)


def test_a_ratio_between_devices_is_a_doubt() -> None:
    assert _doubts([PYTORCH, CPU], CPU.manifest) == []
    (doubt,) = _doubts([PYTORCH, CPU, GPU], CPU.manifest)
    assert doubt.startswith("PyTorch ran on the CPU and a on onnxruntime:CUDA on a GPU")


def test_pytorch_runs_on_the_gpu_where_all_graphs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert reference_device([GPU]) == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert reference_device([GPU]) == "cuda"
    assert reference_device([GPU, CPU]) == "cpu"


def test_the_reference_comes_first() -> None:
    with ExitStack() as stack:
        field = open_all(stack, find_weights("sdps-nano"), ["sdps-nano"], ["openvino"], 1)
        names = [(one.name, one.backend.name) for one in field.contenders]
    assert names == [(REFERENCE, "torch:CPU"), ("sdps-nano on openvino", "openvino:CPU")]


def test_an_engine_that_is_built_first_is_taken_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the help of --provider says."""
    everything = [f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "CPU")]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: everything)
    assert installed_providers() == ["openvino", "cpu", "cuda"]
