"""The figures of a drift that averages hide, and the bounds that none may slip through."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import onnx
import pytest

from sdps.calibration.drift import BOUND_OPTIONS, Drift, DriftBudget, Pair, Verifier
from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.manifest import INPUT, OUTPUT


def graph(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """A graph of uint8 pictures of any size, without a network."""
    shape = ["n", "h", "w", 3]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, shape) for name in (INPUT, OUTPUT)
    ]
    values = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    built = onnx.helper.make_graph(list(nodes), "tiny", [ends[0]], [ends[1]], values)
    return onnx.helper.make_model(built, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)


@pytest.fixture(scope="module")
def same() -> onnx.ModelProto:
    return graph(onnx.helper.make_node("Identity", [INPUT], [OUTPUT]))


@pytest.fixture(scope="module")
def inwards() -> onnx.ModelProto:
    """Values above 128 fall by 2 levels, those below rise by 2."""
    node = onnx.helper.make_node
    return graph(
        node("Greater", [INPUT, "middle"], ["bright"]),
        node("Where", ["bright", "down", "up"], ["delta"]),
        node("Cast", [INPUT], ["wide"], to=onnx.TensorProto.INT32),
        node("Add", ["wide", "delta"], ["moved"]),
        node("Cast", ["moved"], [OUTPUT], to=onnx.TensorProto.UINT8),
        middle=np.array(128, np.uint8),
        down=np.array(-2, np.int32),
        up=np.array(2, np.int32),
    )


@pytest.fixture(scope="module")
def brighter() -> onnx.ModelProto:
    """Values above 128 become 210."""
    node = onnx.helper.make_node
    return graph(
        node("Greater", [INPUT, "middle"], ["bright"]),
        node("Where", ["bright", "white", INPUT], [OUTPUT]),
        middle=np.array(128, np.uint8),
        white=np.array(210, np.uint8),
    )


def flat(value: int, height: int = 64, width: int = 64) -> Image:
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0])
@pytest.mark.parametrize("bound", list(BOUND_OPTIONS))
def test_what_bounds_nothing_is_refused_by_its_option(bound: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{BOUND_OPTIONS[bound]} {value:g} ") as caught:
        DriftBudget(**{bound: value})
    assert caught.value.exit_code == 2


def test_colour_casts_that_cancel_in_the_mean_are_told(
    same: onnx.ModelProto, inwards: onnx.ModelProto
) -> None:
    pairs = [Pair(flat(50), flat(50), "heavy"), Pair(flat(200), flat(200), "heavy")]
    drift = Verifier(same, pairs).measure(inwards)
    assert drift.worst_shift == 0
    assert drift.picture_shift == 2
    assert drift.to_json()["worst_picture_shift"] == 2
    assert "colour shift 0.00 of 0.25 levels (2.00 in the worst picture)" in DriftBudget().explain(drift)


def test_a_worst_tile_that_stands_alone_is_told_from_many(
    same: onnx.ModelProto, brighter: onnx.ModelProto
) -> None:
    alike, other = Pair(flat(50), flat(60), "heavy"), Pair(flat(200), flat(190), "heavy")
    alone = Verifier(same, [alike] * 199 + [other]).measure(brighter)
    many = Verifier(same, [alike] * 190 + [other] * 10).measure(brighter)
    twice = pytest.approx(20 * math.log10(2))  # an error of 10 levels becomes one of 20
    assert (alone.tile_db, alone.tile_p99_db) == (twice, 0)
    assert (many.tile_db, many.tile_p99_db) == (twice, twice)
    assert alone.to_json()["p99_tile_db"] == 0
    assert "worst tile 6.02 of 0.5 dB (99 of 100 at most 0.00)" in DriftBudget().explain(alone)


def test_pictures_that_are_restored_exactly_do_not_decide_the_mean_loss(
    same: onnx.ModelProto, brighter: onnx.ModelProto
) -> None:
    dry, rainy = Pair(flat(200), flat(200), "light"), Pair(flat(200), flat(190), "light")
    drift = Verifier(same, [rainy, dry]).measure(brighter)
    assert drift.loss_db == {"light": pytest.approx(20 * math.log10(2))}
    assert drift.tile_db == pytest.approx(45 - 10 * math.log10(255**2 / 10**2))  # the dry one's counts
    assert Verifier(same, [dry]).measure(brighter).loss_db == {"light": 0}


def test_without_truth_the_worst_tile_is_told(same: onnx.ModelProto, brighter: onnx.ModelProto) -> None:
    picture = flat(128, 256, 384)
    picture[128:, 256:] = 200
    drift = Verifier(same, [Pair(picture, None, "video")]).measure(brighter)
    alone = 10 * math.log10(255**2 / 10**2)
    assert drift.tile_psnr_db == pytest.approx(alone)
    assert drift.psnr_db == pytest.approx(alone + 10 * math.log10(6))
    assert drift.to_json()["worst_tile_psnr_to_fp32_db"] == pytest.approx(alone, abs=0.01)
    assert drift.to_json()["worst_tile_db"] is drift.to_json()["p99_tile_db"] is None
    assert f"({alone:.1f} in the worst tile)" in DriftBudget().explain(drift)


def test_a_stored_drift_comes_back_whole_or_not_at_all() -> None:
    drift = Drift({"heavy": 0.1}, 0.2, {"heavy": (0.1, -0.2, 0.3)}, 44.0, 0.5, 0.7, 33.0, 0.15)
    stored = json.loads(json.dumps(asdict(drift)))
    assert Drift.restored(stored) == drift
    del stored["picture_shift"]
    with pytest.raises(ValueError, match="not all"):
        Drift.restored(stored)
