"""Checkpoint files: the weights in them, whatever network they are of and whoever saved them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdps.core.console import need
from sdps.core.errors import CheckpointError
from sdps.core.weights_file import kind_of
from sdps.core.words import listed

WRAPPERS = (
    "state_dict", "model_state_dict", "model", "params_ema", "params", "net",
    "network", "generator", "net_g", "weights", "model_ema", "ema"
)  # fmt: skip
"""What trainers call the weights in a file that holds other things, too; the first that is there is taken."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "module.")
"""What DataParallel, torch.compile and Lightning put before the names of all weights."""
BESIDE = (bool, int, float, str, type(None))
"""What may stand beside bare weights: an epoch, a name, a best PSNR."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint file, whatever network they are of, under their names in the file.

    Raises:
        CheckpointError: no such file, not readable without running code, no weights in it, or such as
            are no dense, finite numbers.
    """
    loaded = _read(path)
    if isinstance(loaded, Mapping) and {"network", "optimiser", "recipe"} <= loaded.keys():
        raise CheckpointError(f"{path} is for going on with a training run.", _weights_beside(path))
    state = _unwrap(loaded, path)
    for name, value in state.items():
        _refuse_odd(path, name, value)
    return state


class _Dtype:
    """Stands for numpy's dtype while a checkpoint is read; it does nothing with what it is given."""

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _scalar(*arguments: object) -> None:
    """Stands for numpy's scalars (a trainer's best PSNR): no weight is one, so the value is dropped."""


# By their names under numpy 2 and before. Numpy's own code is not run on a file's bytes.
NUMPY_SCALARS: list[Any] = [
    (_scalar, "numpy._core.multiarray.scalar"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_Dtype, "numpy.dtype"),
]


def _weights_beside(path: Path) -> str:
    """Where the weights are that a run's `last.pt` was saved with."""
    weights = [path.with_name(f"{name}.safetensors") for name in (path.stem, "last", "best")]
    there = next((file for file in weights if file.is_file()), None)
    return f"Its weights are beside it: {there}" if there else "Give last.safetensors of that run."


def _read(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(
            f"There is no file {path}.", "Give the path of a .pth or .safetensors checkpoint."
        )
    with path.open("rb") as stream:
        head = stream.read(24)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the weights.", "Fetch them with: git lfs pull"
        )
    # By name where the content says nothing: a damaged file gets the reader's own words.
    kind = kind_of(head) or ("safetensors" if path.suffix.lower() == ".safetensors" else "")
    if not kind:
        raise CheckpointError(f"{path} is not a PyTorch file.", "Give a .pth or .safetensors checkpoint.")
    if whole := _whole_program(path):
        raise CheckpointError(
            f"{path} is {whole}, code and all, and not a checkpoint.",
            "Save the network's weights: torch.save(network.state_dict(), path).",
        )
    try:
        if kind == "safetensors":
            need("safetensors")
            from safetensors.torch import load_file

            return load_file(path)
        # A stream, because from a path torch.load judges by the suffix again.
        with path.open("rb") as stream, torch.serialization.safe_globals(NUMPY_SCALARS):
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds objects that only running its code could load, so it was not loaded.",
            "Save the bare state dict: torch.save(network.state_dict(), path).",
        ) from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is not a readable checkpoint: {reason}.", "Is the download complete?"
        ) from None


def _whole_program(path: Path) -> str:
    """What PyTorch calls an archive that holds a network's code as well; '' for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = ["/" + name for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return ""
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program"
    # As PyTorch up to 2.7 writes it, and since.
    if any(name.endswith(("/serialized_exported_program.json", "/archive_format")) for name in names):
        return "an exported program (torch.export)"
    return ""


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        if isinstance(loaded, Mapping):
            inner = next((loaded[w] for w in WRAPPERS if isinstance(loaded.get(w), Mapping)), None)
            if inner is None:
                break
            loaded = inner
    found = dict(loaded) if isinstance(loaded, Mapping) else {}
    weights = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    rest = [value for value in found.values() if not isinstance(value, Tensor)]
    if not weights or not all(isinstance(name, str) for name in weights) or not _beside(rest):
        keys = f" with the keys {listed([str(key) for key in found])}" if found else ""
        raise CheckpointError(
            f"{path} is no checkpoint: a {type(loaded).__name__}{keys}, not a state dict of tensors.",
            "Save the bare state dict: torch.save(network.state_dict(), path).",
        )
    return weights


def _beside(values: list[Any]) -> bool:
    return all(isinstance(value, BESIDE) for value in values)


def _refuse_odd(path: Path, name: str, value: Tensor) -> None:
    """Raises a CheckpointError for what is no dense tensor of finite numbers."""
    odd = (
        "has a shape and no values (PyTorch's meta device)"
        if value.is_meta
        else "is quantised"
        if value.is_quantized
        else "is sparse"
        if value.layout != torch.strided
        else "is complex"
        if value.is_complex()
        else ""
    )
    if odd:
        raise CheckpointError(f"{path}: {name} {odd}.", "Save it as dense floating-point numbers.")
    # As FP32, in which it will be computed: a double may lie beyond it, and FP8 cannot be asked.
    if value.is_floating_point() and not torch.isfinite(value.float()).all():
        raise CheckpointError(
            f"{path}: {name} holds NaN or infinite weights.",
            "Take an earlier checkpoint of the training run.",
        )


def strip_prefixes(state: dict[str, Tensor], expected: Collection[str] = ()) -> dict[str, Tensor]:
    """Weights without what wrappers (DataParallel, compile, Lightning) put before all their names.

    Args:
        state: Weights by name.
        expected: The names that are wanted, if they are known: a network may call a part of its own `net`.
    """
    for prefix in PREFIXES:
        if state.keys() == set(expected):
            break
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
