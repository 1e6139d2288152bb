"""Runs a graph over the calibration set and keeps what calibration needs of its inner tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from sdps.calibration.layers import Array
from sdps.calibration.ranges import Histogram
from sdps.calibration.session import bytes_of, exposing, open_session, with_maxima
from sdps.core.artifact import atomic_path
from sdps.core.frame import Image
from sdps.core.manifest import INPUT

OBSERVER_VERSION = "2"
"""Part of the cache's key: to be raised when what is observed changes."""
PATCH = 18
"""Side of the patches that are kept, in values of the tensor's own map."""
PATCHES = 32
"""Most of them for one tensor: 8,000 places are enough for the moments of 3x3 neighbourhoods."""
GROUP_BYTES = 1280 << 20
"""Most that the tensors observed in one run may hold: tau=3 has 2.3 GB of them at 256x256."""

DAMAGED = (BadZipFile, OSError, EOFError, ValueError, KeyError, IndexError)
"""What NumPy raises of a file that is cut short, or is none of its own."""

Step = Callable[[str, int, int], None]
"""step(what, done, all)."""


@dataclass
class TensorStatistics:
    """What is known of one [N,C,H,W] tensor.

    Attributes:
        histogram: Of its absolute values.
        patches: [P,C,<=18,<=18] pieces of it at random places, for local errors.
    """

    histogram: Histogram = field(default_factory=Histogram)
    patches: list[Array] = field(default_factory=list)


def observe(
    model: ModelProto, tensors: Sequence[str], pictures: Sequence[Image], step: Step = lambda *_: None
) -> dict[str, TensorStatistics]:
    """Statistics of tensors over pictures; memory is bounded by GROUP_BYTES and PATCHES.

    Raises:
        ExportError: a tensor holds NaN or infinity; it is named.
    """
    statistics = {name: TensorStatistics() for name in tensors}
    groups = _groups(model, tensors, pictures[0])
    for number, group in enumerate(groups):
        session = open_session(exposing(model, group))
        for index, picture in enumerate(pictures):
            for name, values in zip(group, session.run(group, {INPUT: picture[None]}), strict=True):
                known = statistics[name]
                known.histogram.add(values, name)
                # Every n-th picture only, so that the last ones count as much as the first.
                if index % -(-len(pictures) // PATCHES) == 0:
                    known.patches.append(_patch(values, np.random.default_rng(index)))
            step("Observing", number * len(pictures) + index + 1, len(groups) * len(pictures))
    return statistics


def observe_cached(
    file: Path,
    model: ModelProto,
    tensors: Sequence[str],
    pictures: Sequence[Image],
    step: Step = lambda *_: None,
) -> dict[str, TensorStatistics]:
    """As `observe`, kept in `file` (.npz), whose name must tell graph, set and OBSERVER_VERSION.

    A file that is damaged is observed anew and replaced.
    """
    if file.is_file():
        with suppress(*DAMAGED), np.load(file) as stored:
            return {name: _stored(stored, i) for i, name in enumerate(tensors)}
    statistics = observe(model, tensors, pictures, step)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for i, name in enumerate(tensors):
        known = statistics[name]
        arrays[f"{i}.counts"] = known.histogram.counts
        arrays[f"{i}.range"] = np.array([known.histogram.top, known.histogram.largest])
        arrays[f"{i}.worst"] = known.histogram.worst
        arrays[f"{i}.patches"] = np.concatenate(known.patches)
    with atomic_path(file) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
    return statistics


def _stored(arrays: Mapping[str, npt.NDArray[Any]], i: int) -> TensorStatistics:
    top, largest = (float(value) for value in arrays[f"{i}.range"])
    histogram = Histogram(arrays[f"{i}.counts"], top, largest, arrays[f"{i}.worst"])
    return TensorStatistics(histogram, list(arrays[f"{i}.patches"][:, None]))


def channel_maxima(model: ModelProto, tensors: Sequence[str], pictures: Sequence[Image]) -> dict[str, Array]:
    """[C] largest absolute value of each channel of each tensor, averaged over the pictures."""
    reduced, names = with_maxima(model, tensors)
    session = open_session(reduced)
    runs = [session.run(names, {INPUT: picture[None]}) for picture in pictures]
    return {
        name: np.mean([run[i] for run in runs], axis=0, dtype=np.float64).ravel().astype(np.float32)
        for i, name in enumerate(tensors)
    }


def _patch(values: Array, rng: np.random.Generator) -> Array:
    height, width = values.shape[2:]
    top = int(rng.integers(max(1, height - PATCH + 1)))
    left = int(rng.integers(max(1, width - PATCH + 1)))
    return values[:1, :, top : top + PATCH, left : left + PATCH].copy()


def _groups(model: ModelProto, tensors: Sequence[str], picture: Image) -> list[list[str]]:
    """The tensors in runs of at most GROUP_BYTES, their sizes measured on one picture."""
    groups: list[list[str]] = [[]]
    held = 0
    for name, size in zip(tensors, bytes_of(model, tensors, picture), strict=True):
        if groups[-1] and held + size > GROUP_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups
