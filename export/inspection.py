"""What a graph or an engine is made of, for `sdps-export --inspect` and `--require`.

An ONNX graph is read as it stands. An engine is asked through its own inspector where it can be
loaded, i.e. on its GPU; elsewhere its sidecar tells what the builder was given, before fusion.
Nothing is deserialised that its sidecar does not vouch for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

from sdps.core.errors import EngineError, ExportError, ModelError, UsageError
from sdps.core.gpu import first_gpu
from sdps.core.sidecar import EngineSidecar, read_engine, sidecar_path
from sdps.export.build_watch import make_logger
from sdps.export.engine import load_flavour
from sdps.export.engine_options import NAMES
from sdps.export.layers import Layer, Share, activation_ranges, graph_layers, shares, summarise

GRAPH, ENGINE = "graph", "engine"
FROM_GRAPH = "the graph"
FROM_INSPECTOR = "the engine's inspector"
FROM_SIDECAR = "the sidecar: the network as the builder was given it, before fusion"
WORDS = {
    "int8": "int8",
    "fp16": "fp16",
    "half": "fp16",
    "bf16": "bf16",
    "fp8": "fp8",
    "fp32": "fp32",
    "float": "fp32",
}
"""How TensorRT's inspector names precisions in weights' types and tensors' formats."""


@dataclass(frozen=True)
class Inspection:
    """A file's content.

    Attributes:
        path, sha256, bytes: Of the file.
        kind: 'graph' or 'engine'.
        source: Where the layers were read: the graph, the inspector or the sidecar.
        manifest: The graph's description of itself.
        rows: Layers by type and precision (`layers.summarise`).
        layers: Each layer; empty where the sidecar has only rows.
        profiles: [minimum, optimum, maximum] sizes, one row for each profile.
        ranges: Of quantised activations, the largest magnitude each can hold.
        sidecar: An engine's sidecar without what stands above.
    """

    path: str
    sha256: str
    bytes: int
    kind: str
    source: str
    manifest: dict[str, str]
    rows: list[dict[str, Any]]
    layers: list[Layer] = field(default_factory=list)
    profiles: list[list[str]] = field(default_factory=list)
    ranges: dict[str, float] = field(default_factory=dict)
    sidecar: dict[str, Any] = field(default_factory=dict)

    @property
    def convolutions(self) -> dict[str, Share]:
        """Convolutions and matrix products by precision."""
        return shares(self.rows)

    def to_json(self) -> str:
        """Everything, as indented JSON."""
        values = asdict(self) | {"convolutions": {k: asdict(v) for k, v in self.convolutions.items()}}
        return json.dumps(values, indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class Requirement:
    """A precision that convolutions must have: at least one, or a share of the multiply-accumulates."""

    precision: str
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Reads 'int8' or 'int8:0.9'.

        Raises:
            UsageError: it is neither.
        """
        match = re.fullmatch(r"(int8|fp8|fp16|bf16|fp32)(?::(0?\.\d+|[01](?:\.0+)?))?", text.strip())
        if not match:
            raise UsageError(
                f"{text!r} is nothing to require.", "Write a precision, or one with a share: int8:0.9"
            )
        return cls(match[1], float(match[2]) if match[2] else None)

    def check(self, inspection: Inspection) -> None:
        """Holds a file to it.

        Raises:
            ExportError: too few convolutions have the precision; it says how many have which. Or a share is
                asked for, and cannot be told.
        """
        found = inspection.convolutions
        untold = any(layer.convolution and not layer.macs for layer in inspection.layers)
        if self.share is not None and inspection.kind == GRAPH and untold:
            raise ExportError(
                f"How much of {inspection.path}'s multiply-accumulates is {self.precision} cannot be told: "
                "it computes shapes that ONNX does not infer.",
                f"Ask for any with --require {self.precision}, or export a graph of one size with --size.",
            )
        total = sum(share.macs for share in found.values())
        mine = found.get(self.precision, Share(0, 0))
        # The engine's own inspector tells no multiply-accumulates; then every convolution counts alike.
        count = sum(share.count for share in found.values())
        reached = mine.macs / total if total else mine.count / max(1, count)
        enough = mine.count > 0 if self.share is None else mine.count > 0 and reached >= self.share
        if not enough:
            have = (
                ", ".join(f"{share.count} {name}" for name, share in sorted(found.items())) or "none at all"
            )
            asked = "" if self.share is None else f" for {self.share:.0%} of the multiply-accumulates"
            got = "" if self.share is None else f"; {self.precision} does {reached:.1%}"
            raise ExportError(
                f"{inspection.path} lacks {self.precision} convolutions{asked}: it has {have}{got}."
            )


def inspect_file(path: Path) -> Inspection:
    """Reads a graph (.onnx) or an engine with its sidecar.

    Raises:
        UsageError: there is no such file.
        ModelError: a graph that is damaged.
        EngineError: an engine that its sidecar does not vouch for.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", "Give an ONNX graph or an engine.")
    if path.suffix == ".onnx":
        return _graph(path)
    if not sidecar_path(path).exists() and path.suffix != ".engine":
        raise UsageError(f"{path} is neither an ONNX graph nor an engine with its sidecar.")
    return _engine(path)


def _graph(path: Path) -> Inspection:
    data = path.read_bytes()
    try:
        model = onnx.load_from_string(data)
        layers = graph_layers(model)
    except Exception as error:  # protobuf's own, and shape inference's
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} is not a readable ONNX graph: {reason}.") from error
    if not layers:
        raise ModelError(f"{path} is not a readable ONNX graph: it has no nodes.")
    return Inspection(
        str(path),
        hashlib.sha256(data).hexdigest(),
        len(data),
        GRAPH,
        FROM_GRAPH,
        {entry.key: entry.value for entry in model.metadata_props},
        summarise(layers),
        layers,
        ranges=activation_ranges(model),
    )


