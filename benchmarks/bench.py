"""One benchmark run, from a checkpoint to a Report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sdps.benchmarks import contenders, quality
from sdps.benchmarks.contenders import Contender
from sdps.benchmarks.environment import Environment
from sdps.benchmarks.macs import stage_costs
from sdps.benchmarks.measurement import REFERENCE, Measurement, Report
from sdps.benchmarks.throughput import restore_ahead
from sdps.benchmarks.timing import ROUNDS, Timing, interleave
from sdps.core.artifact import sha256_of
from sdps.core.console import need
from sdps.core.errors import UsageError
from sdps.core.manifest import GraphManifest
from sdps.core.pictures import read_picture
from sdps.core.samples import PICTURE, sample
from sdps.core.spec import Size
from sdps.model.checkpoint import load_checkpoint
from sdps.model.zoo import find_weights
from sdps.runtime.tiling import begin, restore

DEFAULT_SIZE = Size(256, 256)
WARMUP = 2
BURST = 8
"""Frames of a file in one sample, as many in flight as the engine holds; so many times fewer samples."""

Progress = Callable[[str, int, int | None], None]
"""progress(step, done, total): what is being done, how far, of how much (None if nobody knows)."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        weights: A checkpoint's path or a bundled name.
        graphs: Graphs by path or bundled name; none: FP32 and FP16 are exported from the weights.
        providers: Engines to run each graph on; none: `contenders.installed_providers`.
        size: Of the timed picture; by default the fixed graphs' size, else 256x256.
        rounds, budget_s: When to stop timing; see `timing.interleave`.
        threads: For every contender; 0 for all usable cores.
        pictures: Folder to compare pictures on, whole; by default the bundled sample, cut to size.
        truth: Folder with the ground truth of `pictures`.
        keep: Where exported graphs stay; by default nowhere.
        seed: Of the order within rounds.
    """

    weights: str
    graphs: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    size: Size | None = None
    rounds: int | None = None
    budget_s: float | None = None
    threads: int = 0
    pictures: Path | None = None
    truth: Path | None = None
    keep: Path | None = None
    seed: int = 0


def run(plan: Plan, progress: Progress = lambda step, done, total: None) -> Report:
    """Measures everything that the plan names.

    Raises:
        UsageError: the plan names something that is not there, or does not fit together.
        SdpsError: a part of the work failed; the message says which.
    """
    environment = Environment.capture()
    threads = plan.threads or environment.cores
    weights = find_weights(plan.weights)
    pictures, truths = _pictures(plan, progress)
    with ExitStack() as stack:
        progress("loading the weights", 0, None)
        network = load_checkpoint(weights)
        manifest = contenders.describe_network(network, weights.stem, sha256_of(weights))
        graphs = plan.graphs
        if not graphs:
            progress("exporting FP32 and FP16", 0, None)
            graphs = contenders.export_both(network, manifest, plan.keep or _temporary(stack))
        progress("opening the graphs", 0, None)
        need("torch").set_num_threads(threads)
        field = contenders.open_all(stack, weights, graphs, plan.providers, threads)
        size, fixed = choose_size(plan.size, [c.manifest for c in field.contenders])
        notes = [*field.notes, *_doubts(field.contenders, manifest)]
        restores = {c.name: partial(restore, c.backend) for c in field.contenders}

        picture = quality.cut(read_picture(pictures[0], quality.SMALLEST), size)
        total = plan.rounds or (ROUNDS if plan.budget_s is None else None)
        samples = interleave(
            {name: partial(call, picture) for name, call in restores.items()},
            rounds=plan.rounds,
            budget_s=plan.budget_s,
            warmup=WARMUP,
            seed=plan.seed,
            on_round=lambda done: progress("timing", done, total),
        )

        bursts = {
            c.name: partial(restore_ahead, partial(begin, c.backend), c.backend.depth, [picture] * BURST)
            for c in field.contenders
            if c.backend.depth > 1
        }
        few = max(1, len(samples[REFERENCE]) // BURST)
        ahead = interleave(bursts, rounds=few, warmup=1, seed=plan.seed) if bursts else {}

        window = size if fixed or plan.pictures is None else None
        if fixed and plan.pictures:
            notes.append(
                f"Pictures were cut to their middle {size}: a graph of fixed size is among the contenders."
            )
        progress("comparing pictures", 0, len(pictures))
        assessment = quality.assess(
            quality.load_samples(pictures, truths, window),
            restores,
            on_sample=lambda done: progress("comparing pictures", done, len(pictures)),
        )
        arithmetic = {c.name: contenders.arithmetic(c.backend) for c in field.contenders}
        notes += [f"{name}: {said}." for name, said in arithmetic.items() if said]
    return Report(
        model=manifest.name,
        weights_sha256=manifest.weights_sha256,
        config=manifest.config,
        size=str(size),
        stages=stage_costs(network, size),
        timing=Timing(len(samples[REFERENCE]), WARMUP, plan.seed, threads),
        environment=environment,
        measurements=tuple(
            Measurement(
                contender=c.name,
                graph=c.graph,
                provider=c.backend.name,
                precision=c.manifest.precision,
                macs=c.manifest.macs if c.graph else 0,
                samples_ns=samples[c.name],
                drift=assessment.drift.get(c.name),
                truth=assessment.truth.get(c.name),
                arithmetic=arithmetic[c.name],
                depth=c.backend.depth,
                ahead_ns=tuple(ns // BURST for ns in ahead.get(c.name, ())),
            )
            for c in field.contenders
        ),
        input_truth=assessment.truth.get(quality.INPUT),
        notes=tuple(notes),
    )


def choose_size(wanted: Size | None, manifests: Sequence[GraphManifest]) -> tuple[Size, bool]:
    """The size to time at, and whether a fixed graph dictates it.

    Raises:
        UsageError: fixed graphs of different sizes, or of another size than `wanted`.
    """
    fixed = {size for manifest in manifests if (size := manifest.fixed_size)}
    if len(fixed) > 1:
        sizes = ", ".join(str(size) for size in sorted(fixed))
        raise UsageError(f"The graphs have different fixed sizes ({sizes}).", "Benchmark one size at a time.")
    only = next(iter(fixed), None)
    if only and wanted and only != wanted:
        raise UsageError(
            f"A graph takes {only} only; at {wanted} its tiles would be timed, not the graph.",
            f"Use --size {only}, or export the graph at {wanted}.",
        )
    return wanted or only or DEFAULT_SIZE, bool(only)


def _pictures(plan: Plan, progress: Progress) -> tuple[list[Path], list[Path]]:
    """The pictures and their ground truth, if any; each is read once, so that no bad one ends what was timed.

    Raises:
        UsageError: a folder or the truth of a picture is not there.
        SourceError: a picture is unreadable, too small, or not of the size of its truth.
    """
    if plan.truth and not plan.pictures:
        raise UsageError("Ground truth without pictures.", "Give --pictures as well as --truth.")
    pictures = quality.picture_files(plan.pictures) if plan.pictures else [sample(PICTURE)]
    truths = quality.truth_files(pictures, plan.truth) if plan.truth else []
    for done, _ in enumerate(quality.load_samples(pictures, truths)):
        progress("reading the pictures", done, len(pictures))
    return pictures, truths


def _temporary(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sdps-bench-")))


def _doubts(field: Sequence[Contender], manifest: GraphManifest) -> list[str]:
    """What about these contenders limits what their figures say."""
    strangers = sorted({c.graph for c in field if c.manifest.weights_sha256 != manifest.weights_sha256})
    notes = [f"{name} was exported from other weights than {manifest.name}'s." for name in strangers]
    others = {
        c.graph: c.manifest.architecture for c in field if c.manifest.architecture != manifest.architecture
    }
    notes += [
        f"{graph} is another network, {name}: its picture differs because it is meant to. Give --pictures "
        "and --truth to compare what the two restore."
        for graph, name in sorted(others.items())
    ]
    reference, *graphs = field
    if elsewhere := [c.name for c in graphs if c.on_cpu != reference.on_cpu]:
        notes.append(
            f"PyTorch ran on the CPU and {', '.join(elsewhere)} on a GPU: those ratios compare the devices "
            "as well. Where every graph runs on a GPU (--provider cuda), PyTorch does too, if its build can."
        )
    if any(c.manifest.precision == "fp16" and c.on_cpu for c in graphs):
        notes.append(
            "FP16 graphs are computed in FP32 on a CPU: neither their speed nor their drift here is a GPU's "
            "(sdps-export rehearses the drift)."
        )
    return notes
