"""What an engine was built from, by and for: a JSON file beside it.

Engines are code to whoever deserialises them, and fit one version of one builder and one kind of
GPU, none of which their bytes tell; so they are checked against their sidecar first, and the very
bytes that were checked are the ones to deserialise (`read_engine`): a file that is swapped after
the check does no harm.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sdps.core.artifact import write_json
from sdps.core.errors import EngineError
from sdps.core.gpu import Gpu
from sdps.core.spec import Size

FORMAT = "1"
REBUILD = "Build the engine again with sdps-export."
NO_GPU = "no GPU on the building machine"


@dataclass(frozen=True)
class EngineSidecar:
    """Everything that decides whether an engine may be run, and what it is.

    Attributes:
        graph_sha256: SHA-256 of the ONNX file that it was built from.
        manifest: That graph's own description (`GraphManifest.to_metadata`).
        flavour: 'tensorrt' or 'tensorrt_rtx'.
        flavour_version: The builder's version, e.g. '10.3.0'.
        sdps_version: Version of the tool that drove it.
        gpu: Name of the building machine's GPU, or 'no GPU on the building machine'.
        compute_capability: e.g. '8.7', empty without a GPU.
        cuda_driver: The newest CUDA version that the driver serves, e.g. '12.6', or empty.
        precision: 'fp32', 'fp16' or 'int8'.
        min_size, opt_size, max_size: 'HxW' each; equal for a fixed engine. Of several profiles
            the smallest minimum, the first optimum and the largest maximum.
        engine_sha256, engine_bytes: Of the engine file.
        seconds: How long the build took.
        warnings: What the builder complained of.
        options: How it was built (`EngineOptions.to_sidecar`); what is not named was left alone.
        profiles: ['HxW', 'HxW', 'HxW'] for each optimisation profile: minimum, optimum, maximum.
            Empty in a file written before there could be several: one profile then.
        structure_sha256: Of the graph without its weights; equal graphs can refit the engine.
        stripped: The weights are not in it; it must be refitted before it runs.
        network: What the builder was given: one row for each kind of layer and precision (keys
            type, precision, count, weight_bytes, macs).
        drift: Measured on the building machine's GPU against the graph (keys as in
            `GraphManifest.drift`); empty where there was none to run it on.
    """

    graph_sha256: str
    manifest: dict[str, str]
    flavour: str
    flavour_version: str
    sdps_version: str
    gpu: str
    compute_capability: str
    cuda_driver: str
    precision: str
    min_size: str
    opt_size: str
    max_size: str
    engine_sha256: str
    engine_bytes: int
    seconds: float
    warnings: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    profiles: list[list[str]] = field(default_factory=list)
    structure_sha256: str = ""
    stripped: bool = False
    network: list[dict[str, Any]] = field(default_factory=list)
    drift: dict[str, Any] = field(default_factory=dict)

    def profile_for(self, size: Size) -> int | None:
        """Index of the first optimisation profile that takes pictures of `size`; None if none does."""
        for index, texts in enumerate(self.profiles or [[self.min_size, self.opt_size, self.max_size]]):
            low, _, high = (Size.parse(text) for text in texts)
            if low.height <= size.height <= high.height and low.width <= size.width <= high.width:
                return index
        return None

    def misfit(self, gpu: Gpu | None) -> str:
        """Why the engine does not run on `gpu`, or '' if nothing speaks against it.

        TensorRT's engines fit the GPU model that built them, unless built hardware-compatible.
        TensorRT-RTX's fit every GPU of their targets; without targets, those from Ampere on.
        """
        if gpu is None:
            return ""
        if self.flavour != "tensorrt":
            targets = [target for target in self.options.get("targets", []) if target != "current"]
            if targets and gpu.compute_capability not in targets:
                return f"built for compute capability {', '.join(targets)}, not {gpu.compute_capability}"
            return ""
        level = self.options.get("hardware_compatible", "")
        if level == "ampere+":
            old = tuple(map(int, gpu.compute_capability.split("."))) < (8, 0)
            return f"built for GPUs from Ampere on, not for {gpu.name}" if old else ""
        if self.compute_capability != gpu.compute_capability or (not level and self.gpu != gpu.name):
            return f"built on {self.gpu} ({self.compute_capability}), and this is {gpu.name}"
        return ""


_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "list": list,
    "dict": dict,
}


def sidecar_path(engine: Path) -> Path:
    """`<engine>.json`, beside the engine."""
    return engine.with_name(engine.name + ".json")


def write_sidecar(engine: Path, sidecar: EngineSidecar) -> None:
    """Writes the sidecar atomically."""
    write_json(sidecar_path(engine), {"format": FORMAT, **asdict(sidecar)})


def read_sidecar(engine: Path) -> EngineSidecar:
    """Reads the sidecar of an engine file.

    Raises:
        EngineError: there is none, or it is damaged, a symbolic link, or of another format.
    """
    path = sidecar_path(engine)
    try:
        values = json.loads(_read_no_link(path))
    except FileNotFoundError:
        raise EngineError(
            f"{engine} has no sidecar {path.name}, so nothing says what it is.",
            f"Engines are never run unseen. {REBUILD}",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"The sidecar {path} is damaged ({error}).", REBUILD) from None
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT or not _is_whole(values):
        raise EngineError(f"The sidecar {path} is not one that this sdps reads.", REBUILD)
    return EngineSidecar(**values)


def read_engine(
    engine: Path, flavour_version: str = "", gpu: Gpu | None = None
) -> tuple[bytes, EngineSidecar]:
    """Reads an engine once and checks what was read; only these bytes are to be deserialised.

    Args:
        engine: The engine file.
        flavour_version: Version of the library that is about to run it; empty to leave that out.
        gpu: The GPU that is about to run it; None to leave that out.

    Returns:
        The engine's bytes and its sidecar.

    Raises:
        EngineError: no engine, a symbolic link in its place, no sidecar, other bytes than were
            built, another version or another GPU.
    """
    try:
        data = _read_no_link(engine)
    except FileNotFoundError:
        raise EngineError(f"There is no engine {engine}.", REBUILD) from None
    except OSError as error:
        raise EngineError(f"{engine} cannot be read as an engine: {error.strerror}.", REBUILD) from None
    sidecar = read_sidecar(engine)
    if hashlib.sha256(data).hexdigest() != sidecar.engine_sha256:
        raise EngineError(
            f"{engine} is not the file that was built: its SHA-256 does not match the sidecar's.", REBUILD
        )
    if flavour_version and not _runs_on(sidecar, flavour_version):
        raise EngineError(
            f"{engine} was built by {sidecar.flavour} {sidecar.flavour_version}, "
            f"and {flavour_version} is installed.",
            REBUILD,
        )
    if misfit := sidecar.misfit(gpu):
        raise EngineError(f"{engine} does not fit this GPU: {misfit}.", REBUILD)
    return data, sidecar


def check_sidecar(engine: Path, flavour_version: str = "", gpu: Gpu | None = None) -> EngineSidecar:
    """`read_engine` for who needs the sidecar only, e.g. to decide whether to build again."""
    return read_engine(engine, flavour_version, gpu)[1]


def _runs_on(sidecar: EngineSidecar, version: str) -> bool:
    """The builder's version, or with a version-compatible engine any of the same major one."""
    if sidecar.options.get("version_compatible"):
        return version.split(".")[0] == sidecar.flavour_version.split(".")[0]
    return version == sidecar.flavour_version


def _is_whole(values: dict[str, Any]) -> bool:
    known = {f.name: f for f in fields(EngineSidecar)}
    optional = {
        f.name for f in known.values() if f.default is not MISSING or f.default_factory is not MISSING
    }
    if not known.keys() - optional <= values.keys() <= known.keys():
        return False
    # Annotations are text here; what stands before a bracket names the type.
    return all(
        isinstance(value, _TYPES[str(known[name].type).split("[")[0]]) for name, value in values.items()
    )


def _read_no_link(path: Path) -> bytes:
    """The content of a regular file that is no symbolic link.

    Raises:
        OSError: it is a link (errno ELOOP), no regular file, or cannot be read.
    """
    if path.is_symlink():  # for systems without O_NOFOLLOW, and for a message that says it
        raise OSError(errno.ELOOP, "it is a symbolic link")
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as stream:
        return stream.read()
