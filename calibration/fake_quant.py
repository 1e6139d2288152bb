"""INT8 as training sees it: a network of PyTorch modules that rounds where the Q/DQ graph rounds.

Weights are rounded to nearest on the grid of `rounding.weight_scales`, in 7 bits, so that what was trained
holds on every processor (`qdq.NARROW`); their gradient passes straight through (Bengio et al., arXiv
1308.3432). The step of an activation is learnt as its logarithm, so that
it stays positive and one learning rate suits all tensors (LSQ, arXiv 1902.08153; logarithms as in TQT,
arXiv 1903.08066). What the exporter folds into one layer is rounded as one layer here, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdps.calibration.qdq import LEVELS, NARROW, SMALLEST_SCALE

REST, LONE = "rest", "lone"
"""The parts of a convolution whose last input channel the exporter gives a layer of its own."""
RANGE_PACE = 1.0
"""Learning rate of the logarithms over that of the weights."""


@dataclass(frozen=True)
class Site:
    """Where in the module tree a layer of the graph is.

    Attributes:
        layer: The layer's name in the graph.
        source: The tensor that it reads; layers that read the same share a step.
        modules: Paths of the convolutions that it computes: one, or several that were folded together.
        part: REST or LONE of the first one's input channels; empty for all.
    """

    layer: str
    source: str
    modules: tuple[str, ...]
    part: str = ""

    @property
    def key(self) -> str:
        """Names the site whatever the tracer calls its tensors."""
        return f"{self.modules[0]}/{self.part}" if self.part else self.modules[0]


def attach(network: nn.Module, sites: Iterable[Site], steps: Mapping[str, float]) -> None:
    """Replaces the convolutions at the sites by ones on INT8 grids, in place.

    The weights keep their names and stay the network's; each tensor's step becomes a parameter.

    Args:
        network: In the layout that the sites were found in.
        sites: `export.module_map.find_sites`.
        steps: First step of every site, by its key.
    """
    exponents: dict[str, nn.Parameter] = {}
    at: dict[tuple[str, ...], dict[str, nn.Parameter]] = {}
    for site in sites:
        exponent = exponents.setdefault(
            site.source, nn.Parameter(torch.tensor(math.log2(steps[site.key]), dtype=torch.float32))
        )
        at.setdefault(site.modules, {})[site.part] = exponent
    for (first, *later), parts in at.items():
        followers = [Folded(_convolution(network, path)) for path in later]
        whole = QuantisedConv(_convolution(network, first), followers, parts)
        for path, module in zip((first, *later), (whole, *followers), strict=True):
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, module)


def steps_of(network: nn.Module) -> dict[str, float]:
    """The step of every site by its key, as FP16 holds it; empty for a network that rounds nothing."""
    found = {}
    for path, module in network.named_modules():
        if isinstance(module, QuantisedConv):
            for part in module.parts:
                found[f"{path}/{part}" if part else path] = float(step_of(module.exponent(part)))
    return found


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Groups for an optimiser; those of the steps have a `pace` and no decay."""
    named = list(network.named_parameters())
    groups: list[dict[str, Any]] = [{"params": [value for name, value in named if not is_range(name)]}]
    if ranges := [value for name, value in named if is_range(name)]:
        groups.append({"params": ranges, "weight_decay": 0.0, "pace": RANGE_PACE})
    return groups


def is_range(name: str) -> bool:
    """Whether a parameter is the logarithm of a step, and no weight."""
    return name.rpartition(".")[2].startswith("log_step")


def step_of(exponent: Tensor) -> Tensor:
    """The step that FP16 holds nearest to 2 to the exponent, as `qdq.fp16_scale` has it."""
    return torch.exp2(exponent.detach()).clamp_min(SMALLEST_SCALE).half().float()


class QuantisedConv(nn.Module):
    """A convolution, or a chain of them that is one layer of the graph, on INT8 grids.

    Args:
        first: The convolution, transposed or not; its parameters are taken over.
        followers: 1x1 convolutions that are folded into it; they do nothing themselves any more.
        parts: The logarithm of the step of its input, or of each part of its input channels.
    """

    def __init__(
        self,
        first: nn.Conv2d | nn.ConvTranspose2d,
        followers: Iterable[Folded],
        parts: Mapping[str, nn.Parameter],
    ) -> None:
        super().__init__()
        self.weight, self.bias = first.weight, first.bias
        self.transposed = isinstance(first, nn.ConvTranspose2d)
        self.stride, self.padding = first.stride, first.padding
        self.halves = first.stride == (2, 2) and first.kernel_size == (1, 1)
        self.parts = tuple(parts)
        for part, exponent in parts.items():
            setattr(self, f"log_step{part}", exponent)
        self.kernels = EAGER
        self.followers = tuple(followers)  # a tuple, so that their parameters keep their own names

    def exponent(self, part: str) -> Tensor:
        """Logarithm to base 2 of a part's step."""
        value: Tensor = getattr(self, f"log_step{part}")
        return value

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self._folded()
        if self.parts == ("",):
            x = fake_quantise(x, self.exponent(""), self.kernels)
            weight = round_weight(weight, int(self.transposed))
        else:  # the last channel has a step, and weights with scales, of its own
            pieces = [
                fake_quantise(x[:, part], self.exponent(name), self.kernels)
                for name, part in _CHANNELS.items()
            ]
            x = torch.cat(pieces, 1)
            weight = torch.cat([round_weight(weight[:, part], 0) for part in _CHANNELS.values()], 1)
        if self.transposed:
            return F.conv_transpose2d(x, weight, bias, stride=self.stride)
        if self.halves and self.training:  # as psfnet.HalvingConv, and for its reason
            return F.conv2d(x[:, :, ::2, ::2], weight, bias)
        return F.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)

    def _folded(self) -> tuple[Tensor, Tensor | None]:
        """Weights and bias of the whole chain, multiplied in double precision as the exporter does."""
        if not self.followers:
            return self.weight, self.bias
        weight = self.weight.double()
        bias = None if self.bias is None else self.bias.double()
        for follower in self.followers:
            mix = follower.weight.double()[:, :, 0, 0]
            weight = torch.einsum("imkl,om->iokl" if self.transposed else "mikl,om->oikl", weight, mix)
            own = None if follower.bias is None else follower.bias.double()
            bias = own if bias is None else mix @ bias + (0.0 if own is None else own)
        return weight.float(), bias if bias is None else bias.float()


