"""A network is traced once: what is kept is its shape, and never its weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from sdps.benchmarks.contenders import describe_network
from sdps.calibration.session import open_session, restore
from sdps.core.frame import Image
from sdps.core.spec import Size
from sdps.export import tracing
from sdps.export.onnx_export import export_graph
from sdps.export.tracing import fingerprint
from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.model.deploy import DeployNet
from sdps.model.exits import cut

NET = SDPSFNetConfig(tau=0, features=4, scale_unet=2, scale_orb=2, cabs=1, reduction=2, psf_channels=8)
SIZE = Size(32, 48)


def network(seed: int = 0, config: SDPSFNetConfig = NET) -> SDPSFNet:
    torch.manual_seed(seed)
    return SDPSFNet(config).eval().requires_grad_(False)


def exported(net: nn.Module) -> bytes:
    assert isinstance(net, SDPSFNet)
    manifest = replace(describe_network(net, "net", "0" * 64), size=str(SIZE))
    return export_graph(net, manifest).SerializeToString(deterministic=True)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for traces."""
    monkeypatch.setattr(tracing, "folder", lambda: tmp_path / "traces")
    yield tmp_path / "traces"


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    """The graph of the network of seed 0 as the tracer was asked for it, and the folder with its trace."""
    where = tmp_path_factory.mktemp("kept") / "traces"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tracing, "folder", lambda: where)
        return exported(network()), where


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Size | None]:
    """Grows by one whenever PyTorch's tracer is asked."""
    calls: list[Size | None] = []
    real = tracing._trace

    def counted(deploy: DeployNet, size: Size | None) -> object:
        calls.append(size)
        return real(deploy, size)

    monkeypatch.setattr(tracing, "_trace", counted)
    return calls


def test_the_second_network_of_a_kind_is_not_traced(
    traced: tuple[bytes, Path], kept: Path, asked: list[Size | None]
) -> None:
    first, other = network(0), network(1)
    graph, where = traced
    shutil.copytree(where, kept)
    assert exported(first) == graph, "to the byte"
    picture = np.random.default_rng(0).integers(0, 256, (SIZE.height, SIZE.width, 3), dtype=np.uint8)
    made = onnx.load_model_from_string(exported(other))
    assert not asked
    result = restore(open_session(made), picture)
    assert np.abs(result.astype(int) - pytorch(other, picture)).max() <= 1
    assert np.abs(result.astype(int) - pytorch(first, picture)).max() > 1

    (path,) = kept.iterdir()
    assert path.stat().st_size < len(graph)
    weight = first.stage_in.shallow.conv_in.weight.numpy().tobytes()
    assert weight in graph and weight not in path.read_bytes()
    assert str(Path(tracing.__file__).parent).encode() not in path.read_bytes(), "nor paths of this machine"


def pytorch(net: nn.Module, picture: Image) -> Image:
    with torch.inference_mode():
        result: Image = DeployNet(net, SIZE)(torch.from_numpy(picture)[None])[0].numpy()
    return result


