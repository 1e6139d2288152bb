"""`sdps-eval` that memory, the engine or the user ends early, and on a device that is not there."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from sdps.core.errors import UsageError
from sdps.core.frame import Image
from sdps.core.gpu import first_gpu
from sdps.model import SDPSFNet, save_checkpoint
from sdps.runtime.bundled import resolve
from sdps.training import restorers
from sdps.training.eval_cli import app
from sdps.training.restorers import NetworkRestorer, open_restorer, pick_provider

Picture = Callable[[int, int], Image]
Said = pytest.CaptureFixture[str]


def run(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})
    return done.exit_code, done.stdout, done.stderr


def save_pairs(folder: Path, picture: Picture, sizes: list[tuple[int, int]]) -> Path:
    """0.png, 1.png, ... of such heights and widths, and the same a little darker."""
    for i, size in enumerate(sizes):
        clean = picture(*size)
        for side, image in (("input", np.maximum(clean, 10) - 10), ("target", clean)):
            path = folder / side / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return folder


def pictures_in(path: Path) -> list[str]:
    return [row["picture"] for row in csv.DictReader(path.open())]


@pytest.fixture
def checkpoint(tiny_network: SDPSFNet, tmp_path: Path) -> Path:
    save_checkpoint(tiny_network, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what is free")
@pytest.mark.parametrize("model", ["tiny.safetensors", "sdps-nano"])
def test_a_picture_that_may_not_fit_is_told_of_before_once(
    model: str, checkpoint: Path, picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Linux gives out more memory than there is, it ends the process later, and nothing can be said."""
    pairs = save_pairs(tmp_path / "pairs", picture, [(32, 48), (48, 48)])
    given = checkpoint if model.endswith("safetensors") else model
    assert "GB" not in run(given, pairs, "--protocol", "frame")[2]
    monkeypatch.setattr("sdps.core.free_memory.free_memory", lambda: 1_000_000)
    code, _, said = run(given, pairs, "--protocol", "frame")
    assert code == 0
    assert said.count("0.0 are free: should this end without a word, use --protocol paper.") == 1
    assert "0.png of pairs (48x32) may take" in said
    assert "GB" not in run(given, pairs, "--protocol", "paper")[2]


ROOM = 300_000_000
"""Bytes of addresses that a starved process may add to what it has when it begins to score."""
STARVED = """
import os, resource, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # each thread would take addresses
import cv2, numpy, rich.progress, rich.table, torch
from sdps.core.metrics import quality
from sdps.training import eval_cli, eval_sets, protocol, report, restorers, worst_sheet
restorer = restorers.open_restorer(*sys.argv[2:4])
restorer.frame(numpy.zeros((64, 64, 3), numpy.uint8))  # loads what it needs
restorer.close()
for convention in ("rgb", "y"):
    quality(*[numpy.zeros((256, 256, 3), numpy.uint8)] * 2, convention)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]), -1))
sys.argv[1:] = [sys.argv[2], "--provider", *sys.argv[3:]]
eval_cli.main()
"""


