"""A report with everything in it."""

from __future__ import annotations

import math

import pytest

from sdps.benchmarks.environment import Environment
from sdps.benchmarks.measurement import REFERENCE, Drift, Measurement, PictureDrift, Report, StageCost, Truth
from sdps.benchmarks.timing import Timing

MS = 1_000_000


@pytest.fixture
def report() -> Report:
    """Two graphs: one twice as fast and equal, one as slow and visibly different."""
    times = tuple((100 + i % 7) * MS for i in range(120))
    same = Drift(
        tuple(PictureDrift(name, math.inf, 1.0, 0, (0.0, 0.0, 0.0)) for name in ("a.png", "b|b.png"))
    )
    other = Drift(
        (
            PictureDrift("a.png", 38.5, 0.97, 30, (0.5, -0.25, 2.0)),
            PictureDrift("b|b.png", 31.25, 0.91, 60, (0.5, -0.25, 1.0)),
        )
    )
    return Report(
        model="net",
        weights_sha256="ab" * 32,
        config={"tau": 1, "features": 8},
        size="256x256",
        stages=(StageCost("stage_in", 1000, 2_000_000_000), StageCost("stage_osr", 234, 3_500_000_000)),
        timing=Timing(rounds=120, warmup=2, seed=0, threads=2),
        environment=Environment.capture(),
        measurements=(
            Measurement(REFERENCE, "", "torch:CPU", "fp32", 0, times, None, Truth(30.0, 0.9)),
            Measurement(
                "net-fp32 on openvino",
                "net-fp32",
                "openvino:CPU",
                "fp32",
                5_500_000_000,
                tuple(t // 2 for t in times),
                same,
                Truth(30.0, 0.9),
                depth=2,
                ahead_ns=tuple(2 * t // 5 for t in times),
            ),
            Measurement(
                "net-int8 on cpu",
                "net-int8",
                "onnxruntime:CPU",
                "int8",
                0,
                times[::-1],
                other,
                Truth(25.0, 0.8, 1),
                "0 of the graph's 9 INT8 convolutions in integers",
            ),
        ),
        input_truth=Truth(math.inf, 0.75),
        notes=("net-int8 was exported from other weights than net's.",),
    )