def test_damage_and_a_cache_that_cannot_be_written_cost_time_and_nothing_else(
    traced: tuple[bytes, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, where = traced
    shutil.copytree(where, kept)
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    asked: list[Size | None] = []

    def again(deploy: DeployNet, size: Size | None) -> onnx.ModelProto:
        """What the tracer said the first time."""
        asked.append(size)
        answer = onnx.load_model_from_string(whole[tracing.DIGEST :])
        return tracing._with_weights(answer, tracing._state(deploy))

    monkeypatch.setattr(tracing, "_trace", again)
    flipped = bytearray(whole)
    flipped[whole.index(b"Conv")] ^= 1  # still a graph, of other nodes
    for damage in (whole[:-6], whole[:1000], b"", bytes(flipped)):
        path.write_bytes(damage)
        assert tracing._read(path) is None
    assert exported(network()) == graph
    assert path.read_bytes() == whole
    assert len(asked) == 1
    path.unlink()
    kept.rmdir()
    kept.write_text("a file where the folder should be")
    assert tracing._read(path) is None
    tracing._keep(path, onnx.load_model_from_string(graph))
    assert kept.is_file()


class Foreign(SDPSFNet):
    """Whose code is not ours to know."""


def test_what_a_trace_follows_from() -> None:
    net = network()
    same = fingerprint(DeployNet(net, SIZE).eval(), SIZE)
    assert same and fingerprint(DeployNet(network(1), SIZE).eval(), SIZE) == same
    others = {
        "another size": fingerprint(DeployNet(net, Size(32, 52)).eval(), Size(32, 52)),
        "any size": fingerprint(DeployNet(net).eval(), None),
        "an exit": fingerprint(DeployNet(cut(net, 0), SIZE).eval(), SIZE),
        "wider": fingerprint(DeployNet(network(0, replace(NET, features=8)), SIZE).eval(), SIZE),
        "one more stage": fingerprint(DeployNet(network(0, replace(NET, tau=1)), SIZE).eval(), SIZE),
        "another activation": fingerprint(DeployNet(steeper(network()), SIZE).eval(), SIZE),
        "shared weights": fingerprint(DeployNet(tied(network()), SIZE).eval(), SIZE),
        "in training": fingerprint(DeployNet(net, SIZE).train(), SIZE),
    }
    assert len({same, *others.values()}) == 1 + len(others) and all(others.values()), others


def steeper(net: SDPSFNet) -> SDPSFNet:
    activation = next(m for m in net.modules() if isinstance(m, (nn.PReLU, nn.LeakyReLU)))
    if isinstance(activation, nn.LeakyReLU):
        activation.negative_slope += 0.1
    else:
        activation.num_parameters += 1
    return net


def tied(net: SDPSFNet) -> SDPSFNet:
    alike = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.weight.shape == (4, 4, 3, 3)]
    alike[1].weight = alike[0].weight
    return net


def test_networks_that_were_changed_from_outside_are_traced_anew() -> None:
    def told(net: nn.Module) -> str:
        return fingerprint(DeployNet(net, SIZE).eval(), SIZE)

    hooked, patched, padded, double = network(), network(), network(), network().double()
    hooked.stage_in.register_forward_hook(lambda module, inputs, result: result)
    patched.stage_in.forward = lambda *inputs: inputs  # type: ignore[method-assign]
    convolution = padded.stage_in.shallow.conv_in
    convolution._conv_forward = lambda x, weight, bias: x  # type: ignore[method-assign]
    changed = [hooked, patched, padded, double, Foreign(NET).eval(), nn.Sequential(nn.Conv2d(3, 3, 1))]
    assert [told(net) for net in changed] == [""] * len(changed)
    everywhere = nn.modules.module.register_module_forward_hook(lambda module, inputs, result: result)
    assert told(network()) == ""
    everywhere.remove()
    assert told(network()) != ""


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    deploy = DeployNet(network(), SIZE).eval()
    assert tracing._place(deploy, SIZE)
    monkeypatch.setattr(tracing, "folder", homeless)
    assert tracing._place(deploy, SIZE) is None


def test_the_oldest_traces_go(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MOST", 2)
    for i in range(4):
        tracing._keep(kept / f"{i}.trace", onnx.ModelProto(producer_name=str(i)))
        os.utime(kept / f"{i}.trace", (i, i))
    assert {path.name for path in kept.iterdir()} == {"2.trace", "3.trace"}


def test_a_network_of_ones_own_is_never_kept(kept: Path) -> None:
    class Darker(nn.Module):
        config = NET

        def forward(self, x: Tensor) -> Tensor:
            return x * 0.5

    manifest = replace(describe_network(network(), "net", "0" * 64), size=str(SIZE))
    export_graph(Darker().eval(), manifest)
    assert not kept.exists()
