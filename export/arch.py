"""Networks other than SD-PSFNet, wrapped so that everything that exports one can export them.

`--arch spandrel` asks the spandrel package (github.com/chaiNNer-org/spandrel, MIT) which network
a checkpoint is of; with spandrel_extra_arches installed (some of its licences forbid commercial
use) it also knows MPRNet, Restormer and M3SNet. `--arch module:Class` or `--arch file.py:Class`
imports the user's own class. Weights are read as ours are: `weights_only=True` and never otherwise.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdps.core.console import need
from sdps.core.errors import CheckpointError, ExportError, UsageError
from sdps.core.spec import STRIDE
from sdps.model.deploy import Space
from sdps.model.state_file import read_state, strip_prefixes

SPANDREL = "spandrel"
STRIDES = (4, 8, 16, 32, 64)
"""What is tried where nobody says; networks halve their input two to six times."""

SMALLEST = 48
"""Least side, in pixels, of the picture that a network is tried on."""


@dataclass(frozen=True)
class ArchChoice:
    """Which network, and what it cannot say itself.

    Attributes:
        name: 'spandrel', 'module:Class' or 'path/to/file.py:Class'.
        args: Constructor arguments of the class.
        mean, std: Normalisation that it wants of RGB in [0, 1], three numbers each.
        stride: What its sides must be a multiple of; None to ask spandrel, or to find it by trying.
        pick: Which of several outputs is the result.
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    stride: int | None = None
    pick: int = -1

    @classmethod
    def parse(
        cls, name: str, args: str | None, mean: str | None, std: str | None, stride: int | None, pick: int
    ) -> ArchChoice:
        """Reads the command's options.

        Raises:
            UsageError: one of them is not what it should be.
        """
        if name != SPANDREL and not all(name.rpartition(":")[::2]):
            raise UsageError(
                f"{name!r} names no network.", "Write spandrel, module:Class or path/to/file.py:Class."
            )
        try:
            parsed = json.loads(args) if args else {}
        except ValueError as error:
            raise UsageError(
                f"--arch-args is no JSON ({error}).", """Write for example '{"dim": 48}'."""
            ) from None
        if not isinstance(parsed, dict):
            raise UsageError("--arch-args is no JSON object.", """Write for example '{"dim": 48}'.""")
        if parsed and name == SPANDREL:
            raise UsageError("spandrel reads the arguments from the weights.", "Leave --arch-args out.")
        return cls(
            name,
            parsed,
            _three("--mean", mean) or cls.mean,
            _three("--std", std) or cls.std,
            None if stride is None else math.lcm(stride, STRIDE),
            pick,
        )


class ForeignNet(nn.Module):
    """Any network as sdps knows them: from a picture in its `space` to one in the same space.

    forward: float [B,3,H,W] to float [B,3,H,W].

    Args:
        model: The network itself.
        space: What it takes and gives.
        call: Runs it; returns one image or several.
        pick: Which of several is the result.
    """

    def __init__(
        self, model: nn.Module, space: Space, call: Callable[[nn.Module, Tensor], Any], pick: int = -1
    ) -> None:
        super().__init__()
        self.model = model
        self.space = space
        self.call = call
        self.pick = pick

    def forward(self, x: Tensor) -> Tensor:
        y = self.call(self.model, x)
        result: Tensor = y[self.pick] if isinstance(y, (list, tuple)) else y
        return result


@dataclass(frozen=True)
class LoadedArch:
    """A network with its weights, and what its graph will say of it.

    Attributes:
        network: In eval mode, float32, on the CPU.
        name: e.g. 'NAFNet (spandrel)' or 'HINet'.
        config: Hyperparameters, as far as they are known.
    """

    network: ForeignNet
    name: str
    config: dict[str, Any]


def load_arch(choice: ArchChoice, weights: Path) -> LoadedArch:
    """Builds the network that `choice` names and fills it with the weights.

    Raises:
        CheckpointError: the file is unreadable, needs code to be run, holds values that are not
            finite, or does not fit the network.
        ExportError: the network does not turn pictures into pictures of the same size.
        MissingDependency: spandrel is asked for and not installed.
        UsageError: there is no such module or class, or its arguments are wrong.
    """
    state = read_state(weights)
    load = _from_spandrel if choice.name == SPANDREL else _from_class
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's code, which a user of it cannot mend
        loaded = load(choice, weights, state)
        loaded.network.float().eval().requires_grad_(False)
        _check_output(loaded.name, loaded.network)
    return loaded


