"""Rounding as training sees it: its gradients, in both arithmetics, and fused into one pass."""

from __future__ import annotations

import copy
import math
import shutil

import pytest
import torch
from torch import Tensor, nn

from sdps.calibration.fake_quant import (
    EAGER,
    QuantisedConv,
    Site,
    attach,
    compile_rounding,
    fake_quantise,
    rounds,
)
from sdps.model.psfnet import HalvingConv

STEP = 0.0625


def straight_through(x: Tensor, exponent: Tensor) -> Tensor:
    """The same with PyTorch's own gradients: rounding passes them on, the ends of the grid do not."""
    step = torch.exp2(exponent)
    q = x.float() / step
    inside = (q.round() >= -128) & (q.round() <= 127)
    return torch.where(inside, q + (q.round() - q).detach(), q.detach().round().clamp(-128, 127)) * step


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_straight_through_rounding(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(2, 3, 16, 16, generator=generator) * 5).to(dtype)
    assert (x.abs() > 128 * STEP).any(), "some are out of range"
    weight = torch.randn(x.shape, generator=generator)
    found = []
    for function in (lambda x, e: fake_quantise(x, e, EAGER), straight_through):
        at, exponent = x.clone().requires_grad_(), torch.tensor(math.log2(STEP), requires_grad=True)
        y = function(at, exponent)
        (y.float() * weight).sum().backward()
        assert at.grad is not None and exponent.grad is not None
        found.append((y.detach().float(), at.grad.float(), exponent.grad))
    (y, at, slope), (wanted, at_wanted, slope_wanted) = found
    tolerance = {"rtol": 0.0, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-2}
    torch.testing.assert_close(y, wanted, **tolerance)
    torch.testing.assert_close(at, at_wanted, **tolerance)
    # LSQ's factor, arXiv 1902.08153
    rough = 1e-3 if dtype == torch.float32 else 1e-2  # what comes back is BF16 as well
    torch.testing.assert_close(slope * math.sqrt(x.numel() * 127), slope_wanted, rtol=rough, atol=0.0)


def test_a_layout_stays_as_it_is() -> None:
    x, exponent = torch.randn(2, 4, 6, 8) * 5, torch.tensor(math.log2(STEP))
    weight = torch.randn(x.shape)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        at = x.clone(memory_format=layout).requires_grad_()
        y = fake_quantise(at, exponent, EAGER)
        assert y.is_contiguous(memory_format=layout)
        (y * weight).sum().backward()  # whose gradient comes in the other layout
        found.append((y.detach(), at.grad))
    odd = x[:, 1:].detach().requires_grad_()  # neither
    part = fake_quantise(odd, exponent, EAGER)
    part.sum().backward()
    for plain, last in zip(*found, strict=True):
        assert torch.equal(plain, last)
    assert torch.equal(part, found[0][0][:, 1:])
    assert odd.grad is not None and odd.grad.any()


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_rounding_rounds_alike() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.PReLU(), nn.Conv2d(4, 3, 1))
    assert not rounds(network)
    sites = [Site(layer=str(i), source=str(i), modules=(str(i),)) for i in (0, 2)]
    attach(network, sites, {"0": STEP, "2": STEP})
    assert rounds(network)
    fused = copy.deepcopy(network)
    compile_rounding(fused)
    assert all(m.kernels is not EAGER for m in fused.modules() if isinstance(m, QuantisedConv))
    for size in (8, 12):  # of one compilation
        x = torch.randn(2, 3, size, size)
        results = []
        for one in (network, copy.deepcopy(fused)):
            one.zero_grad()
            (y := one(x)).square().mean().backward()
            results.append([y.detach(), *(p.grad for p in one.parameters())])
        for eager, compiled in zip(*results, strict=True):
            torch.testing.assert_close(eager, compiled, rtol=1e-4, atol=1e-6)


def test_what_halves_trains_as_it_runs() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(HalvingConv(8, 8), nn.Conv2d(8, 12, 1))  # folded into one layer
    attach(network, [Site("0", "x", ("0", "1"))], {"0": STEP})
    x = torch.randn(2, 8, 64, 66) * 5
    results = []
    for training in (False, True):
        network.train(training).zero_grad()
        (y := network(x)).square().mean().backward()
        results.append([y.detach(), *(p.grad for p in network.parameters())])
    assert results[0][0].shape == (2, 12, 32, 33)
    for plain, picked in zip(*results, strict=True):
        torch.testing.assert_close(plain, picked)
