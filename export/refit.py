"""Puts a checkpoint's weights into an engine that was built without any (`--strip-weights`).

One stripped engine of a few megabytes serves every training run of a network: the slow build is
done once, each new checkpoint's weights are filled in within seconds. Follows NVIDIA's documents
(Refitter, OnnxParserRefitter); needs a GPU, of TensorRT-RTX too, so what comes after the checks
is untested here.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from sdps.core.errors import EngineError, UsageError
from sdps.core.gpu import first_gpu
from sdps.core.manifest import GraphManifest
from sdps.core.sidecar import EngineSidecar, read_engine, read_sidecar
from sdps.export.build_watch import join, make_logger
from sdps.export.engine import load_flavour, structure_sha256, write_engine
from sdps.export.lock import locked


def refit_engine(stripped: Path, graph: bytes, out_path: Path) -> EngineSidecar:
    """Writes the engine `stripped` with the weights of `graph` in it to `out_path`.

    Args:
        stripped: An engine built with `EngineOptions.strip_weights`; it stays as it is.
        graph: An sdps graph of the same network, precision and size.
        out_path: Where the full engine and its sidecar go.

    Raises:
        EngineError: `stripped` fails its check, is not refittable, or is of another network.
        UsageError: there is no GPU here.
        MissingDependency: its builder is not installed.
    """
    model = onnx.load_from_string(graph)
    manifest = GraphManifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    before = check_refittable(stripped)
    if before.structure_sha256 != structure_sha256(model):
        raise EngineError(
            f"{stripped} was built from another network than {manifest.name} "
            f"({manifest.precision}, {manifest.size}).",
            "Refitting changes weights only: same widths, precision and size.",
        )
    gpu = first_gpu()
    if gpu is None:
        raise UsageError("Refitting needs a GPU with its driver on this machine.", "Refit where it will run.")
    trt = load_flavour(before.flavour)
    data, before = read_engine(stripped, trt.__version__, gpu)
    plan = _refit(trt, data, graph)
    sidecar = replace(
        before,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        manifest=manifest.to_metadata(),
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        engine_bytes=len(plan),
        options={key: value for key, value in before.options.items() if key != "strip_weights"},
        stripped=False,
    )
    with locked(out_path):
        write_engine(out_path, plan, sidecar)
    return sidecar


def check_refittable(stripped: Path) -> EngineSidecar:
    """The sidecar of an engine that can be refitted; cheap, to be asked before a long export.

    Raises:
        EngineError: it has no sidecar, or was not built to be refitted.
    """
    sidecar = read_sidecar(stripped)
    if not sidecar.options.get("strip_weights"):
        raise EngineError(f"{stripped} was not built to be refitted.", "Build it with --strip-weights.")
    return sidecar


def _refit(trt: Any, data: bytes, graph: bytes) -> bytes:
    logger = make_logger(trt)
    engine = trt.Runtime(logger).deserialize_cuda_engine(data)
    if engine is None:
        raise EngineError(f"The engine cannot be loaded: {logger.summary()}")
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_bytes(graph):
        said = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise EngineError(f"The graph's weights do not fit the engine: {join(said) or logger.summary()}")
    if not refitter.refit_cuda_engine():
        missing = ", ".join(refitter.get_missing_weights()[:3])
        raise EngineError(f"The engine could not be refitted: {missing or logger.summary()}")
    config = engine.create_serialization_config()
    config.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    return bytes(engine.serialize_with_config(config))
