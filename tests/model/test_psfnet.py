"""The network against the facts: parameter counts, published keys, golden outputs."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from sdps.model import SDPSFNet, SDPSFNetConfig
from sdps.model.checkpoint import published_names, to_published
from sdps.model.psfnet import HalvingConv

DATA = Path(__file__).parents[1] / "data"
SMALL = SDPSFNetConfig(tau=1, features=8, scale_unet=4, scale_orb=4, cabs=2)


def golden_weights(network: SDPSFNet) -> None:
    """Fills the weights by a rule, so that none need storing: seeded by the first key that names each.

    The PReLU is 0.2, a vector small, anything else normal by its fan-in; what divides stays away from 0.
    """
    first: dict[int, str] = {}
    for key, value in to_published(network).items():
        first.setdefault(value.data_ptr(), key)
    for value in network.parameters():
        key = first[value.data_ptr()]
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        if value.shape == (1,):
            data = np.full(1, 0.2)
        elif value.dim() == 1:
            data = 0.05 * rng.standard_normal(tuple(value.shape))
        else:
            fan = np.prod(value.shape[1:])
            data = rng.standard_normal(tuple(value.shape)) * 0.7 / np.sqrt(fan)
        if key.endswith("psf.fusion.1.bias"):
            data = np.abs(data) + 0.5
        if "psf_channel_reducer.reducer" in key:
            data = np.abs(data)
        value.data.copy_(torch.from_numpy(data.astype(np.float32)))


@pytest.mark.parametrize(
    ("tau", "count"), [(0, 3_641_841), (1, 5_637_753), (2, 7_633_665), (3, 9_629_577), (4, 11_625_489)]
)
def test_parameter_counts_are_the_papers_to_the_digit(tau: int, count: int) -> None:
    assert sum(p.numel() for p in SDPSFNet(SDPSFNetConfig(tau=tau)).parameters()) == count


def test_published_layout_has_every_key_with_its_shape() -> None:
    with (DATA / "state_dict_tau3.csv").open() as stream:
        expected = {row["key"]: row["shape"] for row in csv.DictReader(stream)}
    ours = {k: "x".join(map(str, v.shape)) for k, v in to_published(SDPSFNet()).items()}
    assert len(expected) == 891
    assert ours == expected


def test_published_names_are_a_bijection() -> None:
    names = published_names(SDPSFNet(SMALL))
    assert len(set(names.values())) == len(names) == len(SDPSFNet(SMALL).state_dict())


def test_golden_outputs_at_every_stage() -> None:
    network = SDPSFNet(SMALL).eval()
    golden_weights(network)
    golden = np.load(DATA / "golden_small.npz")
    with torch.no_grad():
        outputs = network(torch.from_numpy(golden["input"]))
    assert len(outputs) == 3
    for i, output in enumerate(outputs):
        assert np.abs(output.numpy() - golden[f"out{i}"]).max() < 1e-4


def test_halving_trains_as_it_runs() -> None:
    torch.manual_seed(0)
    layer = HalvingConv(8, 12)
    found = []
    for training, layout in ((False, torch.contiguous_format), (True, torch.channels_last)):
        torch.manual_seed(1)
        x = torch.randn(2, 8, 64, 66).contiguous(memory_format=layout).requires_grad_()
        layer.train(training).zero_grad()
        y = layer(x)
        y.square().mean().backward()
        assert x.grad is not None and layer.weight.grad is not None
        found.append((y.detach(), x.grad, layer.weight.grad))
    assert found[0][0].shape == (2, 12, 32, 33)
    for plain, last in zip(*found, strict=True):
        torch.testing.assert_close(plain, last)
