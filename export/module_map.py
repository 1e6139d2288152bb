"""Which modules of the network each layer of the exported graph computes, found by topology."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from onnx import ModelProto
from torch import nn

from sdps import __version__
from sdps.calibration.fake_quant import LONE, REST, Site
from sdps.calibration.layers import CONVOLUTIONS, Layer, find_layers
from sdps.core.artifact import sha256_of
from sdps.core.errors import ExportError
from sdps.core.manifest import GraphManifest
from sdps.export.graph_macs import macs_by_node
from sdps.export.islands import fp32_islands
from sdps.export.onnx_export import export_graph
from sdps.model import SDPSFNet
from sdps.model.deploy import MEAN, STD

PREFIX = "network."
"""Where `DeployNet` holds the network."""


@dataclass(frozen=True)
class Mapped:
    """An FP32 graph, its layers, and where in the network they come from.

    Attributes:
        model: The graph, after the rewrites.
        macs: Multiply-accumulates by index of the node.
        layers: What can become INT8.
        sites: One for each layer, in the same order.
    """

    model: ModelProto
    macs: Mapping[int, int]
    layers: Sequence[Layer]
    sites: Sequence[Site]


def export_mapped(network: nn.Module, manifest: GraphManifest) -> Mapped:
    """Exports and maps.

    Args:
        network: As for `export_graph`, an SD-PSFNet.
        manifest: Of the graph, its precision 'fp32'.

    Raises:
        ExportError: a layer does not come from convolutions of the network.
    """
    traced: list[ModelProto] = []
    model = export_graph(network, manifest, traced=traced.append)
    macs = macs_by_node(model)
    layers = find_layers(model, macs, fp32_islands(model))
    return Mapped(model, macs, layers, find_sites(traced[0], layers))


def map_checkpoint(network: SDPSFNet, weights: Path) -> Mapped:
    """The same of a network of any picture's size, as its checkpoint has it."""
    manifest = GraphManifest(
        name=weights.stem,
        weights_sha256=sha256_of(weights),
        architecture=type(network).__name__,
        config=asdict(network.config),
        precision="fp32",
        size="dynamic",
        mean=MEAN,
        std=STD,
        sdps_version=__version__,
    )
    return export_mapped(network, manifest)


def find_sites(traced: ModelProto, layers: Collection[Layer]) -> list[Site]:
    """The site of every layer.

    Args:
        traced: The graph before the rewrites, whose weights still have the modules' names.
        layers: Those of the graph after them. A rewrite that folds a chain keeps the names of what
            it reads and makes; one that splits a convolution adds the part to its name.

    Raises:
        ExportError: there is no such chain of convolutions.
    """
    producers = {name: node for node in traced.graph.node for name in node.output}
    sites = []
    for layer in layers:
        part = next((part for part in (REST, LONE) if layer.name.endswith(f"/{part}")), "")
        name = layer.name.removesuffix(f"/{part}") if part else layer.name
        modules: list[str] = []
        while name != layer.source:
            node = producers.get(name)
            if node is None or node.op_type not in CONVOLUTIONS:
                raise ExportError(f"The layer {layer.name} comes from no convolutions of the network.")
            modules.insert(0, node.input[1].removeprefix(PREFIX).removesuffix(".weight"))
            if part:  # its input is one side of a concatenation
                break
            name = node.input[0]
        sites.append(Site(layer.name, layer.source, tuple(modules), part))
    return sites
