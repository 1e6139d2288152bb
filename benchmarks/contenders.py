"""Who competes: PyTorch FP32 as the reference, and every graph on every provider."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from sdps.benchmarks.macs import stage_costs
from sdps.benchmarks.measurement import CPU, REFERENCE
from sdps.core.artifact import write_bytes
from sdps.core.console import need
from sdps.core.errors import MissingDependency, SdpsError, UsageError
from sdps.core.manifest import GraphManifest
from sdps.core.spec import Size
from sdps.core.version import __version__
from sdps.model.deploy import MEAN, STD
from sdps.model.psfnet import SDPSFNet
from sdps.runtime.backends import Backend, open_backend
from sdps.runtime.backends.torch_ref import TorchBackend
from sdps.runtime.backends.trt import TrtBackend

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
    """

    name: str
    graph: str
    backend: Backend

    @property
    def manifest(self) -> GraphManifest:
        return self.backend.manifest

    @property
    def on_cpu(self) -> bool:
        return self.backend.name.endswith(CPU)


@dataclass(frozen=True)
class Field:
    """All contenders, the reference first, and what is worth knowing about those that are not there."""

    contenders: tuple[Contender, ...]
    notes: tuple[str, ...]


def installed_providers() -> list[str]:
    """The engines that this environment holds, whether or not its hardware can run them.

    ONNX Runtime's TensorRT is not among them: it builds an engine first, which can take minutes.
    """
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

    Without `providers` `installed_providers` are taken; one that cannot run here is left out with a note.

    Raises:
        UsageError: a graph or provider is not there, or a graph is named twice.
        SdpsError: a provider that was asked for cannot run a graph, or none can.
    """
    found: dict[str, Contender] = {}
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
            name = f"{label} on {backend.name.removesuffix(CPU)}"
            found.setdefault(name, Contender(name, label, backend))
    if not found:
        raise SdpsError(f"No graph could be opened. {notes[0]}")
    need("torch").backends.cudnn.allow_tf32 = False  # FP32 is what the reference is called
    reference = stack.enter_context(closing(TorchBackend(weights, reference_device(list(found.values())))))
    return Field((Contender(REFERENCE, "", reference), *found.values()), tuple(notes))


def reference_device(graphs: Sequence[Contender]) -> str:
    """'cuda' if all graphs run on a GPU and PyTorch can (untested), so that ratios compare engines."""
    on_gpu = need("torch").cuda.is_available() and not any(graph.on_cpu for graph in graphs)
    return "cuda" if on_gpu else "cpu"


def arithmetic(backend: Backend) -> str:
    """What an INT8 graph is really computed in, in a few words; empty where nobody tells.

    An engine of TensorRT may choose floating-point kernels where the graph asks for integers. Its own
    inspector tells of those that it has not fused into kernels without a name (untested: it needs the
    engine's GPU).
    """
    if backend.manifest.precision != "int8" or not isinstance(backend, TrtBackend):
        return backend.arithmetic()
    from sdps.export.inspection import FROM_INSPECTOR, inspect_file

    untold = "the engine does not tell how many of its convolutions are in integers"
    try:
        found = inspect_file(backend.path)
    except SdpsError:  # nothing that a finished benchmark should be lost for
        return untold
    share = found.convolutions.get("int8")
    if found.source != FROM_INSPECTOR or share is None:
        return untold
    asked = backend.manifest.int8.get("integer_convolutions", 0)
    return f"{share.count} of the graph's {asked} INT8 convolutions seen in integers; fused ones are not told"


def _try(graph: str, provider: str, threads: int) -> Backend | SdpsError:
    try:
        return open_backend(graph, provider, threads)
    except UsageError:
        raise
    except SdpsError as error:
        return error
