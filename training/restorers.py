"""Models as evaluation wants them: a batch of pictures in, and out as exactly as the model gives it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.gpu import first_gpu
from sdps.core.spec import Size
from sdps.core.weights_file import is_checkpoint
from sdps.model import SDPSFNet, load_checkpoint
from sdps.model.deploy import denormalise, normalise, pad_to_stride
from sdps.model.zoo import PUBLISHED, find_weights
from sdps.runtime.backends import ENGINES, Backend, open_backend
from sdps.runtime.room import bytes_per_pixel
from sdps.runtime.tiling import restore

DEVICES = ("auto", "cpu", "cuda")
PROVIDERS_ON = {"cpu": ("openvino", "cpu", "identity"), "cuda": ("cuda", "tensorrt")}
"""The runtime's providers, by the device that they run on."""


class Restorer(Protocol):
    """A model under evaluation.

    Attributes:
        name: What it is and what runs it, for the report.
        exact: Whether `tiles` gives the network's own numbers rather than rounded levels.
    """

    name: str
    exact: bool

    def tiles(self, batch: Image) -> np.ndarray[Any, np.dtype[Any]]:
        """[N,T,T,3] uint8 RGB to levels of the same shape: float32, nominally 0..255, or uint8."""
        ...

    def frame(self, image: Image) -> Image:
        """A picture at once, or in tiles where it `must_tile`: (H, W, 3) uint8 RGB both."""
        ...

    def must_tile(self, image: Image) -> bool:
        """Whether the graph or engine takes no picture of that size, whatever memory there is."""
        ...

    def memory(self, image: Image) -> int:
        """About how many bytes of the machine's memory `frame` takes for a picture; 0 where a GPU's count."""
        ...

    def arithmetic(self) -> str:
        """What an INT8 graph that has run was computed in, in a few words; empty if nothing is to be said."""
        ...

    def close(self) -> None: ...


class NetworkRestorer:
    """A network in PyTorch, whose outputs are numbers and not yet levels.

    Args:
        network: In eval mode.
        name: For the report.
        device: Where to run it.
    """

    exact = True

    def __init__(self, network: SDPSFNet, name: str, device: str = "cpu") -> None:
        self.network, self.device = network.to(device), device
        self.name = f"{name} on torch:{device}"

    def tiles(self, batch: Image) -> np.ndarray[Any, np.dtype[Any]]:
        x = torch.tensor(batch, device=self.device).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            y = self.network(normalise(pad_to_stride(x)))[-1]
        y = denormalise(y)[:, :, : x.shape[2], : x.shape[3]] * 255
        result: np.ndarray[Any, np.dtype[Any]] = y.permute(0, 2, 3, 1).cpu().numpy()
        return result

    def frame(self, image: Image) -> Image:
        result: Image = np.clip(self.tiles(image[None])[0], 0, 255).round().astype(np.uint8)
        return result

    def must_tile(self, image: Image) -> bool:
        return False

    def memory(self, image: Image) -> int:
        if self.device != "cpu":
            return 0
        return image.shape[0] * image.shape[1] * bytes_per_pixel(vars(self.network.config))

    def arithmetic(self) -> str:
        return ""

    def close(self) -> None:
        pass


class BackendRestorer:
    """A graph or an engine on a backend of the runtime; its outputs are rounded to levels already."""

    exact = False

    def __init__(self, backend: Backend, name: str) -> None:
        self.backend, self.name = backend, f"{name} on {backend.name}"

    def tiles(self, batch: Image) -> np.ndarray[Any, np.dtype[Any]]:
        fixed = self.backend.manifest.fixed_size
        if fixed is None:
            return self.backend.run(batch)
        if (fixed.height, fixed.width) != batch.shape[1:3]:
            raise UsageError(
                f"{self.name} takes {fixed}; the paper's tiles are {batch.shape[1]}x{batch.shape[2]}.",
                "Use --protocol frame, or export it with --dynamic or --size 128x128.",
            )
        return np.concatenate([self.backend.run(tile[None]) for tile in batch])

    def frame(self, image: Image) -> Image:
        # Asked for nothing, `restore` tiles by the memory that is free, and the score would depend on it.
        stride = self.backend.manifest.stride
        whole = Size(*image.shape[:2]).padded_to(stride)
        return restore(self.backend, image, tile=max(whole.height, whole.width, 2 * stride))

    def must_tile(self, image: Image) -> bool:
        height, width = image.shape[:2]
        fixed = self.backend.manifest.fixed_size
        largest = [fixed] if fixed else [part.max for part in self.backend.limits]
        return bool(largest) and not any(height <= size.height and width <= size.width for size in largest)

    def memory(self, image: Image) -> int:
        # Of a fixed graph it does not depend on the picture; there is nothing to warn of.
        if not self.backend.name.endswith(":CPU") or self.backend.manifest.fixed_size:
            return 0
        return image.shape[0] * image.shape[1] * bytes_per_pixel(self.backend.manifest.config)

    def arithmetic(self) -> str:
        return self.backend.arithmetic()

    def close(self) -> None:
        self.backend.close()


