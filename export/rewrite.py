"""Exact rewrites: the exported graph computes the network's function with less work.

The rewrites themselves are in `rewrites/`; here they are put in order, applied, and accounted for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx import ModelProto

from sdps.export.graph_cost import GraphCost, graph_cost
from sdps.export.rewrites.activations import clip, leaky_relu
from sdps.export.rewrites.concat import lone_channel
from sdps.export.rewrites.linear import pointwise_chains, upsampling_chains
from sdps.export.rewrites.means import global_pool, mean_before_concat, small_maps
from sdps.export.rewrites.shapes import resize_like_neighbour

Rewrite = Callable[[ir.Graph], int]

REWRITES: dict[str, Rewrite] = {
    rewrite.__name__: rewrite
    for rewrite in (
        resize_like_neighbour,
        leaky_relu,
        clip,
        pointwise_chains,
        upsampling_chains,
        lone_channel,
        mean_before_concat,
        small_maps,
        global_pool,
    )
}
"""By name, in the order in which they are applied."""


@dataclass(frozen=True)
class Step:
    """What one rewrite did to a graph.

    Attributes:
        name: The rewrite's.
        places: Where it was applied.
        purpose: One sentence.
        before, after: The graph's cost.
    """

    name: str
    places: int
    purpose: str
    before: GraphCost
    after: GraphCost


def rewrite(model: ir.Model, names: Collection[str] = tuple(REWRITES)) -> dict[str, int]:
    """Applies the named rewrites to a model, in place and in their own order.

    Returns:
        How often each was applied, those left out that never were.
    """
    places = {name: apply(model.graph) for name, apply in REWRITES.items() if name in names}
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.NameFixPass()(model)
    return {name: count for name, count in places.items() if count}


def explain(model: ModelProto) -> list[Step]:
    """Applies the rewrites one by one to a plain graph and measures after each; `model` is not changed."""
    steps = []
    current, before = model, graph_cost(model)
    for name, apply in REWRITES.items():
        changed = ir.from_proto(current)
        places = rewrite(changed, (name,)).get(name, 0)
        current = ir.to_proto(changed)
        after = graph_cost(current)
        purpose = (apply.__doc__ or "").splitlines()[0]
        steps.append(Step(name, places, purpose, before, after))
        before = after
    return steps
