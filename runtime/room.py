"""How large a tile the free memory holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sdps.core.free_memory import free_memory
from sdps.core.manifest import GraphManifest

SHARE = 0.5
"""Of the free memory that a tile may take: other processes grow too, and frames wait in queues."""
SMALLEST_TILE, LARGEST_TILE = 256, 1024
"""Tiles of 128 lose a decibel and more, as the network takes means over what it sees; from 256 on
hardly any (docs/tiling.md)."""
MAPS = 22
"""Full-resolution maps of the widest kind in FP32 that an engine holds at its peak: measured 16 to 25
in ONNX Runtime, 6 to 13 in OpenVINO with one picture and 13 to 16 with two in flight, for the bundled
models and the paper's network (docs/tiling.md)."""
PAPER_WIDTHS = 40 + 16


def bytes_per_pixel(config: Mapping[str, Any]) -> int:
    """About the memory that a network's feature maps take at their peak, per pixel of the picture.

    FP16 graphs count as FP32, since CPUs compute them so.

    Args:
        config: The network's widths, as a graph's description has them; of an unknown one the paper's.
    """
    widths = [config.get(key) for key in ("features", "scale_orb")]
    known = [width for width in widths if isinstance(width, int)]
    return MAPS * 4 * (sum(known) if len(known) == len(widths) else PAPER_WIDTHS)


def tile_side(manifest: GraphManifest, free: int | None = None) -> int:
    """The side of square tiles that fit the memory that is free now, a multiple of 32.

    Args:
        manifest: Of the graph.
        free: Bytes; None to ask the system.
    """
    free = free_memory() if free is None else free
    side = math.isqrt(int(SHARE * free) // bytes_per_pixel(manifest.config))
    return max(SMALLEST_TILE, min(LARGEST_TILE, side)) // 32 * 32