def _from_spandrel(choice: ArchChoice, weights: Path, state: dict[str, Tensor]) -> LoadedArch:
    spandrel = import_spandrel()
    try:
        found = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(state))
    except spandrel.UnsupportedModelError:
        raise CheckpointError(
            f"spandrel {spandrel.__version__} does not know the network of {weights}.",
            "pip install spandrel_extra_arches knows more of them; else use --arch module:Class.",
        ) from None
    except Exception as error:
        raise CheckpointError(f"{weights} does not fit the network spandrel takes it for: {error}") from None
    name = f"{found.architecture.name} (spandrel)"
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.scale != 1:
        raise ExportError(f"{name} does not restore pictures at their size (scale {found.scale}).")
    if (found.input_channels, found.output_channels) != (3, 3):
        raise ExportError(
            f"{name} takes {found.input_channels} channels and gives {found.output_channels}, not 3."
        )
    needs = found.size_requirements
    # NAFNet and its kin pad inside, by what they call padder_size; a dynamic graph cannot (docs/nvidia.md).
    inner = getattr(found.model, "padder_size", 1)
    stride = choice.stride or math.lcm(STRIDE, needs.multiple_of, int(inner))
    config = dict(getattr(found.model, "hyperparameters", {}))
    space = Space(choice.mean, choice.std, stride)
    network = ForeignNet(found.model, space, found._call_fn, choice.pick)
    return LoadedArch(network, name, {key: v for key, v in config.items() if _is_json(v)})


def import_spandrel() -> Any:
    """The spandrel module, with its extra architectures where they are installed.

    Raises:
        MissingDependency: it is not installed.
    """
    _tolerating_torchvision()
    module = need(SPANDREL, "arch")
    with suppress(ImportError):
        extra = importlib.import_module("spandrel_extra_arches")
        with suppress(module.DuplicateArchitectureError):
            extra.install()
    return module


def _tolerating_torchvision() -> None:
    """Lets torchvision be imported where its compiled part is for CUDA and PyTorch is the CPU build.

    PyPI has no CPU build of torchvision for Linux; it then stumbles over two operators that its
    compiled part would have defined and that spandrel does not use.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            with suppress(RuntimeError):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)


_KEPT: list[Any] = []
"""Operators vanish with the library that defined them."""


def _from_class(choice: ArchChoice, weights: Path, state: dict[str, Tensor]) -> LoadedArch:
    module_name, _, class_name = choice.name.rpartition(":")
    made = getattr(_import(module_name), class_name, None)
    if not callable(made):
        raise UsageError(f"There is no class {class_name} in {module_name}.")
    try:
        model = made(**choice.args)
    except Exception as error:
        raise UsageError(
            f"{class_name} cannot be made: {error}", "Give its arguments with --arch-args."
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{class_name} is no torch.nn.Module.")
    expected = model.state_dict()
    try:
        model.load_state_dict(strip_prefixes(state, expected), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{weights} does not fit {class_name}: {reason[:300]}") from None
    model.float().eval()
    stride = choice.stride or _find_stride(model, choice.pick)
    network = ForeignNet(model, Space(choice.mean, choice.std, stride), _call, choice.pick)
    return LoadedArch(network, class_name, dict(choice.args))


def _import(name: str) -> Any:
    """A module by its name (the working folder counts) or by its file."""
    try:
        if name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(name).stem, name)
            assert spec and spec.loader
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # dataclasses and pickles of the module look there
            spec.loader.exec_module(module)
            return module
        sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.pop(0)
    except FileNotFoundError:
        raise UsageError(f"There is no file {name}.") from None
    except Exception as error:
        raise UsageError(f"{name} cannot be imported: {error}", "Is its folder on PYTHONPATH?") from error


def _call(model: nn.Module, x: Tensor) -> Any:
    return model(x)


@torch.inference_mode()
def _find_stride(model: nn.Module, pick: int) -> int:
    """The smallest stride whose odd multiples come out as they went in."""
    reason: object = "the output has another size"
    for stride in STRIDES:
        try:
            x = _noise(3 * stride, 5 * stride)
            y = model(x)
            y = y[pick] if isinstance(y, (list, tuple)) else y
            if y.shape == x.shape:
                return stride
        except Exception as error:
            reason = error
    raise ExportError(
        f"No stride from {STRIDES[0]} to {STRIDES[-1]} suits {type(model).__name__}: {str(reason)[:200]}",
        "Does it take and give [B,3,H,W]? State --stride otherwise.",
    )


@torch.inference_mode()
def _check_output(name: str, network: ForeignNet) -> None:
    stride = network.space.stride
    side = -(-SMALLEST // stride) * stride
    x = _noise(side, side + stride)
    try:
        y = network(x)
    except Exception as error:
        raise ExportError(
            f"{name} does not run on a picture of {tuple(x.shape)}: {str(error)[:200]}"
        ) from error
    if not isinstance(y, Tensor) or y.shape != x.shape:
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ExportError(
            f"{name} makes {got} of {tuple(x.shape)}; a picture of the same size is needed.",
            "Is another output wanted (--pick), or another --stride?",
        )


def _noise(height: int, width: int) -> Tensor:
    """The same picture every time, and nobody else's random numbers disturbed."""
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def _three(flag: str, text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if (flag == "--std" and not all(value > 0 for value in values)) or not all(map(math.isfinite, values)):
        raise UsageError(f"{flag} {text!r} scales no picture.", "Write for example 0.5,0.5,0.5.")
    if len(values) not in (1, 3):
        raise UsageError(
            f"{flag} {text!r} is neither one number nor three.", "Write for example 0.5,0.5,0.5."
        )
    return values * 3 if len(values) == 1 else values


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
