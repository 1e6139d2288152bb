"""Runs a new engine on this machine's GPU and compares its picture with the graph's.

In a process of its own, through `sdps-run`: that is how a user will run it, and an engine that
brings its process down must not take the export with it. Without a GPU there is nothing to run;
then the engine counts as parsed and built, and its sidecar has no drift.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
from PIL import Image as Pictures

from sdps.core.errors import EngineError, ParityError
from sdps.core.manifest import OUTPUT
from sdps.core.pictures import read_picture
from sdps.core.spec import ShapeRange, Size
from sdps.export.parity import Bounds, Drift, drift_between, feeds, fit, onnx_session
from sdps.export.precision import BFLOAT, narrow_type
from sdps.export.rehearsal import rehearse

RUN = "from sdps.runtime.cli import main; main()"
SIDE = Size(256, 256)
"""What a dynamic engine is tried at, as far as its profile goes: the reference runs on the CPU."""
SECONDS = 300


def size_to_run(shapes: ShapeRange) -> Size:
    """The size of a profile that is nearest to 256x256; a fixed engine's own."""
    low, high = shapes.min, shapes.max
    return Size(max(low.height, min(SIDE.height, high.height)), max(low.width, min(SIDE.width, high.width)))


def device_drift(model_file: Path, graph: onnx.ModelProto, picture: Path, size: Size) -> Drift:
    """How far what `sdps-run` makes of a picture is from what the graph makes of it.

    Args:
        model_file: The engine (or any file that `sdps-run --model` takes).
        graph: What it was built from; run with ONNX Runtime on the CPU.
        picture: A photograph; it is scaled and cropped to `size`.
        size: One that both take.

    Raises:
        EngineError: it did not run; the message ends with what it said.
    """
    image = fit(read_picture(picture), size)
    with tempfile.TemporaryDirectory(prefix="sdps-check-") as folder:
        given, made = Path(folder, "given.png"), Path(folder, "made.png")
        Pictures.fromarray(image).save(given)
        options = ["--model", str(model_file), "--input", str(given), "--output", str(made)]
        try:
            done = subprocess.run(
                [sys.executable, "-c", RUN, *options], capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            raise EngineError(f"{model_file} was built, but gave no picture in {SECONDS} s.") from None
        if done.returncode or not made.is_file():
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise EngineError(f"{model_file} was built, but does not run here: {said}")
        restored = read_picture(made)
    session = onnx_session(rehearse(graph) if narrow_type(graph) == BFLOAT else graph)
    reference = session.run([OUTPUT], feeds(session, image))[0][0]
    return drift_between(f"{picture.name} {size}", reference, restored)


def require_on_device(drift: Drift, bounds: Bounds) -> None:
    """Holds the engine's picture to the graph's.

    Raises:
        ParityError: they are further apart than `bounds`.
    """
    if not drift.within(bounds):
        raise ParityError(
            f"On this GPU the engine differs from its graph by {drift.psnr} and up to {drift.max_levels} "
            f"levels on {drift.label}, where {bounds} are asked for; it is not vouched for.",
            "Try --precision fp32, or state your own bound with --min-psnr.",
        )
