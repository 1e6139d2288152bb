"""A family of exits: which one each frame takes, and that the graphs are the described ones."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdps.core.artifact import sha256_of
from sdps.core.errors import ModelError, UsageError
from sdps.core.family import FamilyManifest, Member
from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest
from sdps.runtime.anytime import MOST_PATIENCE, PATIENCE, AnytimeDerainer, ExitChooser, parse_exit
from sdps.runtime.backends.identity import IdentityBackend
from sdps.runtime.derainer import Derainer

MACS = {0: 12.0, 1: 25.0, 2: 38.0, 3: 52.0, 4: 100.0}


def drive(chooser: ExitChooser, speed: float, frames: int, pixels: int = 1) -> list[int]:
    """Feeds latencies of a machine that needs `speed` ms per unit of MACs; returns the exits taken."""
    taken = []
    for _ in range(frames):
        taken.append(chooser.current)
        chooser.measured(speed * MACS[chooser.current], pixels)
    return taken


def test_it_climbs_to_the_deepest_exit_in_time_and_stays() -> None:
    taken = drive(ExitChooser(MACS, 62.0), 1.0, 200)
    assert taken[0] == 0
    assert taken == sorted(taken)
    assert set(taken[-100:]) == {3}  # needs 52 ms; exit 4 would need 100


def test_headroom_keeps_it_from_flapping() -> None:
    taken = drive(ExitChooser(MACS, 53.0), 1.0, 400)
    assert set(taken[-100:]) == {2}  # exit 3 would be in time by 1 ms only
    assert sum(a != b for a, b in itertools.pairwise(taken)) == 2


def test_it_falls_back_within_a_few_frames_when_the_machine_slows_down() -> None:
    chooser = ExitChooser(MACS, 130.0)
    assert drive(chooser, 1.0, 200)[-1] == 4
    slowed = drive(chooser, 3.0, 30)
    assert slowed[2] < 4
    assert all(3.0 * MACS[exit] <= 130.0 for exit in slowed[10:])


def test_an_exit_that_disappoints_is_tried_ever_more_rarely() -> None:
    chooser = ExitChooser(MACS, 62.0)
    real = {0: 12.0, 1: 25.0, 2: 38.0, 3: 90.0, 4: 200.0}  # exit 3 is far slower than its MACs say
    visits = []
    for frame in range(3000):
        if chooser.current == 3:
            visits.append(frame)
        chooser.measured(real[chooser.current], 1)
    starts = [frame for frame in visits if frame - 1 not in visits]
    gaps = np.diff(starts)
    assert gaps[-1] > 4 * gaps[0] >= PATIENCE
    assert len(visits) < 3000 / 20
    assert gaps.max() < 2 * MOST_PATIENCE


def test_another_picture_size_starts_the_measurement_anew() -> None:
    chooser = ExitChooser(MACS, 60.0)
    drive(chooser, 1.0, 100)
    chooser.measured(5000.0, 9)  # the first frame of a size is the engine's warm-up
    assert chooser.latency_ms is None


@pytest.mark.parametrize(
    ("exit", "target", "parsed"),
    [
        (None, None, (None, None)),
        ("2", None, (2, None)),
        ("auto", None, (None, 40.0)),
        ("auto", 9.5, (None, 9.5)),
    ],
)
def test_options(exit: str | None, target: float | None, parsed: tuple[int | None, float | None]) -> None:
    assert parse_exit(exit, target) == parsed


@pytest.mark.parametrize(("exit", "target"), [("two", None), ("-1", None), ("1", 40.0), (None, 40.0)])
def test_wrong_options(exit: str | None, target: float | None) -> None:
    with pytest.raises(UsageError):
        parse_exit(exit, target)


@pytest.fixture
def family(graph_path: Callable[..., Path], tmp_path: Path) -> Path:
    """Two members; the second is a fixed graph, so that their outputs differ in kind."""
    members = []
    for exit, source in ((0, graph_path("fp16", "dynamic")), (1, graph_path("fp32", "dynamic"))):
        target = tmp_path / f"exit{exit}.onnx"
        target.write_bytes(source.read_bytes())
        members.append(Member(exit, target.name, sha256_of(target), 100 * (exit + 1), 0.5 * (exit + 1)))
    path = tmp_path / "family.json"
    FamilyManifest("tiny", "0" * 64, "fp32", "dynamic", "0", tuple(members)).write(path)
    return path


def test_a_family_runs_like_a_model(family: Path, picture: Callable[[int, int], Image]) -> None:
    image = picture(40, 64)
    with Derainer.load(family, "cpu") as whole, Derainer.load(family.parent / "exit1.onnx", "cpu") as single:
        np.testing.assert_array_equal(whole(image), single(image))
        assert whole.usage() == "exit 1: 1 frames"
    with Derainer.load(family, "cpu", exit=0) as cheap:
        assert cheap.manifest.precision == "fp16"
    with AnytimeDerainer.open(family, "cpu", latency_target_ms=60_000.0) as auto:
        for _ in range(PATIENCE + 3):
            auto(image)
        assert auto.exit == 1  # nothing is slower than a minute
        assert set(auto.used) == {0, 1}


def test_a_changed_graph_is_refused(family: Path) -> None:
    with (family.parent / "exit1.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ModelError, match="not the graph"):
        Derainer.load(family, "cpu")


@pytest.mark.parametrize("file", ["../exit1.onnx", "/etc/passwd"])
def test_members_lie_beside_the_description(family: Path, file: str) -> None:
    values = json.loads(family.read_text())
    values["members"][1]["file"] = file
    family.write_text(json.dumps(values))
    with pytest.raises(ModelError, match="not beside it"):
        FamilyManifest.read(family)


def test_what_is_no_family_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("{}", "[]", "not json", '{"format": "sdps-family-1", "members": [{"a": 1}]}'):
        path.write_text(text)
        with pytest.raises(ModelError, match="no family"):
            FamilyManifest.read(path)


def test_an_exit_that_is_not_there(family: Path) -> None:
    with pytest.raises(UsageError, match="no exit 7"):
        Derainer.load(family, "cpu", exit=7)
    with pytest.raises(UsageError, match="one exit"):
        Derainer.load(family.parent / "exit1.onnx", "cpu", exit=0)
    backend = IdentityBackend()
    assert isinstance(backend.manifest, GraphManifest)
    assert replace(backend.manifest, exit=3).exit == 3
