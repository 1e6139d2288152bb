"""When the memory of the processor or the GPU does not hold a frame: smaller tiles."""

from __future__ import annotations

import re

from sdps.core.errors import EngineError
from sdps.core.frame import Image
from sdps.runtime.restorer import Restorer

SMALLEST = 64
"""Tiles below this cost more than they save: the network's receptive field is larger."""
# ONNX Runtime: "Failed to allocate memory", "bad allocation"; its CUDA arena: "BFCArena"; CUDA and
# TensorRT: "out of memory", "cudaErrorMemoryAllocation"; OpenVINO: "std::bad_alloc", "Can not allocate",
# "can't alloc", and where it finds none while it compiles in several streams "Broken promise"; oneDNN, below
# PyTorch: "could not create a primitive" (where it is a primitive descriptor, it lacks the operation).
SIGNS = re.compile(
    r"out of memory|bad.?alloc|bfcarena|(?:fail|unable|not|n't|cannot).{0,12}\balloc|memoryallocation"
    r"|CL_MEM_OBJECT_ALLOCATION|CL_OUT_OF|broken promise|could not create a (?:primitive|memory)\b(?! desc)",
    re.IGNORECASE,
)


class OutOfMemory(EngineError):  # noqa: N818 - it reads as what it is
    """Memory does not suffice, and smaller tiles do not help."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an engine's exception means that memory did not suffice. They share no class."""
    return isinstance(error, MemoryError) or bool(SIGNS.search(str(error)))


def smaller_tiles(model: Restorer, image: Image) -> int:
    """Halves the tiles of a model with a dynamic graph for the pictures from now on.

    Args:
        model: What restores pictures; only what has a graph of any size can.
        image: (H, W, 3), what did not fit.

    Returns:
        The new side of the tiles.

    Raises:
        OutOfMemory: the graph's size is fixed, or its tiles are as small as is of use.
    """
    manifest = model.manifest
    if manifest is None:
        raise OutOfMemory("There is not enough memory for a frame.", "Use smaller frames.")
    if manifest.fixed_size is not None:
        raise OutOfMemory(
            f"There is not enough memory for this graph of {manifest.size}.",
            "Export it at a smaller size; frames are then cut into tiles.",
        )
    longest = max(image.shape[:2])
    now = min(model.tile or longest, longest)
    smaller = now // 2 // 4 * 4
    if smaller < SMALLEST:
        raise OutOfMemory(
            f"There is not enough memory, not even for tiles of {now} pixels.",
            "Free some, or use a smaller model.",
        )
    model.tile = smaller
    if model.overlap is not None and 2 * model.overlap >= smaller:
        model.overlap = None  # the default of that tile
    return smaller
