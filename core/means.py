"""The second input and output of a graph that tells its means over the picture and takes others.

`sdps-export --tile-means` makes such graphs, so that tiles can be given the means of their frame.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MEANS_INPUT, MEANS_OUTPUT = "frame_means", "tile_means"
"""float32 [1,T+1,1,1] and [N,T,1,1], T being the manifest's `tile_means`."""

Means = npt.NDArray[np.float32]
"""(T,) float32: the means that a graph takes, one after another."""


def means_input(count: int, means: Means | None = None) -> npt.NDArray[np.float32]:
    """What a graph of `count` means is fed: `means` and that they are given, or zeros to take its own."""
    fed = np.zeros((1, count + 1, 1, 1), np.float32)
    if means is not None:
        fed[0, :count, 0, 0], fed[0, count] = means, 1
    return fed