def _engine(path: Path) -> Inspection:
    data, sidecar = read_engine(path)
    layers = _inspected(data, sidecar)
    seen = any(layer.convolution for layer in layers)
    told = {
        "graph_sha256", "manifest", "network", "profiles", "engine_sha256", "engine_bytes"
    }  # fmt: skip
    return Inspection(
        str(path),
        sidecar.engine_sha256,
        sidecar.engine_bytes,
        ENGINE,
        FROM_INSPECTOR if seen else FROM_SIDECAR,
        sidecar.manifest,
        summarise(layers) if seen else sidecar.network,
        layers,
        sidecar.profiles or [[sidecar.min_size, sidecar.opt_size, sidecar.max_size]],
        sidecar={key: value for key, value in asdict(sidecar).items() if key not in told}
        | {"built_from": sidecar.graph_sha256},
    )


def _inspected(data: bytes, sidecar: EngineSidecar) -> list[Layer]:
    """The layers that the engine itself tells of; none where it cannot be loaded."""
    if sidecar.flavour not in NAMES:  # never import what a file names
        raise EngineError(f"An engine of {sidecar.flavour!r} is nothing that sdps knows.")
    gpu = first_gpu()
    if gpu is None or sidecar.misfit(gpu) or importlib.util.find_spec(sidecar.flavour) is None:
        return []
    trt = load_flavour(sidecar.flavour)
    if trt.__version__ != sidecar.flavour_version:
        return []
    logger = make_logger(trt)
    runtime = trt.Runtime(logger)
    if sidecar.options.get("version_compatible"):  # such plans bring their own runtime, as code
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineError(f"The engine cannot be loaded: {logger.summary()}")
    inspector = engine.create_engine_inspector()
    return parse_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def parse_inspector(text: str) -> list[Layer]:
    """TensorRT's inspector JSON (10 and 11; ProfilingVerbosity.DETAILED) to layers.

    A layer's precision is its weights' type, else its first input's format. Layers that the
    compiler fused into one kernel of its own carry neither a kind nor weights and come out as
    they are called; multiply-accumulates are not told.
    """
    layers = []
    for entry in json.loads(text).get("Layers", []):
        if not isinstance(entry, dict):  # with less than DETAILED a layer is only its name
            layers.append(Layer(str(entry), "unknown", "other"))
            continue
        kind = str(entry.get("ParameterType") or entry.get("LayerType") or "unknown")
        weights = entry.get("Weights") or {}
        inputs = entry.get("Inputs") or [{}]
        stated = str(
            weights.get("Type") or inputs[0].get("Format/Datatype") or inputs[0].get("Datatype") or ""
        )
        found = [WORDS[word] for word in re.findall(r"[a-z]+\d*", stated.lower()) if word in WORDS]
        layers.append(
            Layer(
                str(entry.get("Name", "")),
                kind,
                found[0] if found else "other",
                convolution=bool(re.search(r"conv|gemm|matrix", kind, re.IGNORECASE)),
            )
        )
    return layers
