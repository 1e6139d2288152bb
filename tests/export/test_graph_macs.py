"""MACs of graphs: the same number as PyTorch's own counter, and as the published one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from onnx import ModelProto

from sdps.core.spec import Size
from sdps.export.graph_macs import macs_by_node
from sdps.export.job import network_macs
from sdps.export.onnx_export import export_graph, manifest_of
from sdps.model import SDPSFNet


def test_a_graph_as_traced_counts_as_pytorch_counts(
    graph: Callable[..., ModelProto], tiny_network: SDPSFNet
) -> None:
    plain = export_graph(tiny_network, manifest_of(graph("fp32", "61x90")), rewrites=())
    # PyTorch's counter halved.
    assert sum(macs_by_node(plain).values()) == network_macs(tiny_network, Size(64, 92))


@pytest.mark.parametrize(
    ("precision", "size", "counted_at"),
    [
        ("fp32", "61x90", Size(64, 92)),
        ("fp32", "dynamic", Size(256, 256)),
        ("fp16", "dynamic", Size(256, 256)),
    ],
)
def test_rewrites_leave_less_to_do(
    graph: Callable[..., ModelProto], tiny_network: SDPSFNet, precision: str, size: str, counted_at: Size
) -> None:
    whole = network_macs(tiny_network, counted_at)
    assert 0.9 * whole < sum(macs_by_node(graph(precision, size)).values()) < whole


def test_the_full_network_counts_as_published() -> None:
    assert network_macs(SDPSFNet()) == pytest.approx(211.34e9, abs=5e6)