_CHANNELS = {REST: slice(None, -1), LONE: slice(-1, None)}


class Folded(nn.Module):
    """Holds the parameters of a 1x1 convolution that an earlier one computes; passes its input on."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return x


def round_weight(weight: Tensor, axis: int) -> Tensor:
    """Weights on the 7-bit grid of each output channel; the gradient passes as if nothing were rounded."""
    others = [i for i in range(weight.dim()) if i != axis]
    scales = weight.detach().abs().amax(others, keepdim=True) / NARROW
    scales = scales.clamp_min(SMALLEST_SCALE).half().float()
    rounded = (weight / scales).round().clamp(-NARROW, NARROW) * scales
    return weight + (rounded - weight).detach()


def fake_quantise(x: Tensor, exponent: Tensor, kernels: Kernels) -> Tensor:
    """A tensor on the INT8 grid with the step 2 to the exponent, both with gradients."""
    result: Tensor = _FakeQuantise.apply(x, exponent, kernels)
    return result


class _FakeQuantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, exponent: Tensor, kernels: Kernels) -> Tensor:
        step, x = step_of(exponent), _dense(x)
        ctx.save_for_backward(x, step)
        ctx.kernels = kernels
        return _like(x, kernels.forward(_flat(x), step))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, step = ctx.saved_tensors
        grad = grads[0]
        if grad.stride() != x.stride():
            grad = torch.empty_like(x, dtype=grad.dtype).copy_(grad)
        passed, slope = ctx.kernels.backward(_flat(grad), _flat(x), step)
        # LSQ's factor keeps the many values that one step has from drowning the weights in the
        # gradient's norm; what the step enters as is its logarithm to base 2.
        return _like(x, passed), slope * (math.log(2) / math.sqrt(x.numel() * LEVELS)), None


def _dense(x: Tensor) -> Tensor:
    """Itself where its values lie in memory without gaps, channels last or not; else a copy."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x if last else x.contiguous()


def _flat(dense: Tensor) -> Tensor:
    """One dimension, in the order of memory: one compiled kernel serves every shape and layout."""
    return dense.as_strided((dense.numel(),), (1,))


def _like(dense: Tensor, flat: Tensor) -> Tensor:
    """`_flat` undone."""
    return flat.as_strided(dense.size(), dense.stride())


def _rounded(x: Tensor, step: Tensor) -> Tensor:
    """On the grid of a step, in FP32 whatever `x` is: BF16 itself has hardly more than eight bits."""
    return (x.float() / step).round().clamp(-LEVELS - 1, LEVELS).mul(step).to(x.dtype)


def _gradients(grad: Tensor, x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Of `x`, and of the step's natural logarithm: y - x inside the range and y outside, times `grad`."""
    whole = (x.float() / step).round()
    inside = (whole >= -LEVELS - 1) & (whole <= LEVELS)
    y = whole.clamp(-LEVELS - 1, LEVELS) * step
    slope = (grad.float() * (y - x.float() * inside)).sum()
    return grad * inside, slope


@dataclass(frozen=True)
class Kernels:
    """How activations are rounded and what their gradients are, of one-dimensional tensors."""

    forward: Callable[[Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


EAGER = Kernels(_rounded, _gradients)


def compile_rounding(network: nn.Module) -> None:
    """Has activations rounded in one pass over memory, where eager PyTorch makes many, in place.

    A whole network of such layers takes PyTorch very long to compile.
    """
    compiled = Kernels(torch.compile(_rounded, dynamic=True), torch.compile(_gradients, dynamic=True))
    for module in network.modules():
        if isinstance(module, QuantisedConv):
            module.kernels = compiled


def rounds(network: nn.Module) -> bool:
    """Whether anything in the network is on an INT8 grid."""
    return any(isinstance(module, QuantisedConv) for module in network.modules())


def _convolution(network: nn.Module, path: str) -> nn.Conv2d | nn.ConvTranspose2d:
    module = network.get_submodule(path)
    assert isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)), path
    return module