def starved(model: str | Path, provider: str, folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """`sdps-eval` by whole pictures in a process that may add ROOM to its memory."""
    arguments = [str(ROOM), str(model), provider, str(folder), "--protocol", "frame", "--out", str(out)]
    return subprocess.run(
        [sys.executable, "-c", STARVED, *arguments], capture_output=True, text=True, timeout=250, check=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("provider", ["torch", "cpu", "openvino"])
def test_where_memory_runs_out_the_scores_so_far_are_kept(
    provider: str, checkpoint: Path, tmp_path: Path, picture: Picture
) -> None:
    """To restore the third picture at once takes many times ROOM; to read it, to restore and score the
    others, and to report takes a fraction of it."""
    folder = save_pairs(tmp_path / "set", picture, [(64, 64), (64, 64), (1600, 1600)])
    out = tmp_path / "out"
    done = starved(checkpoint if provider == "torch" else "sdps-nano", provider, folder, out)
    assert done.returncode == 1, done.stderr
    assert "(partial: 2 of 3 pictures)" in done.stdout
    assert "error: Memory ran out while 2.png of set was restored. The scores are of 2 of 3" in done.stderr
    assert "shrink that picture" in done.stderr and "--protocol paper" in done.stderr
    assert "Traceback" not in done.stderr
    assert pictures_in(out / "scores.csv") == ["0.png", "1.png"]
    found = json.loads((out / "scores.json").read_text())
    assert found["partial"] == "2 of 3 pictures" and found["sets"]["set"][0]["pictures"] == 2
    assert cv2.imread(str(out / "worst.png")).shape[0] == 22 + 2 * (22 + 320)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_memory_that_runs_out_while_scoring_is_not_blamed_on_the_engine(
    tmp_path: Path, picture: Picture
) -> None:
    """To score the second picture takes several times ROOM; to read it, and to leave it as it is, a third."""
    folder = save_pairs(tmp_path / "set", picture, [(64, 64), (2800, 2800)])
    done = starved("sdps-nano", "identity", folder, tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert "error: Memory ran out while 1.png of set was scored. The scores are of 1 of 2" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "shrink that picture or leave it out." in last and "--protocol" not in last
    assert "Traceback" not in done.stderr
    assert pictures_in(tmp_path / "out" / "scores.csv") == ["0.png"]


def test_where_the_engine_fails_the_scores_so_far_are_kept(
    tmp_path: Path, picture: Picture, capfd: Said
) -> None:
    """A graph that is said to take every size and takes one: ONNX Runtime fails on the third picture."""
    model = onnx.load(resolve("sdps-nano"))
    for axis, length in ((1, 64), (2, 96)):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = length
    onnx.save(model, tmp_path / "odd.onnx")
    folder = save_pairs(tmp_path / "set", picture, [(64, 96), (64, 96), (96, 64), (64, 96)])
    jpeg = cv2.imencode(".jpg", picture(64, 96))[1].tobytes()
    (folder / "input" / "0a.jpg").write_bytes(jpeg[: len(jpeg) // 2])  # only reading it whole can tell
    (folder / "target" / "0a.jpg").write_bytes(jpeg)
    options = ("--protocol", "frame", "--provider", "cpu", "--json")
    code, stdout, stderr = run(tmp_path / "odd.onnx", folder, *options, "--out", tmp_path / "out")
    told = stderr + capfd.readouterr().err
    assert code == 1
    assert "failed at 2.png of set (InvalidArgument: " in told and "try another --provider" in told
    assert "The scores are of 2 of 5 pictures." in told
    assert "not scored: " in told and "0a.jpg" in told
    found = json.loads(stdout)
    assert found["partial"] == "2 of 5 pictures" and len(found["unread"]) == 1
    assert pictures_in(tmp_path / "out" / "scores.csv") == ["0.png", "1.png"]


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """interrupt_at(n): Ctrl-C while the n-th picture is restored."""
    # A shell starts what it runs in the background with SIGINT ignored, the tests too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def at(number: int) -> None:
        frame, calls = NetworkRestorer.frame, []

        def interrupted(self: NetworkRestorer, image: Image) -> Image:
            calls.append(1)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGINT)
            return frame(self, image)

        monkeypatch.setattr(restorers.NetworkRestorer, "frame", interrupted)

    yield at
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_evaluation_keeps_the_scores_so_far(
    checkpoint: Path, tmp_path: Path, picture: Picture, capfd: Said, interrupt_at: Callable[[int], None]
) -> None:
    """Its second picture has a score by the paper's protocol already, and counts for none."""
    folder = save_pairs(tmp_path / "set", picture, [(64, 64)] * 3)
    interrupt_at(2)
    code, stdout, stderr = run(checkpoint, folder, "--protocol", "both", "--out", tmp_path / "out")
    told = stderr + capfd.readouterr().err
    assert code == 130 and "Traceback" not in told
    assert "stopped early: 1 of 3 pictures were scored" in told
    assert "(partial: 1 of 3 pictures)" in stdout
    assert pictures_in(tmp_path / "out" / "scores.csv") == ["0.png", "0.png"]
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["partial"] == "1 of 3 pictures"


def test_without_a_score_nothing_is_written(
    checkpoint: Path, tmp_path: Path, picture: Picture, interrupt_at: Callable[[int], None]
) -> None:
    folder, out = save_pairs(tmp_path / "set", picture, [(64, 64)] * 2), tmp_path / "out"
    assert run(checkpoint, folder, "--protocol", "frame", "--out", out)[0] == 0
    before = (out / "scores.csv").read_bytes()
    interrupt_at(1)
    code, stdout, _ = run(checkpoint, folder, "--protocol", "frame", "--out", out)
    assert code == 130 and not stdout
    assert (out / "scores.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("device", "provider", "expected"),
    [
        ("auto", "auto", "auto"),
        ("auto", "cuda", "cuda"),
        ("cpu", "auto", "openvino"),
        ("cpu", "cpu", "cpu"),
    ],
)
def test_the_device_chooses_what_runs_a_graph(device: str, provider: str, expected: str) -> None:
    assert pick_provider(device, provider) == expected


def test_a_graph_runs_on_the_device_that_is_asked_for() -> None:
    for provider, name in (("auto", "openvino:CPU"), ("cpu", "onnxruntime:CPU")):
        restorer = open_restorer("sdps-nano", provider, "cpu")
        assert restorer.name == f"sdps-nano on {name}"
        restorer.close()


@pytest.mark.parametrize(
    ("device", "provider", "says"),
    [
        ("tpu", "auto", "There is no device 'tpu'"),
        ("cpu", "cuda", "--provider cuda does not run on --device cpu"),
        ("cuda", "openvino", "--provider openvino does not run on --device cuda"),
        ("cuda", "auto", "There is no NVIDIA GPU or driver here. Use --device cpu"),
        ("cuda", "cuda", "There is no NVIDIA GPU or driver here. Use --device cpu"),
    ],
)
def test_a_device_that_a_graph_cannot_run_on_is_refused(
    device: str, provider: str, says: str, tmp_path: Path, picture: Picture, capfd: Said
) -> None:
    if "GPU" in says and first_gpu() is not None:
        pytest.skip("there is one")
    folder = save_pairs(tmp_path / "set", picture, [(64, 64)])
    code, stdout, stderr = run("sdps-nano", folder, "--device", device, "--provider", provider)
    assert code == 2 and not stdout and says in stderr + capfd.readouterr().err


def test_an_engine_does_not_run_on_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "nano.engine").write_bytes(b"engine")
    with pytest.raises(UsageError, match="only a GPU runs"):
        open_restorer(str(tmp_path / "nano.engine"), device="cpu")
