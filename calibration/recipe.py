"""From an FP32 graph and pictures to INT8 weights, scales and biases for every layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from sdps.calibration.equalise import equalise
from sdps.calibration.layers import Array, Layer, biases_of, prepare, weights_of, with_parameters
from sdps.calibration.observe import Step, TensorStatistics, observe_cached
from sdps.calibration.qdq import LEVELS, NARROW, QuantisedLayer, fp16_scale, quantise
from sdps.calibration.ranges import CALIBRATORS
from sdps.calibration.rounding import nearest, round_layer
from sdps.core.errors import ExportError, UsageError
from sdps.core.frame import Image


@dataclass(frozen=True)
class Options:
    """What calibration does; the defaults are what paid on the bundled model (docs/int8.md).

    Attributes:
        calibrator: One of CALIBRATORS; 'best' takes for each tensor the one whose convolutions err least.
        equalise: Cross-layer equalisation.
        compensate: Round weights so that errors cancel (rounding.py).
        correct_bias: Put what is left of the mean error into the biases.
        narrow_weights: Weights in 7 bits, for integer kernels of CPUs without VNNI, which else saturate.
    """

    calibrator: str = "worst-mse"
    equalise: bool = True
    compensate: bool = True
    correct_bias: bool = True
    narrow_weights: bool = False

    def __post_init__(self) -> None:
        if self.calibrator not in CALIBRATORS:
            raise UsageError(
                f"There is no calibrator {self.calibrator!r}.", f"Choose from {', '.join(CALIBRATORS)}."
            )


WAYS = (Options(), Options("mse"))
"""What an export tries. The first cuts little off the one picture that is much brighter, the second rounds
all others finer; which of them loses less differs from network to network (docs/int8.md)."""


@dataclass(frozen=True)
class Calibrated:
    """A graph of which any part can be had in INT8.

    Attributes:
        model: The FP32 graph, equalised.
        layers: Its layers, in the graph's order.
        quantised: What each is in INT8, by name; a layer that cannot be is not in it.
        biases: Each INT8 layer's bias, by name.
        calibrators: Which calibrator gave the range of each tensor.
    """

    model: ModelProto
    layers: Sequence[Layer]
    quantised: Mapping[str, QuantisedLayer]
    biases: Mapping[str, Array]
    calibrators: Mapping[str, str]

    def graph(self, int8: Collection[str]) -> ModelProto:
        """The graph with the layers named in INT8 and all else in FP32."""
        chosen = {name: self.quantised[name] for name in int8}
        biases = {name: self.biases[name] for name in int8 if name in self.biases}
        return quantise(with_parameters(self.model, self.layers, {}, biases), chosen)

    def onto(self, model: ModelProto, layers: Sequence[Layer]) -> Calibrated:
        """The same for another trace of the same network, e.g. one of a fixed size.

        Args:
            model: An FP32 graph whose convolutions are the same, in the same order.
            layers: Its layers.

        Raises:
            ExportError: it is another network.
        """
        shapes, others = (
            [weights_of(m)[x.weight].shape for x in ls]
            for m, ls in ((self.model, self.layers), (model, layers))
        )
        if shapes != others:
            raise ExportError("The two traces of the network have different layers.", "Is it one checkpoint?")
        renamed = {old.name: new.name for old, new in zip(self.layers, layers, strict=True)}
        tensors = {old.source: new.source for old, new in zip(self.layers, layers, strict=True)}
        known = weights_of(self.model)
        weights = {renamed[layer.name]: known[layer.weight] for layer in self.layers}
        biases = {renamed[name]: values for name, values in biases_of(self.model, self.layers).items()}
        return Calibrated(
            with_parameters(prepare(model), layers, weights, biases),
            layers,
            {renamed[name]: layer for name, layer in self.quantised.items()},
            {renamed[name]: values for name, values in self.biases.items()},
            {tensors[name]: which for name, which in self.calibrators.items()},
        )


@dataclass(frozen=True)
class Observed:
    """A graph and what its tensors hold on the calibration pictures, to choose ranges by any calibrator.

    Attributes:
        model: The FP32 graph, equalised if that was asked for.
        layers: Its layers, in the graph's order.
        statistics: Of what each layer reads, by the tensor's name.
    """

    model: ModelProto
    layers: Sequence[Layer]
    statistics: Mapping[str, TensorStatistics]

    def calibrated(self, options: Options, step: Step = lambda *_: None) -> Calibrated:
        """Chooses ranges and rounds weights; whether to equalise was decided before.

        Args:
            options: How.
            step: Told how far it is.
        """
        layers, statistics = self.layers, self.statistics
        weights, biases = weights_of(self.model), dict(biases_of(self.model, layers))
        scales, calibrators = {}, {}
        for done, (source, known) in enumerate(statistics.items()):
            readers = [layer for layer in layers if layer.source == source]
            scales[source], calibrators[source] = _choose(weights, readers, known, options.calibrator)
            step("Choosing ranges", done + 1, len(statistics))
        quantised = {}
        for done, layer in enumerate(layers):
            weight, scale = weights[layer.weight], scales[layer.source]
            patches, levels = statistics[layer.source].patches, NARROW if options.narrow_weights else LEVELS
            rounded = round_layer(layer, weight, patches, scale, options.compensate, levels)
            quantised[layer.name] = QuantisedLayer(scale, rounded.weight, rounded.scales)
            if options.correct_bias:
                biases[layer.name] = biases.get(layer.name, np.float32(0)) + rounded.bias_shift
            step("Rounding weights", done + 1, len(layers))
        return Calibrated(self.model, layers, quantised, biases, calibrators)


def observed(
    model: ModelProto,
    layers: Sequence[Layer],
    pictures: Sequence[Image],
    equalised: bool,
    cache: Path,
    step: Step = lambda *_: None,
) -> Observed:
    """Runs the graph on the pictures and keeps what ranges are chosen by.

    Args:
        model: The FP32 graph, of any size that the pictures have.
        layers: `find_layers` of it.
        pictures: The calibration crops, of one size, multiples of 4.
        equalised: Whether to equalise it first.
        cache: File for the statistics; its name must tell graph, set and observer.
        step: Told how far it is.

    Raises:
        ExportError: a tensor holds NaN or infinity.
    """
    ready = prepare(model)
    if equalised:
        ready = equalise(ready, layers, pictures[:: max(1, len(pictures) // 32)])
    sources = list(dict.fromkeys(layer.source for layer in layers))
    file = cache.with_name(f"{cache.stem}{'-equalised' * equalised}.npz")
    return Observed(ready, layers, observe_cached(file, ready, sources, pictures, step))


def calibrate(
    model: ModelProto,
    layers: Sequence[Layer],
    pictures: Sequence[Image],
    options: Options,
    cache: Path,
    step: Step = lambda *_: None,
) -> Calibrated:
    """Observes, chooses ranges, rounds: `observed`, and `Observed.calibrated`, with their arguments."""
    return observed(model, layers, pictures, options.equalise, cache, step).calibrated(options, step)


def with_ranges(model: ModelProto, layers: Sequence[Layer], steps: Mapping[str, float]) -> Calibrated:
    """Ranges that are known already, and weights rounded to nearest in 7 bits: what training has seen.

    Args:
        model: The FP32 graph.
        layers: `find_layers` of it.
        steps: The step of the input of each layer that can be INT8, by the layer's name.
    """
    ready = prepare(model)
    weights = weights_of(ready)
    quantised = {
        layer.name: QuantisedLayer(
            fp16_scale(steps[layer.name]), *nearest(layer, weights[layer.weight], NARROW)
        )
        for layer in layers
        if layer.name in steps
    }
    return Calibrated(ready, layers, quantised, {}, {x.source: "trained" for x in layers if x.name in steps})


def _choose(
    weights: Mapping[str, Array], readers: Sequence[Layer], known: TensorStatistics, calibrator: str
) -> tuple[float, str]:
    """The step of a tensor, and who chose it."""
    if calibrator != "best":
        return fp16_scale(known.histogram.limit(calibrator) / LEVELS), calibrator
    candidates: dict[float, str] = {}
    for name in CALIBRATORS[:-1]:
        candidates.setdefault(fp16_scale(known.histogram.limit(name) / LEVELS), name)

    def error(scale: float) -> float:
        rounded = (round_layer(x, weights[x.weight], known.patches, scale, compensate=False) for x in readers)
        return sum(result.error for result in rounded)

    best = min(candidates, key=error)
    return best, candidates[best]
