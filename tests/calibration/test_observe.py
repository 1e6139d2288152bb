"""Statistics in the cache that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from sdps.calibration.observe import observe, observe_cached
from sdps.core.manifest import INPUT


@pytest.mark.parametrize("damage", ["nothing", "garbage", "cut", "other"])
def test_damaged_statistics_are_observed_anew(damage: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", [INPUT], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Neg", ["x"], ["y"]),
    ]
    ends = (
        helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [1, 64, 64, 3]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 64, 64]),
    )
    graph = helper.make_graph(nodes, "g", [ends[0]], [ends[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    pictures = [np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)]
    file = tmp_path / "statistics.npz"
    observe_cached(file, model, ["x"], pictures)
    whole = file.read_bytes()
    if damage == "other":
        np.savez(file, other=np.zeros(3))
    else:
        file.write_bytes({"nothing": b"", "garbage": b"no archive", "cut": whole[: len(whole) // 2]}[damage])
    expected = observe(model, ["x"], pictures)["x"].histogram.counts
    for _ in range(2):
        again = observe_cached(file, model, ["x"], pictures)
        assert np.array_equal(again["x"].histogram.counts, expected)
    assert len(file.read_bytes()) == len(whole)  # and kept for the next time
