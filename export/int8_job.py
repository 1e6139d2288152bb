"""One INT8 export: FP32 graph, calibration, search within the budget, the rest to FP16, a report.

Here the rooms meet: `calibration` knows no network, no FP16 and no files of ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from sdps.calibration.budget import Point, Search
from sdps.calibration.drift import BOUND_OPTIONS, DriftBudget, Verifier
from sdps.calibration.frames import CROP, CalibrationSet, build_set
from sdps.calibration.layers import Layer, find_layers, picture_facing
from sdps.calibration.observe import OBSERVER_VERSION, Step
from sdps.calibration.qdq import infer_types, integer_convolutions
from sdps.calibration.recipe import Calibrated, Options, calibrate
from sdps.calibration.report import Int8Report
from sdps.calibration.rounding import ROUNDING_VERSION
from sdps.calibration.sensitivity import WORK, Sensitivity, measure_layers, ranking_pairs
from sdps.core.artifact import atomic_path
from sdps.core.cache import cache_folder
from sdps.core.errors import ExportError, ParityError, SdpsError, UsageError
from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest
from sdps.export.fine_tuned import FineTuned
from sdps.export.graph_macs import REFERENCE, macs_by_node
from sdps.export.module_map import export_mapped
from sdps.export.onnx_export import check_graph, describe, export_graph, manifest_of
from sdps.export.parity import Bounds, measure_drift, worst_of
from sdps.export.precision import fp32_islands, to_fp16
from sdps.export.rehearsal import rehearse

REST = ("fp16", "fp32")
TRUTH_BOUNDS = ("loss_db", "tile_db")
"""Bounds that only a calibration set with ground truth can be held to."""


@dataclass(frozen=True)
class Int8Job:
    """What is asked for.

    Attributes:
        calib: The source of the calibration set (`calibration.frames.build_set`).
        budget: The drift that is allowed.
        crops: Number of calibration crops, None for the default.
        crop_side: Their side in pixels.
        allow_overlap: Take pictures of the evaluation set.
        held_out: A folder of pictures that none of the set's may be among.
        rest: What is not INT8 is 'fp16' (GPUs) or 'fp32' (CPUs, which have no FP16 convolutions).
        options: How to calibrate.
        cache: Folder for statistics and sensitivities.
        truth_options: The options given that only a set with ground truth can answer.
    """

    calib: str
    cache: Path
    budget: DriftBudget = field(default_factory=DriftBudget)
    crops: int | None = None
    crop_side: int = CROP
    allow_overlap: bool = False
    held_out: Path | None = None
    rest: str = "fp16"
    options: Options = field(default_factory=Options)
    truth_options: Sequence[str] = ()

    def check_cache(self) -> None:
        """Before the minutes of work whose results go there.

        Raises:
            SdpsError: the folder cannot be made or written to.
        """
        try:
            with atomic_path(self.cache / "probe") as temporary:
                temporary.touch()
            (self.cache / "probe").unlink(missing_ok=True)
        except (SdpsError, OSError) as error:
            cause = error.message if isinstance(error, SdpsError) else str(error)
            raise SdpsError(
                f"INT8 needs a cache that can be written, and {self.cache} cannot: {cause}",
                "Set SDPS_HOME to a folder that can.",
            ) from error

    def check_truth(self, chosen_set: CalibrationSet) -> None:
        """Whether what was asked for can be measured on a set.

        Raises:
            UsageError: a loss against the ground truth is bounded, and there is none.
        """
        if self.truth_options and all(crop.pair.clean is None for crop in chosen_set.verify):
            raise UsageError(
                f"{chosen_set.origin} has no ground truth, against which {' and '.join(self.truth_options)} "
                "would be measured.",
                "Give pairs (input/ and target/), or bound the PSNR against FP32 with --min-psnr.",
            )


def parse_int8(asked: Mapping[str, Any], min_psnr: float | None) -> Int8Job:
    """The job of the command's options; None stands for a default.

    Args:
        asked: `calib`; `loss_db`, `tile_db`, `shift` of the budget; `crops`, `crop_side`,
            `calibrator`, `rest`, `allow_overlap`, `held_out`.
        min_psnr: Floor in dB against FP32, for sets without ground truth.

    Raises:
        UsageError: a value is out of range or there is no such rest or calibrator.
    """
    given = {key: value for key, value in asked.items() if value is not None}
    bounds: dict[str, float] = {
        key: given.pop(key) for key in ("loss_db", "tile_db", "shift") if key in given
    }
    truth_options = tuple(BOUND_OPTIONS[key] for key in TRUTH_BOUNDS if key in bounds)
    if min_psnr is not None:
        bounds["psnr_db"] = min_psnr
    options = Options(given.pop("calibrator")) if "calibrator" in given else Options()
    if given.get("rest", REST[0]) not in REST:
        raise UsageError(f"There is no rest {given['rest']!r}.", f"Choose one of {', '.join(REST)}.")
    return Int8Job(
        cache=cache_folder() / "int8",
        budget=DriftBudget(**bounds),
        options=options,
        truth_options=truth_options,
        **given,
    )


_TUNED = (
    "Ranges and weights were trained for INT8 (sdps-train --qat); the drift is against the FP32 weights "
    "that the training began with."
)
_FACING = "it reads or makes a picture, and fine-tuning for INT8 leaves such layers as they are"
_COSTLY = "before the fine-tuning began, it was among the layers that alone cost most for their work"


@dataclass(frozen=True)
class Quantised:
    """An INT8 graph and what is known of it."""

    model: onnx.ModelProto
    report: Int8Report


def quantise_network(
    network: nn.Module,
    manifest: GraphManifest,
    job: Int8Job,
    picture: tuple[str, Image],
    step: Step = lambda *_: None,
    tuned: FineTuned | None = None,
) -> Quantised:
    """Calibrates on a graph of any size and applies what was found to one of the manifest's size.

    Args:
        network: As for `export_graph`.
        manifest: Of the graph that is wanted, its precision 'int8'.
        job: What is asked for.
        picture: Name and content of the photograph that graphs are compared with PyTorch on.
        step: Told what goes on and how far it is.
        tuned: The ranges of a network that was fine-tuned for INT8, and what it was before: they are
            taken as they are, and the drift is measured against what it was.

    Returns:
        The graph with its manifest (without drift against PyTorch), and the report.

    Raises:
        UsageError: the calibration set is not fit for it, or lacks the truth that was asked about.
        ExportError: not even FP16 keeps the budget, or the weights give NaN.
        ParityError: the graph of any size is not the network.
    """
    if tuned and job.options != Options():
        raise UsageError("The checkpoint brings trained ranges.", "Leave --calibrator out.")
    if tuned is None:  # which keeps no statistics
        job.check_cache()
    step("Choosing the calibration set", 0, 0)
    chosen_set = build_set(
        job.calib, job.crops, job.crop_side, job.allow_overlap, manifest.stride, job.held_out, step
    )
    job.check_truth(chosen_set)
    step("Tracing the network", 0, 0)
    plain = replace(manifest, precision="fp32", size="dynamic")
    mapped = export_mapped(network, plain) if tuned else None
    model = mapped.model if mapped else export_graph(network, plain)
    reference = export_graph(tuned.original, plain) if tuned else model
    step("Comparing the graph of any size with PyTorch", 0, 0)
    _check_any_size(network, model, *picture)
    if tuned:
        _check_any_size(tuned.original, reference, *picture)
    macs = macs_by_node(model)
    layers = find_layers(model, macs, fp32_islands(model))
    step("Restoring the verification pictures", 0, 0)
    verifier = Verifier(reference, [crop.pair for crop in chosen_set.verify])
    convert = _to_rest(job.rest)
    # What no INT8 is to blame for; where it is FP16's own, a search would be in vain.
    if job.rest == "fp16" and not tuned:
        floor = verifier.measure(rehearse(to_fp16(model)))
        if job.budget.excess(floor) > 1:
            raise ExportError(
                f"FP16 alone misses the drift budget: {job.budget.explain(floor)}; no file was written.",
                f"{_widen(bool(floor.loss_db))}, or use --int8-rest fp32.",
            )
    stem = _cache_key(model, chosen_set)
    pictures = [crop.image for crop in chosen_set.calibrate]
    # CPUs without VNNI run these graphs too, and OpenVINO's and ONNX Runtime's kernels saturate there.
    options = replace(job.options, narrow_weights=job.rest == "fp32")
    if tuned and mapped:
        calibrated = tuned.calibrated(mapped)
    else:
        calibrated = calibrate(model, layers, pictures, options, job.cache / stem, step)
    total = sum(macs.values())
    search = Search(calibrated, verifier, job.budget, total, step, int(WORK / (total * len(verifier.pairs))))
    sensitivities: list[Sensitivity] = []
    notes: list[str] = []
    if tuned:  # the layers that were trained have learnt to make up for each other: all of them or none
        point = search.measure(frozenset(layer.name for layer in layers) - calibrated.quantised.keys())
    elif not search.satisfied(point := search.all_int8()):
        per_pixel = total / (REFERENCE.height * REFERENCE.width)
        few = ranking_pairs(verifier.pairs, len(layers), per_pixel, manifest.stride)
        # Not by the budget: what is kept is the drift, which holds for any.
        told = f"{options!r}{ROUNDING_VERSION}{manifest.stride}"
        lines = job.cache / f"{stem}-{_digest(told)[:8]}.jsonl"
        sensitivities = measure_layers(calibrated, Verifier(model, few), job.budget, lines, step)
        point = search.run(sensitivities)
        notes += search.warnings(point)
    graph, rewrites = _finish(network, manifest, calibrated, layers, point, convert, step)
    if job.rest == "fp16":
        # The search ran with FP32 around INT8; what is delivered has to hold as well.
        names = [layer.name for layer in layers if layer.name not in point.kept]
        drift = verifier.measure(rehearse(to_fp16(infer_types(calibrated.graph(names)))))
        around = replace(point, drift=drift, used=job.budget.excess(drift))
        search.points[:] = [around if other is point else other for other in search.points]
        point = around
    if point.used > 1 or not len(point.kept) < len(layers):
        raise refusal(search.points, job.budget, tuned is not None, point)
    integer = integer_convolutions(graph, macs_by_node(graph))
    settings, reasons = asdict(options), {}
    if tuned:
        settings, notes = tuned.settings(), [_TUNED]
        facing = picture_facing(model, layers)
        reasons = {name: _FACING if name in facing else _COSTLY for name in point.kept}
    summary = {
        "calibration_set": {
            "origin": chosen_set.origin,
            "sha256": chosen_set.sha256,
            "crops": len(chosen_set.calibrate),
            "verification_crops": len(chosen_set.verify),
        },
        "options": settings,
        "rest": job.rest,
        "budget": asdict(job.budget),
        "drift": point.drift.to_json(),
        "integer_convolutions": len(integer.names),
        "float_convolutions": len(integer.float_names),
        "int8_macs_share": round(integer.macs_share, 4),
        "kept": [layer.weight for layer in layers if layer.name in point.kept],
        "note": "What the graph asks for; an engine may still choose floating-point kernels.",
    }
    describe(graph, replace(manifest, rewrites=rewrites, int8=summary))
    report = Int8Report(
        manifest.name,
        job.budget,
        search.points,
        point,
        sensitivities,
        {layer.name: layer.weight for layer in layers},
        chosen_set.to_json(),
        {**settings, "rest": job.rest},
        (*chosen_set.notes, *notes),
        reasons,
    )
    return Quantised(graph, report)


def _check_any_size(network: nn.Module, model: onnx.ModelProto, name: str, image: Image) -> None:
    """Whether the graph that INT8's drift is measured on and against is the network at more than one size.

    Raises:
        ParityError: it is not: the tracer took a size for a constant.
    """
    drifts = measure_drift(network, model, image, name, None)
    if not all(drift.within(Bounds.of("fp32")) for drift in drifts):
        worst = worst_of(drifts)
        raise ParityError(
            "INT8 needs a network that can be traced at any size, and the graph of this one differs from "
            f"PyTorch by {worst.psnr} on {worst.label}; no file was written.",
            "Let the network compute with its input's sizes as they are, without int(); "
            "or export it with --precision fp32 or fp16.",
        )


def refusal(
    points: Sequence[Point], budget: DriftBudget, tuned: bool, delivered: Point | None = None
) -> ExportError:
    """That nothing keeps the budget, and what came nearest.

    Args:
        points: All that were measured.
        budget: What was asked for.
        tuned: Whether the network was fine-tuned for INT8 already.
        delivered: The choice as it would be written, measured with its rest as it would be.
    """
    told, other_rest = "No layer can be INT8", ""
    if nearest := min((point for point in points if point.share > 0), key=lambda p: p.used, default=None):
        told = "No choice of INT8 layers keeps the drift budget. The nearest"
        if nearest.used <= 1 and delivered:  # but with FP32 around INT8, which is no reason to refuse
            told = "With FP16 around INT8 the chosen layers miss the drift budget"
            nearest, other_rest = delivered, "try --int8-rest fp32, "
        told += f", {nearest.share:.1%} in INT8: {budget.explain(nearest.drift)}"
    return ExportError(
        f"{told}; no file was written.",
        f"{_widen(any(point.drift.loss_db for point in points))}, {other_rest}or fine-tune "
        + ("for longer." if tuned else "with sdps-train --qat."),
    )


def _widen(truth: bool) -> str:
    """Which bounds hold for a set with ground truth, or without."""
    if truth:
        return "Widen --max-drift, --max-tile-drift or --max-mean-shift"
    return "Lower --min-psnr or widen --max-mean-shift"


def _finish(
    network: nn.Module,
    manifest: GraphManifest,
    calibrated: Calibrated,
    layers: list[Layer],
    point: Point,
    convert: Callable[[onnx.ModelProto], onnx.ModelProto],
    step: Step,
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The chosen layers in INT8 in a graph of the manifest's size, the rest converted; and the exact
    rewrites that its FP32 graph went through."""
    step("Writing the INT8 graph", 0, 0)
    source = calibrated.model
    positions = {index for index, layer in enumerate(layers) if layer.name not in point.kept}
    if manifest.fixed_size is not None:
        source = export_graph(network, replace(manifest, precision="fp32"))
        calibrated = calibrated.onto(source, find_layers(source, macs_by_node(source), fp32_islands(source)))
    names = [layer.name for index, layer in enumerate(calibrated.layers) if index in positions]
    graph = convert(infer_types(calibrated.graph(names)))
    check_graph(graph)
    return graph, manifest_of(source).rewrites


def _to_rest(rest: str) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    return to_fp16 if rest == "fp16" else lambda model: model


def _cache_key(model: onnx.ModelProto, chosen_set: CalibrationSet) -> str:
    return _digest(
        _digest(model.graph.SerializeToString(deterministic=True)) + chosen_set.sha256 + OBSERVER_VERSION
    )[:24]


def _digest(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
