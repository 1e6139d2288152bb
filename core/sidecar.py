"""What an engine was built from, by and for: a JSON file beside it.

Engines are code to whoever deserialises them, and fit one version of one builder and one kind of
GPU, none of which their bytes tell; so they are checked against their sidecar first.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sdps.core.artifact import sha256_of, write_json
from sdps.core.errors import EngineError

FORMAT = "1"
REBUILD = "Build the engine again with sdps-export."


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
        min_size, opt_size, max_size: 'HxW' each; equal for a fixed engine.
        engine_sha256, engine_bytes: Of the engine file.
        seconds: How long the build took.
        warnings: What the builder complained of.
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


def sidecar_path(engine: Path) -> Path:
    """`<engine>.json`, beside the engine."""
    return engine.with_name(engine.name + ".json")


def write_sidecar(engine: Path, sidecar: EngineSidecar) -> None:
    """Writes the sidecar atomically."""
    write_json(sidecar_path(engine), {"format": FORMAT, **asdict(sidecar)})


def read_sidecar(engine: Path) -> EngineSidecar:
    """Reads the sidecar of an engine file.

    Raises:
        EngineError: there is none, or it is damaged or of another format.
    """
    path = sidecar_path(engine)
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise EngineError(
            f"{engine} has no sidecar {path.name}, so nothing says what it is.",
            f"Engines are never run unseen. {REBUILD}",
        ) from None
    except (OSError, ValueError) as error:
        raise EngineError(f"The sidecar {path} is damaged ({error}).", REBUILD) from None
    known = {field.name for field in fields(EngineSidecar)}
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT or values.keys() != known:
        raise EngineError(f"The sidecar {path} is not one that this sdps reads.", REBUILD)
    return EngineSidecar(**values)


def check_sidecar(engine: Path, flavour_version: str = "") -> EngineSidecar:
    """Verifies an engine against its sidecar; to be called before anything deserialises it.

    Args:
        engine: The engine file.
        flavour_version: Version of the library that is about to run it; empty to leave that out.

    Raises:
        EngineError: no engine, no sidecar, other bytes than were built, or another version.
    """
    if not engine.is_file():
        raise EngineError(f"There is no engine {engine}.", REBUILD)
    sidecar = read_sidecar(engine)
    if sha256_of(engine) != sidecar.engine_sha256:
        raise EngineError(
            f"{engine} is not the file that was built: its SHA-256 does not match the sidecar's.", REBUILD
        )
    if flavour_version and flavour_version != sidecar.flavour_version:
        raise EngineError(
            f"{engine} was built by {sidecar.flavour} {sidecar.flavour_version}, "
            f"and {flavour_version} is installed.",
            REBUILD,
        )
    return sidecar
