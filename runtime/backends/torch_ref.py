"""PyTorch FP32, straight from a checkpoint: the reference that everything is measured against."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdps.core.artifact import sha256_of
from sdps.core.console import need
from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest
from sdps.core.version import __version__
from sdps.runtime.backends.base import BlockingBackend, closed


class TorchBackend(BlockingBackend):
    """Runs a checkpoint on the CPU (or 'cuda') in PyTorch. The only part of the runtime that does.

    Raises:
        CheckpointError: the file is no SD-PSFNet checkpoint.
        MissingDependency: PyTorch is not installed.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.torch = need("torch")
        from sdps.model.checkpoint import load_checkpoint
        from sdps.model.deploy import MEAN, STD, DeployNet

        network = load_checkpoint(path)
        config = asdict(network.config)
        self.device = device
        self.net: Any = DeployNet(network).eval().to(device)
        self.name, self.reason = f"torch:{device.upper()}", ""
        self.manifest = GraphManifest(
            path.stem, sha256_of(path), "SDPSFNet", config, "fp32", "dynamic", MEAN, STD, __version__
        )

    def run(self, batch: Image) -> Image:
        if self.net is None:
            raise closed()
        # A copy, because a picture may be read-only and torch would warn of it.
        with self.torch.inference_mode():
            result: Image = self.net(self.torch.tensor(batch, device=self.device)).cpu().numpy()
        return result

    def close(self) -> None:
        self.net = None
