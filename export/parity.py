"""Does the exported graph restore the picture that PyTorch restores?

PyTorch FP32 and ONNX Runtime see the same picture; names, types and axes are checked first, then
values. An FP16 graph is run twice, the second time as its rehearsal (`rehearsal.py`), which also tells
how near its activations come to overflow; a BF16 graph is rehearsed only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image as Pictures
from torch import nn

from sdps.calibration.session import GraphRunError, Session
from sdps.core.console import need
from sdps.core.errors import ExportError, ParityError
from sdps.core.frame import Image
from sdps.core.manifest import INPUT, OUTPUT
from sdps.core.means import MEANS_INPUT, MEANS_OUTPUT, means_input
from sdps.core.metrics import psnr_of
from sdps.core.spec import STRIDE, Size
from sdps.export.precision import BFLOAT, HALF, HALF_MAX, narrow_type
from sdps.export.rehearsal import PEAK, rehearse
from sdps.model.deploy import DeployNet, space_of

DYNAMIC_SIDE = 384
"""Longest side, in pixels, at which a dynamic graph is compared (and again at half of it)."""


@dataclass(frozen=True)
class Bounds:
    """How far a graph may be from PyTorch FP32, in 8-bit levels of its output.

    Attributes:
        min_psnr_db: Least PSNR between the two outputs, in dB (peak 255).
        max_levels: Largest difference of one value, or None for no such bound.
    """

    min_psnr_db: float
    max_levels: int | None = None

    @classmethod
    def of(cls, precision: str, min_psnr_db: float | None = None) -> Bounds:
        """The bounds of a precision, or a PSNR in the place of all of them."""
        bounds = {"fp32": cls(60.0, 2), "fp16": cls(45.0), "bf16": cls(35.0), "int8": cls(35.0)}[precision]
        return bounds if min_psnr_db is None else cls(min_psnr_db)

    def __str__(self) -> str:
        levels = "" if self.max_levels is None else f" and at most {self.max_levels} levels"
        return f"at least {self.min_psnr_db:g} dB{levels}"


@dataclass(frozen=True)
class Drift:
    """How far two outputs of one picture are apart.

    Attributes:
        label: What was compared, e.g. 'rainy.jpg 256x256'.
        psnr_db: PSNR between them in dB, infinite where they are equal.
        max_levels, mean_levels: Absolute difference in 8-bit levels.
        peak: Largest absolute value that any 16-bit tensor had to hold, where that was watched.
    """

    label: str
    psnr_db: float
    max_levels: int
    mean_levels: float
    peak: float | None = None

    @property
    def psnr(self) -> str:
        """'47.1 dB', or 'exact'."""
        return "exact" if math.isinf(self.psnr_db) else f"{self.psnr_db:.1f} dB"

    def within(self, bounds: Bounds) -> bool:
        return self.psnr_db >= bounds.min_psnr_db and (
            bounds.max_levels is None or self.max_levels <= bounds.max_levels
        )

    def to_manifest(self) -> dict[str, Any]:
        """For `GraphManifest.drift`. JSON knows no infinity, so equal outputs read 'exact'."""
        psnr = "exact" if math.isinf(self.psnr_db) else round(self.psnr_db, 2)
        values = {
            "psnr_db": psnr,
            "max_levels": self.max_levels,
            "mean_levels": round(self.mean_levels, 5),
            "picture": self.label,
        }
        return values if self.peak is None else {**values, "peak": round(self.peak, 2)}


def drift_between(label: str, reference: Image, other: Image) -> Drift:
    """Compares two uint8 pictures of one shape."""
    difference = np.abs(reference.astype(np.int16) - other.astype(np.int16))
    psnr = psnr_of(float(np.mean(difference.astype(np.float64) ** 2)))
    return Drift(label, psnr, int(difference.max()), float(difference.mean()))


def fit(image: Image, size: Size) -> Image:
    """Scales `image` to cover `size` and takes the middle, so that nothing is distorted."""
    height, width = image.shape[:2]
    scale = max(size.height / height, size.width / width)
    scaled = (max(size.width, round(width * scale)), max(size.height, round(height * scale)))
    how = Pictures.Resampling.BOX if scale < 1 else Pictures.Resampling.BICUBIC
    image = np.array(Pictures.fromarray(image).resize(scaled, how))  # a copy, which PyTorch may write to
    top, left = (image.shape[0] - size.height) // 2, (image.shape[1] - size.width) // 2
    return np.ascontiguousarray(image[top : top + size.height, left : left + size.width])


def sizes_to_check(image: Image, fixed: Size | None, stride: int = STRIDE) -> list[Size]:
    """The graph's own size; for a dynamic graph the picture's, bounded, and half of that."""
    if fixed:
        return [fixed]
    scale = min(1.0, DYNAMIC_SIDE / max(image.shape[:2]))

    def rounded(factor: float) -> Size:
        height, width = (max(4, round(side * factor / stride)) * stride for side in image.shape[:2])
        return Size(height, width)

    return [rounded(scale), rounded(scale / 2)]


def check_interface(session: Session, fixed: Size | None) -> None:
    """Checks names, types and axes of an ONNX Runtime session.

    Raises:
        ExportError: they are not uint8 [N,H,W,3] `image` to uint8 [N,H,W,3] `restored` (and means).
    """
    beside = {PEAK, MEANS_INPUT, MEANS_OUTPUT}
    for kind, name, found in (
        ("input", INPUT, session.get_inputs()),
        ("output", OUTPUT, session.get_outputs()),
    ):
        said = [(value.name, value.type, value.shape) for value in found if value.name not in beside]
        as_expected = len(said) == 1 and said[0][:2] == (name, "tensor(uint8)") and len(said[0][2]) == 4
        if as_expected and fixed:
            as_expected = said[0][2] == [1, fixed.height, fixed.width, 3]
        elif as_expected:
            *free, channels = said[0][2]
            as_expected = channels == 3 and not any(isinstance(axis, int) for axis in free)
        if not as_expected:
            raise ExportError(f"The graph's {kind} is {said}, not {name!r}, uint8 [N,{fixed or 'H,W'},3].")


def measure_drift(
    network: nn.Module, model: onnx.ModelProto, image: Image, name: str, fixed: Size | None
) -> list[Drift]:
    """Runs PyTorch and ONNX Runtime on a real picture and compares what they make of it.

    Args:
        network: The FP32 network that `model` was exported from.
        model: The graph, FP32 or FP16.
        image: A photograph; it is scaled and cropped to the graph's size.
        name: What the drifts call it.
        fixed: The graph's size, None if it is dynamic.

    Returns:
        One drift for each size, and for an FP16 graph another for its rehearsal.

    Raises:
        ExportError: names, types or axes are wrong, or ONNX Runtime lacks an operator.
        ParityError: a result is one flat colour (NaN becomes black), PyTorch's own or the graph's; a value
            overflows; or the graph does not run.
    """
    pictures = [fit(image, size) for size in sizes_to_check(image, fixed, space_of(network).stride)]
    runs = {"": model}
    narrow = narrow_type(model)
    if narrow == BFLOAT:
        runs = {
            " (BF16 rounding)": rehearse(model)
        }  # ONNX Runtime's CPU provider cannot run the graph itself
    elif narrow is not None:
        runs[" (FP16 rounding)"] = rehearse(model)
    sessions = {how: _loaded(graph, narrow) for how, graph in runs.items()}
    for session in sessions.values():
        check_interface(session, fixed)
    deploy = DeployNet(network, fixed).eval()
    with torch.inference_mode():
        references = [deploy(torch.from_numpy(p)[None])[0].numpy() for p in pictures]
    for given, reference in zip(pictures, references, strict=True):
        _check_restores(f"{name} {given.shape[0]}x{given.shape[1]}", given, reference)
    drifts = []
    for how, session in sessions.items():
        for given, reference in zip(pictures, references, strict=True):
            label = f"{name} {given.shape[0]}x{given.shape[1]}{how}"
            result = _results(session, given, label, fixed)
            restored = result[OUTPUT][0]
            peak = float(result[PEAK]) if PEAK in result else None
            _check_not_flat(label, reference, restored, narrow is not None)
            if peak is not None and narrow == HALF and not peak <= HALF_MAX:  # NaN is not, either
                raise ParityError(
                    f"A value of {peak:.6g} overflows FP16 (at most {HALF_MAX:.0f}) on {label}.",
                    "Export with --precision fp32, or bf16 for a GPU that has it.",
                )
            drifts.append(replace(drift_between(label, reference, restored), peak=peak))
    return drifts


def _loaded(model: onnx.ModelProto, narrow: int | None) -> Session:
    try:
        return onnx_session(model)
    except GraphRunError as error:  # an operator that it lacks; BF16 takes opset 22, of which it has not all
        remedy = "Export with --precision fp16 or fp32." if narrow == BFLOAT else "Try it with --no-rewrite."
        raise ExportError(f"The graph cannot be compared with PyTorch. {error.message}", remedy) from error


class SizeError(ParityError):
    """A graph of any size does not run at one."""


def _results(session: Session, given: Image, label: str, fixed: Size | None) -> dict[str, Any]:
    """The graph's outputs by name.

    Raises:
        ParityError: it does not run.
    """
    try:
        values = session.run(None, feeds(session, given))
    except GraphRunError as error:
        if fixed:
            raise ParityError(f"On {label}: {error.message}", "Try it with --no-rewrite.") from error
        raise SizeError(
            "The network took a size for a constant when it was traced, so its graph does not run at every "
            f"size. On {label}: {error.message}",
            "Export it for one size with --size, or let it compute with its input's sizes without int().",
        ) from error
    return dict(zip([output.name for output in session.get_outputs()], values, strict=True))


def feeds(session: Session, picture: Image) -> dict[str, Any]:
    """What a session is fed for one picture; a graph with tile means takes its own."""
    fed: dict[str, Any] = {INPUT: picture[None]}
    for value in session.get_inputs():
        if value.name == MEANS_INPUT:
            fed[MEANS_INPUT] = means_input(value.shape[1] - 1)
    return fed


def worst_of(drifts: Sequence[Drift]) -> Drift:
    """The drift with the lowest PSNR."""
    return min(drifts, key=lambda drift: drift.psnr_db)


def require(drifts: Sequence[Drift], bounds: Bounds) -> None:
    """Holds drifts to their bounds.

    Raises:
        ParityError: one is beyond them; it names the worst.
    """
    failed = [drift for drift in (worst_of(drifts), *drifts) if not drift.within(bounds)]
    if failed:
        drift = failed[0]
        raise ParityError(
            f"The graph differs from PyTorch by {drift.psnr} and up to {drift.max_levels} levels on "
            f"{drift.label}, where {bounds} are asked for; no file was written.",
            "Try --precision fp32, another --picture, or state your own bound with --min-psnr.",
        )


def _flat(image: Image) -> bool:
    return not np.ptp(image, axis=(0, 1)).any()


def _check_restores(label: str, given: Image, reference: Image) -> None:
    if _flat(reference) and not _flat(given):
        raise ParityError(
            f"PyTorch itself makes one flat colour, {reference[0, 0].tolist()}, of {label}: the checkpoint's "
            "weights give NaN or overflow, so there is nothing to compare a graph with; no file was written.",
            "Take another checkpoint of the training run; with --arch, look at --mean and --std as well.",
        )


def _check_not_flat(label: str, reference: Image, restored: Image, narrow: bool) -> None:
    if _flat(restored) and not _flat(reference):
        raise ParityError(
            f"The graph makes one flat colour, {restored[0, 0].tolist()}, of {label}: "
            "it overflows or holds NaN.",
            "Export with --precision fp32." if narrow else "Its weights may be at the end of FP32's range.",
        )


def onnx_session(model: onnx.ModelProto) -> Session:
    """ONNX Runtime on the CPU, for a run or two.

    Raises:
        GraphRunError: it cannot load the graph.
    """
    ort = need("onnxruntime", "export")
    options = ort.SessionOptions()
    options.enable_cpu_mem_arena = False  # run once or twice: the arena would only hold memory
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # nothing is timed here
    return Session(model, options)
