"""One INT8 export: FP32 graph, calibration, search within the budget, the rest to FP16, a report.

Here the rooms meet: `calibration` knows no network, no FP16 and no files of ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import onnx
from torch import nn

from sdps.calibration.budget import Point, Search
from sdps.calibration.drift import Verifier
from sdps.calibration.frames import CalibrationSet, build_set
from sdps.calibration.layers import Layer, find_layers, picture_facing
from sdps.calibration.observe import OBSERVER_VERSION, Step
from sdps.calibration.qdq import infer_types, integer_convolutions
from sdps.calibration.recipe import WAYS, Calibrated, Options, observed
from sdps.calibration.report import Int8Report
from sdps.calibration.rounding import ROUNDING_VERSION
from sdps.calibration.sensitivity import (
    RANKED_ON,
    WORK,
    Sensitivity,
    by_gain,
    measure_layers,
    ranking_pairs,
)
from sdps.core.errors import ParityError, UsageError
from sdps.core.frame import Image
from sdps.core.manifest import GraphManifest
from sdps.export.fine_tuned import FineTuned
from sdps.export.graph_macs import REFERENCE, measured_macs
from sdps.export.int8_request import Int8Job, fp16_refusal, refusal
from sdps.export.islands import fp32_islands
from sdps.export.module_map import Mapped, export_mapped
from sdps.export.onnx_export import check_graph, describe, export_graph, manifest_of
from sdps.export.parity import Bounds, SizeError, measure_drift, worst_of
from sdps.export.precision import to_fp16
from sdps.export.rehearsal import rehearse

LEAST_INT8 = 0.01
"""Share of the multiply-accumulates below which nobody would call a graph INT8."""
_TUNED = (
    "Ranges and weights were trained for INT8 (sdps-train --qat); the drift is against the FP32 weights "
    "that the training began with."
)
_FACING = "it reads or makes a picture, and fine-tuning for INT8 leaves such layers as they are"
_LIFTED = "without it in INT8 the other layers lose less, and all together missed the drift budget"
_COSTLY = "before the fine-tuning began, it was among the layers that alone cost most for their work"


@dataclass(frozen=True)
class Quantised:
    """An INT8 graph and what is known of it."""

    model: onnx.ModelProto
    report: Int8Report


@dataclass(frozen=True)
class _Prepared:
    """What a choice of layers is made from, and measured with.

    Attributes:
        network, manifest, job: As `quantise_network` was given them.
        chosen_set: The pictures.
        model: The network as an FP32 graph of any size.
        reference: What drift is against: `model`, or what it was before it was fine-tuned for INT8.
        mapped: The same with its layers' places in the network, if that was fine-tuned for INT8.
        layers: What can be INT8.
        macs: Multiply-accumulates of the whole graph.
        verifier: Measures drift.
    """

    network: nn.Module
    manifest: GraphManifest
    job: Int8Job
    chosen_set: CalibrationSet
    model: onnx.ModelProto
    reference: onnx.ModelProto
    mapped: Mapped | None
    layers: Sequence[Layer]
    macs: int
    verifier: Verifier

    def search(self, calibrated: Calibrated, step: Step) -> Search:
        """Measures choices of layers within the budget."""
        tries = int(WORK / (self.macs * len(self.verifier.pairs)))
        never = frozenset(layer.name for layer in self.layers) - calibrated.quantised.keys()
        return Search(calibrated, self.verifier, self.job.budget, self.macs, step, tries, never)

    def ranking(self, most: int) -> Verifier:
        """Measures on so many of the pictures, cut as the work for every layer asks for."""
        per_pixel = self.macs / (REFERENCE.height * REFERENCE.width)
        pairs, stride = self.verifier.pairs, self.manifest.stride
        return Verifier(self.reference, ranking_pairs(pairs, len(self.layers), per_pixel, stride, most))


@dataclass(frozen=True)
class _Choice:
    """The layers that are INT8, and how they were found.

    Attributes:
        calibrated: The graph that they were chosen in.
        points: All choices that were measured.
        point: The one that was taken.
        settings: How ranges and weights came about, for reports.
        sensitivities, notes, reasons: As in `Int8Report`.
    """

    calibrated: Calibrated
    points: Sequence[Point]
    point: Point
    settings: dict[str, Any]
    sensitivities: Sequence[Sensitivity] = ()
    notes: Sequence[str] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)


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
    if tuned and job.ways is not WAYS:
        raise UsageError("The checkpoint brings trained ranges.", "Leave --calibrator out.")
    if tuned is None:  # which keeps nothing, unless it has to search
        job.check_cache()
    ready = _prepare(network, manifest, job, picture, step, tuned)
    choice = _trained(ready, tuned, step) if tuned else _searched(ready, step)
    graph, rewrites = _finish(ready, choice, step)
    choice = _verified_with_rest(ready, choice)
    if choice.point.used > 1 or choice.point.share < LEAST_INT8:
        worth = [point for point in choice.points if point.share >= LEAST_INT8]
        raise refusal(worth, job.budget, tuned is not None, choice.point)
    describe(graph, replace(manifest, rewrites=rewrites, int8=_summary(ready, choice, graph)))
    return Quantised(graph, _report(ready, choice))


def _prepare(
    network: nn.Module,
    manifest: GraphManifest,
    job: Int8Job,
    picture: tuple[str, Image],
    step: Step,
    tuned: FineTuned | None,
) -> _Prepared:
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
    macs = measured_macs(model)
    layers = find_layers(model, macs, fp32_islands(model))
    step("Restoring the verification pictures", 0, 0)
    verifier = Verifier(reference, [crop.pair for crop in chosen_set.verify])
    total = sum(macs.values())
    return _Prepared(network, manifest, job, chosen_set, model, reference, mapped, layers, total, verifier)


def _check_any_size(network: nn.Module, model: onnx.ModelProto, name: str, image: Image) -> None:
    """Whether the graph that INT8's drift is measured on and against is the network at more than one size.

    Raises:
        ParityError: it is not: the tracer took a size for a constant.
    """
    try:
        drifts = measure_drift(network, model, image, name, None)
    except SizeError as error:
        raise _one_size_only("does not run at every size") from error
    if not all(drift.within(Bounds.of("fp32")) for drift in drifts):
        worst = worst_of(drifts)
        raise _one_size_only(f"differs from PyTorch by {worst.psnr} on {worst.label}")


def _one_size_only(fault: str) -> ParityError:
    return ParityError(
        f"INT8 needs a network that can be traced at any size, and the graph of this one {fault}; "
        "no file was written.",
        "Let the network compute with its input's sizes as they are, without int(); "
        "or export it with --precision fp32 or fp16.",
    )


def _trained(ready: _Prepared, tuned: FineTuned, step: Step) -> _Choice:
    """All layers that were trained; where they miss the budget, as many of them as keep it."""
    assert ready.mapped
    calibrated = tuned.calibrated(ready.mapped)
    search = ready.search(calibrated, step)
    whole = point = search.all_int8()
    notes = [_TUNED]
    if point.used > 1:
        ready.job.check_cache()
        told = _digest(json.dumps(tuned.ranges.steps, sort_keys=True))[:8]
        lines = ready.job.cache / f"{_cache_key(ready.model, ready.chosen_set)}-{told}-without.jsonl"
        every = ready.ranking(len(ready.verifier.pairs))
        orders = by_gain(calibrated, every, ready.job.budget, lines, step)
        point = search.relieve(orders)
        notes += [
            f"All layers that were trained miss the drift budget ({ready.job.budget.explain(whole.drift)}): "
            f"{len(point.kept) - len(whole.kept)} of {len(orders[0])} were lifted out of INT8.",
            *search.warnings(point),
        ]
    facing = picture_facing(ready.model, ready.layers)
    reasons = {
        name: _FACING if name in facing else _COSTLY if name in whole.kept else _LIFTED for name in point.kept
    }
    return _Choice(calibrated, search.points, point, tuned.settings(), notes=notes, reasons=reasons)


def _searched(ready: _Prepared, step: Step) -> _Choice:
    """As many layers as the budget allows, calibrated on the set."""
    _refuse_if_fp16_alone_misses(ready)
    stem = _cache_key(ready.model, ready.chosen_set)
    search, options, notes = _nearest_way(ready, stem, step)
    if search.satisfied(point := search.all_int8()):
        return _Choice(search.calibrated, search.points, point, asdict(options))
    # Not by the budget: what is kept is the drift, which holds for any.
    told = f"{options!r}{ROUNDING_VERSION}{ready.manifest.stride}"
    lines = ready.job.cache / f"{stem}-{_digest(told)[:8]}.jsonl"
    ranking = ready.ranking(RANKED_ON)
    sensitivities = measure_layers(search.calibrated, ranking, ready.job.budget, lines, step)
    point = search.run(sensitivities)
    notes += search.warnings(point)
    return _Choice(search.calibrated, search.points, point, asdict(options), sensitivities, notes)


def _nearest_way(ready: _Prepared, stem: str, step: Step) -> tuple[Search, Options, list[str]]:
    """Of the job's ways to calibrate the first that keeps the budget with all in INT8, or else the one that
    uses least of it where a search begins; and what a report has to say of that."""
    job = ready.job
    pictures = [crop.image for crop in ready.chosen_set.calibrate]
    seen = observed(ready.model, ready.layers, pictures, job.ways[0].equalise, job.cache / stem, step)
    begun: list[tuple[float, Search, Options]] = []
    for way in job.ways:
        # CPUs without VNNI run these graphs too, and OpenVINO's and ONNX Runtime's kernels saturate there.
        options = replace(way, narrow_weights=job.rest == "fp32")
        search = ready.search(seen.calibrated(options, step), step)
        if search.satisfied(search.all_int8()):
            return search, options, []
        begun.append((search.none_facing().used, search, options))
    used, search, options = min(begun, key=lambda entry: entry[0])
    others = ", ".join(f"{way.calibrator} {part:.0%}" for part, _, way in begun if way is not options)
    told = (
        f"Calibrated with {options.calibrator}, which uses {used:.0%} of the drift budget with all but "
        f"what reads or makes a picture in INT8 ({others})."
    )
    return search, options, [told] if others else []


def _refuse_if_fp16_alone_misses(ready: _Prepared) -> None:
    """What no INT8 is to blame for; where it is FP16's own, a search would be in vain."""
    if ready.job.rest == "fp16":
        floor = ready.verifier.measure(rehearse(to_fp16(ready.model)))
        if ready.job.budget.excess(floor) > 1:
            raise fp16_refusal(floor, ready.job.budget)


