"""Who competes: PyTorch FP32 as the reference, and every graph on every provider."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from sdps.benchmarks.macs import stage_costs
from sdps.benchmarks.measurement import REFERENCE
from sdps.core.artifact import write_bytes
from sdps.core.console import need
from sdps.core.errors import MissingDependency, SdpsError, UsageError
from sdps.core.manifest import GraphManifest
from sdps.core.spec import Size
from sdps.core.version import __version__
from sdps.model.deploy import MEAN, STD
from sdps.model.psfnet import SDPSFNet
from sdps.runtime.backends import ENGINES, Backend, open_backend
from sdps.runtime.backends.base import integers
from sdps.runtime.bundled import resolve

MACS_SIZE = Size(256, 256)
"""Size that a manifest states its MACs at."""


def describe_network(network: SDPSFNet, name: str, weights_sha256: str) -> GraphManifest:
    """The description of an FP32 network that takes any size, its MACs counted."""
    macs = sum(stage.macs for stage in stage_costs(network, MACS_SIZE))
    config = dict(vars(network.config))
    return GraphManifest(
        name, weights_sha256, type(network).__name__, config, "fp32", "dynamic", MEAN, STD, __version__, macs
    )


def export_both(network: SDPSFNet, manifest: GraphManifest, folder: Path) -> tuple[str, str]:
    """Exports NAME-fp32.onnx and NAME-fp16.onnx, of any size, from one trace; returns their paths.

    Raises:
        ExportError: the network cannot be exported.
        MissingDependency: the extra `export` is not installed.
    """
    need("onnx")
    need("onnxscript")
    from sdps.export.onnx_export import describe, export_graph, manifest_of
    from sdps.export.precision import to_fp16

    full = export_graph(network, manifest)
    half = to_fp16(full)
    describe(half, replace(manifest_of(full), precision="fp16"))
    paths = folder / f"{manifest.name}-fp32.onnx", folder / f"{manifest.name}-fp16.onnx"
    for path, model in zip(paths, (full, half), strict=True):
        write_bytes(path, model.SerializeToString())
    return str(paths[0]), str(paths[1])


def labels(graphs: Sequence[Path]) -> list[str]:
    """A short, unique name for each graph: its stem, with its folder where stems repeat.

    Raises:
        UsageError: a graph is named twice.
    """
    stems = Counter(path.stem for path in graphs)
    names = [
        path.stem if stems[path.stem] == 1 else f"{path.resolve().parent.name}/{path.stem}" for path in graphs
    ]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(
            f"Two graphs are called {twice[0]}.",
            "Give each graph once, and different names to different graphs.",
        )
    return names


@dataclass(frozen=True)
class Contender:
    """Something that restores pictures.

    Attributes:
        name: Unique, e.g. 'sdps-nano-fp16 on openvino'.
        graph: Its graph's label; empty for the reference.
        backend: What runs it.
        path: Its file; None for the reference.
    """

    name: str
    graph: str
    backend: Backend
    path: Path | None = None

    @property
    def manifest(self) -> GraphManifest:
        return self.backend.manifest


@dataclass(frozen=True)
class Field:
    """All contenders, the reference first, and what is worth knowing about those that are not there."""

    contenders: tuple[Contender, ...]
    notes: tuple[str, ...]


def installed_providers() -> list[str]:
    """The engines that this environment holds, whether or not its hardware can run them."""
    providers = ["openvino"] if importlib.util.find_spec("openvino") else []
    if importlib.util.find_spec("onnxruntime"):
        available = need("onnxruntime").get_available_providers()
        providers += ["cpu", *(["cuda"] if "CUDAExecutionProvider" in available else [])]
    if not providers:
        raise MissingDependency("No inference engine is installed.", "Install one: pip install 'sdps[cpu]'")
    return providers


def open_all(
    stack: ExitStack, weights: Path, graphs: Sequence[str], providers: Sequence[str], threads: int
) -> Field:
    """Opens PyTorch and each graph on each provider; `stack` closes them.

    Without `providers` every installed one is taken; one that cannot run here is left out with a note.

    Raises:
        UsageError: a graph or provider is not there, or a graph is named twice.
        SdpsError: a provider that was asked for cannot run a graph, or none can.
    """
    reference = stack.enter_context(closing(open_backend(weights, "torch")))
    found = {REFERENCE: Contender(REFERENCE, "", reference)}
    notes: list[str] = []
    for label, graph in zip(labels([Path(graph) for graph in graphs]), graphs, strict=True):
        for provider in providers or installed_providers():
            backend = _try(graph, provider, threads)
            if isinstance(backend, SdpsError):
                if providers:
                    raise backend
                notes.append(f"{label} on {provider} was left out: {backend}")
                continue
            stack.enter_context(closing(backend))
            name = f"{label} on {backend.name.removesuffix(':CPU')}"
            found.setdefault(name, Contender(name, label, backend, resolve(graph)))
    if len(found) == 1:
        raise SdpsError(f"No graph could be opened. {notes[0]}")
    return Field(tuple(found.values()), tuple(notes))


def arithmetic(contender: Contender) -> str:
    """What an INT8 graph is really computed in, in a few words; empty where nobody tells.

    An engine of TensorRT may choose floating-point kernels where the graph asks for integers; its own
    inspector tells which (untested: it needs the engine's GPU).
    """
    path = contender.path
    if path is None or contender.manifest.precision != "int8" or path.suffix not in ENGINES:
        return contender.backend.arithmetic()
    from sdps.export.inspection import FROM_INSPECTOR, inspect_file

    found = inspect_file(path)
    if found.source != FROM_INSPECTOR:
        return "the engine does not tell whether its kernels are integer"
    share = found.convolutions.get("int8")
    return integers(share.count if share else 0, contender.manifest)


def _try(graph: str, provider: str, threads: int) -> Backend | SdpsError:
    try:
        return open_backend(graph, provider, threads)
    except UsageError:
        raise
    except SdpsError as error:
        return error
