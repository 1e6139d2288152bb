"""Weights to INT8 so that the layer's result, not the weight, is near: errors cancel each other.

Column after column is rounded, and the columns that are still free take over the error, by the
inverse of the inputs' second moments (GPTQ: Frantar et al., arXiv 2210.17323, after Optimal Brain
Surgeon). One linear solve per layer; what is left of the mean goes into the bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sdps.calibration.layers import Array, Layer
from sdps.calibration.qdq import LEVELS, fp16_scales

ROUNDING_VERSION = "2"
"""Part of the sensitivities' key: to be raised when the same ranges give other weights."""
DAMPING = 0.01
"""Part of the mean second moment that is added to all, as in GPTQ."""


@dataclass(frozen=True)
class Rounded:
    """INT8 weights of one layer.

    Attributes:
        weight: In the layer's layout.
        scales: [outputs], representable in FP16.
        bias_shift: [outputs] mean of what the exact layer gives minus what this one gives.
        error: Mean squared error of the result on the patches, after that shift.
    """

    weight: npt.NDArray[np.int8]
    scales: Array
    bias_shift: Array
    error: float


def fake_quantise(values: Array, scale: float) -> Array:
    """To INT8 and back; halves go to even, as QuantizeLinear has it."""
    return (np.clip(np.round(values / scale), -LEVELS - 1, LEVELS) * scale).astype(np.float32)


def columns(layer: Layer, weight: Array, patches: Sequence[Array]) -> Array:
    """What the layer's weights meet: [samples, inputs x kernel], borders left out; there may be none."""
    if layer.transposed:  # every output value sees one input position (kernel = stride)
        return np.concatenate([p[0].reshape(p.shape[1], -1).T for p in patches])
    kh, kw = weight.shape[2:]
    rows = [np.empty((0, weight[0].size), np.float32)]
    for patch in patches:
        if patch.shape[2] >= kh and patch.shape[3] >= kw:
            windows = np.lib.stride_tricks.sliding_window_view(patch[0], (kh, kw), axis=(1, 2))
            rows.append(windows.transpose(1, 2, 0, 3, 4).reshape(-1, patch.shape[1] * kh * kw))
    return np.concatenate(rows)


def as_matrix(layer: Layer, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Weights as [outputs, inputs x kernel]; of a transposed layer [outputs x kernel, inputs]."""
    if layer.transposed:
        return weight.transpose(1, 2, 3, 0).reshape(-1, weight.shape[0])
    return weight.reshape(weight.shape[0], -1)


def from_matrix(layer: Layer, matrix: npt.NDArray[np.int8], shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """The reverse of `as_matrix`."""
    if layer.transposed:
        inputs, outputs, kh, kw = shape
        return np.ascontiguousarray(matrix.reshape(outputs, kh, kw, inputs).transpose(3, 0, 1, 2))
    return matrix.reshape(shape)


def weight_scales(layer: Layer, weight: Array, levels: int = LEVELS) -> Array:
    """[outputs] steps that bring the largest weight of each output channel to level `levels`."""
    axes = tuple(i for i in range(weight.ndim) if i != layer.axis)
    return fp16_scales(np.abs(weight).max(axis=axes) / levels)


def nearest(layer: Layer, weight: Array, levels: int = LEVELS) -> tuple[npt.NDArray[np.int8], Array]:
    """INT8 weights rounded to nearest, in the layer's layout, and the steps of its output channels."""
    scales = weight_scales(layer, weight, levels)
    steps = scales.reshape([-1 if axis == layer.axis else 1 for axis in range(weight.ndim)])
    return np.clip(np.round(weight / steps), -levels, levels).astype(np.int8), scales


def round_layer(
    layer: Layer,
    weight: Array,
    patches: Sequence[Array],
    scale: float,
    compensate: bool = True,
    levels: int = LEVELS,
) -> Rounded:
    """Quantises one layer. Where no patch is as large as its kernel, to nearest and with no shift.

    Args:
        layer: Which.
        weight: Its FP32 weights.
        patches: Pieces of its FP32 input.
        scale: The step its input is quantised with.
        compensate: Let rounding errors cancel; else round to nearest.
        levels: Steps of a weight on either side of zero.
    """
    exact = columns(layer, weight, patches)
    if not len(exact):
        integers, scales = nearest(layer, weight, levels)
        return Rounded(integers, scales, np.zeros(len(scales), np.float32), 0.0)
    given = columns(layer, weight, [fake_quantise(p, scale) for p in patches])
    matrix = as_matrix(layer, weight)
    scales = weight_scales(layer, weight, levels)
    steps = scales if not layer.transposed else np.repeat(scales, weight.shape[2] * weight.shape[3])
    if compensate:
        integers = _compensated(matrix, steps, given, levels)
    else:
        integers = as_matrix(layer, nearest(layer, weight, levels)[0])
    difference = exact @ matrix.T - given @ (integers * steps[:, None]).T
    shift = difference.mean(0)
    error = float(((difference - shift) ** 2).mean())
    if layer.transposed:  # one bias for all taps of an output channel
        shift = shift.reshape(weight.shape[1], -1).mean(1)
    return Rounded(from_matrix(layer, integers, weight.shape), scales, shift.astype(np.float32), error)


def _compensated(matrix: Array, steps: Array, inputs: Array, levels: int) -> npt.NDArray[np.int8]:
    moments = inputs.astype(np.float64).T @ inputs / len(inputs)
    moments += np.eye(len(moments)) * (DAMPING * np.trace(moments) / len(moments) + 1e-12)
    # Upper Cholesky factor of the inverse: row j says how the columns after j make up for j's error.
    upper = np.linalg.cholesky(np.linalg.inv(moments)).T
    free = matrix.astype(np.float64).copy()
    integers = np.zeros(matrix.shape, np.int8)
    for j in range(free.shape[1]):
        integers[:, j] = np.clip(np.round(free[:, j] / steps), -levels, levels)
        error = (free[:, j] - integers[:, j] * steps) / upper[j, j]
        free[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
    return integers
