"""What a benchmark run found, as data: the raw samples are kept, everything else follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sdps.benchmarks.environment import Environment
from sdps.benchmarks.timing import Latency, Ratio, Timing, summarise, versus

REFERENCE = "PyTorch FP32"
CPU = ":CPU"
"""How the names of backends end that run on the CPU."""


@dataclass(frozen=True)
class StageCost:
    """Parameters and multiply-accumulates of one stage; `macs.py` states the convention."""

    name: str
    parameters: int
    macs: int


@dataclass(frozen=True)
class PictureDrift:
    """One graph's picture against PyTorch FP32's picture.

    Attributes:
        picture: File name.
        psnr_db: PSNR on RGB in dB; infinite for equal pictures.
        ssim: SSIM on RGB, 7x7 uniform window, data range 255.
        max_levels: Largest difference, in 8-bit levels.
        shift_levels: Mean signed difference of R, G, B, graph minus PyTorch, in 8-bit levels.
    """

    picture: str
    psnr_db: float
    ssim: float
    max_levels: int
    shift_levels: tuple[float, float, float]


@dataclass(frozen=True)
class Drift:
    """How far a graph's pictures are from PyTorch FP32's."""

    pictures: tuple[PictureDrift, ...]

    @property
    def psnr_db(self) -> float:
        """PSNR of the mean error over the pictures, so that one equal picture is not infinity for all."""
        mean = fmean(10 ** (-p.psnr_db / 10) for p in self.pictures)
        return -10 * math.log10(mean) if mean else math.inf

    @property
    def ssim(self) -> float:
        return fmean(p.ssim for p in self.pictures)

    @property
    def max_levels(self) -> int:
        return max(p.max_levels for p in self.pictures)

    @property
    def shift_levels(self) -> tuple[float, float, float]:
        r, g, b = (fmean(p.shift_levels[c] for p in self.pictures) for c in range(3))
        return r, g, b

    @property
    def worst(self) -> PictureDrift:
        """The picture with the lowest PSNR."""
        return min(self.pictures, key=lambda p: p.psnr_db)


@dataclass(frozen=True)
class Truth:
    """Pictures against ground truth: the mean over pictures of PSNR in dB and of SSIM, both on RGB.

    Attributes:
        equal: Pictures that are the truth itself and so stay out of the mean PSNR, unless all are.
    """

    psnr_db: float
    ssim: float
    equal: int = 0


@dataclass(frozen=True)
class Measurement:
    """One contender: a graph on a provider, or the reference.

    Attributes:
        contender: Unique name, e.g. 'sdps-nano-fp16 on openvino'.
        graph: Name of the graph, empty for the reference.
        provider: What ran it.
        precision: 'fp32', 'fp16' or 'int8', as the graph says.
        arithmetic: What an INT8 graph was really computed in, where the engine tells.
        macs: Multiply-accumulates at 256x256, as the graph says; 0 where it does not.
        samples_ns: Raw durations in nanoseconds, one per round, in order of rounds.
        drift: Against the reference; None for the reference itself.
        truth: Against ground truth, where that was given.
        depth: Pictures of a file that its engine has in flight at a time.
        ahead_ns: Nanoseconds a picture with so many in flight, one per round; none where that is one.
    """

    contender: str
    graph: str
    provider: str
    precision: str
    macs: int
    samples_ns: tuple[int, ...]
    drift: Drift | None = None
    truth: Truth | None = None
    arithmetic: str = ""
    depth: int = 1
    ahead_ns: tuple[int, ...] = ()

    @property
    def latency(self) -> Latency:
        return summarise(self.samples_ns)

    @property
    def on_cpu(self) -> bool:
        return self.provider.endswith(CPU)

    @property
    def stable(self) -> bool:
        """Whether its samples agree, those with several pictures in flight as well."""
        return self.latency.stable and (not self.ahead_ns or summarise(self.ahead_ns).stable)

    @property
    def per_second(self) -> tuple[float, float | None]:
        """Pictures a second, one after the other and as many in flight as there may be; medians."""
        ahead = 1000 / summarise(self.ahead_ns).p50_ms if self.ahead_ns else None
        return 1000 / self.latency.p50_ms, ahead


@dataclass(frozen=True)
class Report:
    """A whole run. `measurements[0]` is the reference.

    Attributes:
        model: The model's name.
        weights_sha256: Of the checkpoint file.
        config: Hyperparameters of the network.
        size: 'HxW' of the timed picture.
        stages: Cost of each stage at `size`.
        timing: How the samples were taken.
        environment: Where.
        measurements: One per contender, in the order given.
        input_truth: The rainy pictures themselves against ground truth, where that was given.
        notes: What a reader must know before believing the figures.
    """

    model: str
    weights_sha256: str
    config: dict[str, Any]
    size: str
    stages: tuple[StageCost, ...]
    timing: Timing
    environment: Environment
    measurements: tuple[Measurement, ...]
    input_truth: Truth | None = None
    notes: tuple[str, ...] = ()

    @property
    def reference(self) -> Measurement:
        return self.measurements[0]

    def ratio(self, measurement: Measurement) -> Ratio:
        """How many times as fast as the reference, from the rounds that both ran in."""
        return versus(self.reference.samples_ns, measurement.samples_ns)
