"""TensorRT's timing cache: what earlier builds measured of each kernel, so that later ones are fast.

It is true for one version of TensorRT, one GPU and one driver, which its name says, and it is
read by code that a flipped byte can bring down; so its SHA-256 lies beside it, and a cache that
does not match is thrown away, never forced in (`ignore_mismatch`). TensorRT-RTX has none to keep:
it measures nothing while it builds.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from sdps.core.artifact import write_bytes
from sdps.core.gpu import Gpu


@dataclass(frozen=True)
class TimingCache:
    """One cache file in a folder.

    Attributes:
        folder: Where caches are kept.
        flavour_version: Of TensorRT, e.g. '10.3.0'.
        gpu: The GPU that is built on.
    """

    folder: Path
    flavour_version: str
    gpu: Gpu

    @property
    def path(self) -> Path:
        """e.g. 'tensorrt-10.3.0-orin-8.7-12.6.timing'."""
        gpu = self.gpu
        key = f"tensorrt-{self.flavour_version}-{gpu.name}-{gpu.compute_capability}-{gpu.cuda_driver}"
        return self.folder / (re.sub(r"[^a-z0-9.]+", "-", key.lower()) + ".timing")

    @property
    def hash_path(self) -> Path:
        return self.path.with_name(self.path.name + ".sha256")

    def load(self) -> tuple[bytes, str]:
        """The cache's bytes, empty if there is none yet; and why an existing one was discarded, or ''."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return b"", ""
        try:
            expected = self.hash_path.read_text().strip()
        except (OSError, ValueError):
            expected = ""
        if hashlib.sha256(data).hexdigest() == expected:
            return data, ""
        self.discard()
        return b"", f"The timing cache {self.path} does not match its SHA-256 and was thrown away."

    def save(self, data: bytes) -> None:
        """Keeps the cache and its hash; a crash between the two makes the next load start afresh."""
        write_bytes(self.path, data)
        write_bytes(self.hash_path, hashlib.sha256(data).hexdigest().encode())

    def discard(self) -> None:
        """Removes it."""
        for path in (self.path, self.hash_path):
            path.unlink(missing_ok=True)