def pick_device(device: str) -> str:
    """'cpu' or 'cuda' for one of 'auto', 'cpu', 'cuda'; in the words of `sdps-train`.

    Raises:
        UsageError: no such device, or none here.
    """
    _check_device(device)
    here = torch.cuda.is_available()
    if device == "cuda" and not here:
        raise UsageError("PyTorch sees no CUDA GPU here.", "Use --device cpu, or PyTorch's CUDA build.")
    return ("cuda" if here else "cpu") if device == "auto" else device


def pick_provider(device: str, provider: str = "auto") -> str:
    """The runtime's provider of a graph for one of DEVICES: the one that was asked for, if it runs there.

    For 'auto' on the CPU it is OpenVINO where that is installed, as the runtime itself chooses, and on a GPU
    ONNX Runtime's CUDA, which needs no building.

    Raises:
        UsageError: no such device, none here, or a provider of the other one.
    """
    _check_device(device)
    if device == "auto":
        return provider
    if provider in PROVIDERS_ON["cuda" if device == "cpu" else "cpu"]:
        raise UsageError(
            f"--provider {provider} does not run on --device {device}.",
            f"Leave one of them out, or give --provider {' or '.join(PROVIDERS_ON[device][:2])}.",
        )
    if device == "cuda" and first_gpu() is None:
        raise UsageError("There is no NVIDIA GPU or driver here.", "Use --device cpu.")
    if provider != "auto":
        return provider
    if device == "cuda":
        return "cuda"
    return "openvino" if importlib.util.find_spec("openvino") else "cpu"


def _check_device(device: str) -> None:
    if device not in DEVICES:
        raise UsageError(f"There is no device {device!r}.", f"Choose from {', '.join(DEVICES)}.")


def open_restorer(name_or_path: str, provider: str = "auto", device: str = "auto") -> Restorer:
    """Opens a checkpoint (a path or a published name), an ONNX file, an engine or a bundled model.

    Args:
        name_or_path: What to open; a bundled name is the graph that `sdps-run` runs.
        provider: The runtime's provider for what is not a checkpoint; for one 'auto' or 'torch'.
        device: One of DEVICES: PyTorch's for a checkpoint; for others it narrows the choice of a provider.

    Raises:
        UsageError: there is no such model, or no such device here, or the model does not run on it or by
            that provider.
        SdpsError: it is damaged, or nothing here runs it.
    """
    path = Path(name_or_path)
    engine = path.suffix.lower() in ENGINES
    published = name_or_path.lower() in PUBLISHED and not path.exists()
    if published or (not engine and is_checkpoint(path)):
        if provider not in ("auto", "torch"):
            raise UsageError(
                f"{path.name} is a checkpoint, which PyTorch runs and not --provider {provider}.",
                "Leave --provider out (--device says where it runs), or export it first: sdps-export.",
            )
        chosen = pick_device(device)
        weights = find_weights(name_or_path)
        return NetworkRestorer(load_checkpoint(weights), weights.stem, chosen)
    if engine and device == "cpu":
        raise UsageError(
            f"{path.name} is an engine, which only a GPU runs.", "Give the .onnx file that it was built from."
        )
    chosen = pick_provider(device, "tensorrt" if engine and provider == "auto" else provider)
    return BackendRestorer(open_backend(name_or_path, chosen), path.stem)