def _finish(ready: _Prepared, choice: _Choice, step: Step) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The chosen layers in INT8 in a graph of the manifest's size, the rest converted; and the exact
    rewrites that its FP32 graph went through."""
    step("Writing the INT8 graph", 0, 0)
    calibrated = choice.calibrated
    source = calibrated.model
    positions = {index for index, layer in enumerate(ready.layers) if layer.name not in choice.point.kept}
    if ready.manifest.fixed_size is not None:
        source = export_graph(ready.network, replace(ready.manifest, precision="fp32"))
        calibrated = calibrated.onto(source, find_layers(source, measured_macs(source), fp32_islands(source)))
    names = [layer.name for index, layer in enumerate(calibrated.layers) if index in positions]
    graph = infer_types(calibrated.graph(names))
    if ready.job.rest == "fp16":
        graph = to_fp16(graph)
    check_graph(graph)
    return graph, manifest_of(source).rewrites


def _verified_with_rest(ready: _Prepared, choice: _Choice) -> _Choice:
    """Measured as it is delivered: a search runs with FP32 around INT8."""
    point = choice.point
    if ready.job.rest != "fp16":
        return choice
    names = [layer.name for layer in ready.layers if layer.name not in point.kept]
    drift = ready.verifier.measure(rehearse(to_fp16(infer_types(choice.calibrated.graph(names)))))
    around = replace(point, drift=drift, used=ready.job.budget.excess(drift))
    points = [around if other is point else other for other in choice.points]
    return replace(choice, point=around, points=points)


def _summary(ready: _Prepared, choice: _Choice, graph: onnx.ModelProto) -> dict[str, Any]:
    """What the graph's own description tells of INT8."""
    integer = integer_convolutions(graph, measured_macs(graph))
    return {
        "calibration_set": {
            "origin": ready.chosen_set.origin,
            "sha256": ready.chosen_set.sha256,
            "crops": len(ready.chosen_set.calibrate),
            "verification_crops": len(ready.chosen_set.verify),
        },
        "options": choice.settings,
        "rest": ready.job.rest,
        "budget": asdict(ready.job.budget),
        "drift": choice.point.drift.to_json(),
        "integer_convolutions": len(integer.names),
        "float_convolutions": len(integer.float_names),
        "int8_macs_share": round(integer.macs_share, 4),
        "kept": [layer.weight for layer in ready.layers if layer.name in choice.point.kept],
        "note": "What the graph asks for; an engine may still choose floating-point kernels.",
    }


def _report(ready: _Prepared, choice: _Choice) -> Int8Report:
    possible = sum(layer.macs for layer in ready.layers) / max(1, ready.macs)
    never = [
        f"{1 - possible:.1%} of the multiply-accumulates stay in floating point whatever the budget: grouped "
        "convolutions, those over one or three dimensions or with weights that are shared or computed, "
        "products of matrices, and what a global mean feeds."
    ]
    return Int8Report(
        ready.manifest.name,
        ready.job.budget,
        choice.points,
        choice.point,
        choice.sensitivities,
        {layer.name: layer.weight for layer in ready.layers},
        ready.chosen_set.to_json(),
        {**choice.settings, "rest": ready.job.rest},
        (*ready.chosen_set.notes, *choice.notes, *(never if possible < 0.99 else ())),
        choice.reasons,
    )


def _cache_key(model: onnx.ModelProto, chosen_set: CalibrationSet) -> str:
    return _digest(
        _digest(model.graph.SerializeToString(deterministic=True)) + chosen_set.sha256 + OBSERVER_VERSION
    )[:24]


def _digest(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
