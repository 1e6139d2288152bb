"""A graph reaches no file but its own, wherever in it the tensor hides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sdps.core.errors import ModelError
from sdps.runtime.bundled import resolve
from sdps.runtime.graph_file import read_graph


def external() -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[8, 8])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def crafted(where: str) -> bytes:
    """A small valid graph with our description, and an external tensor at a place of choice."""
    described = onnx.load(resolve("sdps-nano"))
    image, restored = (
        helper.make_tensor_value_info(name, TensorProto.UINT8, [1, 8, 8, 3]) for name in ("image", "restored")
    )
    leak = helper.make_tensor_value_info("leak", TensorProto.FLOAT, [8, 8])
    through = helper.make_node("Identity", ["image"], ["restored"])
    initializers: list[TensorProto] = []
    read = helper.make_node("Identity", ["w"], ["leak"])
    if where in ("initializer", "first of two graphs"):
        initializers = [external()]
    elif where == "constant":
        read = helper.make_node("Constant", [], ["leak"], value=external())
    elif where == "branch":
        inner = helper.make_tensor_value_info("o", TensorProto.FLOAT, [8, 8])
        body = helper.make_graph(
            [helper.make_node("Identity", ["w"], ["o"])], "body", [], [inner], [external()]
        )
        read = helper.make_node("If", ["yes"], ["leak"], then_branch=body, else_branch=body)
        initializers = [numpy_helper.from_array(np.array(True), "yes")]
    else:
        initializers = [numpy_helper.from_array(np.zeros((8, 8), np.float32), "w")]
    graph = helper.make_graph([through, read], "g", [image], [restored, leak], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.metadata_props.extend(described.metadata_props)
    data: bytes = model.SerializeToString()
    if where == "first of two graphs":  # parsers merge the second into the first
        second = onnx.ModelProto()
        second.graph.name = "g"
        data += second.SerializeToString()
    return data


@pytest.mark.parametrize("where", ["initializer", "constant", "branch", "first of two graphs"])
def test_external_data_is_refused_wherever_it_hides(where: str, tmp_path: Path) -> None:
    path = tmp_path / "crafted.onnx"
    path.write_bytes(crafted(where))
    with pytest.raises(ModelError, match="other files"):
        read_graph(path)


def test_the_same_graph_without_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good.onnx"
    path.write_bytes(crafted("nowhere"))
    assert read_graph(path)[1].name == "sdps-nano"


def wrapped(field: int, body: bytes) -> bytes:
    """A protobuf field of length-delimited content."""
    length, size = len(body), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([field << 3 | 2]) + size + bytes([length]) + body


def test_graphs_within_graphs_without_end_are_no_graph(tmp_path: Path) -> None:
    body = b""
    for _ in range(2000):
        body = wrapped(1, wrapped(5, wrapped(6, body)))  # a node's attribute is a graph
    path = tmp_path / "deep.onnx"
    path.write_bytes(wrapped(7, body))
    with pytest.raises(ModelError, match="not an ONNX file"):
        read_graph(path)
