"""Chains of linear layers, folded into one.

Weights are multiplied in double precision, so that a folded layer rounds once where the chain rounds
twice. Notation: a Conv's weights are [out, in, kh, kw], a ConvTranspose's [in, out, kh, kw].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sdps.export.rewrites.surgery import (
    Array,
    bias_of,
    constant,
    insert,
    ints,
    is_plain_conv,
    producer,
    substitute,
    weight,
)

Doubles = npt.NDArray[np.float64]


def pointwise_chains(graph: ir.Graph) -> int:
    """A convolution followed by a 1x1 convolution becomes one, where that is less work.

    Down-sampling is a strided 1x1 and a 1x1.
    """
    changed = 0
    for node in list(graph):
        if not _is_pointwise(node):
            continue
        first = producer(node.inputs[0], "Conv")
        if first is None or not is_plain_conv(first):
            continue
        a, b = _weights(first), _weights(node)[:, :, 0, 0]
        if b.shape[0] * a[0].size > a.size + b.size:  # multiply-accumulates per pixel of the result
            continue
        merged = np.einsum("om,mikl->oikl", b, a)
        bias = b @ bias_of(first, len(a)) + bias_of(node, len(b))
        _fold(graph, first, node, "Conv", merged, bias)
        changed += 1
    return changed


def upsampling_chains(graph: ir.Graph) -> int:
    """A transposed convolution followed by a 1x1 convolution becomes one transposed convolution.

    With the stride as kernel no two inputs meet in one output, so the bias stays the same everywhere.
    """
    changed = 0
    for node in list(graph):
        if not _is_pointwise(node):
            continue
        first = producer(node.inputs[0], "ConvTranspose")
        if first is None or not _is_upsampling(first):
            continue
        a, b = _weights(first), _weights(node)[:, :, 0, 0]
        merged = np.einsum("imkl,om->iokl", a, b)
        bias = b @ bias_of(first, a.shape[1]) + bias_of(node, len(b))
        _fold(graph, first, node, "ConvTranspose", merged, bias)
        changed += 1
    return changed


def double_upsampling(graph: ir.Graph) -> int:
    """Two transposed convolutions in a row become a 1x1 convolution and a depth-to-space.

    The first one's bias reaches the result through the second one's weights, which differ from pixel
    to pixel of a block; as the 1x1 convolution has an output of its own for each of these pixels, its
    bias says so at every size.
    """
    changed = 0
    for node in list(graph):
        if node.op_type != "ConvTranspose" or not _is_upsampling(node):
            continue
        first = producer(node.inputs[0], "ConvTranspose")
        if first is None or not _is_upsampling(first):
            continue
        a, b = _weights(first), _weights(node)
        inner, outer = a.shape[2], b.shape[2]
        block = inner * outer
        # Of pixel (y, x) of a block: the first layer's tap (y // outer, ...), the second's (y % outer, ...).
        merged = np.einsum("imyx,mokl->oykxli", a, b).reshape(-1, a.shape[0])
        along = (
            np.einsum("m,mokl->okl", bias_of(first, a.shape[1]), b) + bias_of(node, b.shape[1])[:, None, None]
        )
        bias = np.tile(along, (1, inner, inner)).reshape(-1)
        # Depth-to-space in CRD order: output channel first, then the pixel's row and column in the block.
        name = node.outputs[0].name
        blocks = _weight(graph, f"{name}/weight", merged[:, :, None, None])
        inputs = (first.inputs[0], blocks, _weight(graph, f"{name}/bias", bias))
        conv = insert(node, "Conv", inputs, {}, f"{name}/blocks")
        source = first.inputs[0]
        if source is not None and source.shape is not None:
            batch, _, height, width = source.shape
            conv.outputs[0].shape = ir.Shape((batch, len(merged), height, width))
        substitute(node, "DepthToSpace", conv.outputs, {"blocksize": block, "mode": "CRD"})
        graph.remove(first, safe=True)
        changed += 1
    return changed


def _is_pointwise(node: ir.Node) -> bool:
    return (
        node.op_type == "Conv"
        and is_plain_conv(node, 1)
        and ints(node, "strides", (1, 1)) == [1, 1]
        and not any(ints(node, "pads", (0,)))
    )


def _is_upsampling(node: ir.Node) -> bool:
    """A transposed convolution whose square kernel is its stride."""
    if not is_plain_conv(node):
        return False
    kernel = list(_weights(node).shape[2:])
    return (
        kernel[0] == kernel[1]
        and ints(node, "strides", (1, 1)) == kernel
        and not any(ints(node, "pads", (0,)))
        and not any(ints(node, "output_padding", (0,)))
        and "output_shape" not in node.attributes
    )


def _weights(node: ir.Node) -> Doubles:
    values = constant(node.inputs[1])
    assert values is not None
    return values.astype(np.float64)


def _weight(graph: ir.Graph, name: str, values: Doubles) -> ir.Value:
    narrowed: Array = values.astype(np.float32)
    return weight(graph, name, narrowed)


def _fold(
    graph: ir.Graph,
    first: ir.Node,
    last: ir.Node,
    op_type: str,
    weights: Doubles,
    bias: Doubles,
) -> None:
    """Puts one layer, with the first one's strides and padding, in the place of two."""
    name = last.outputs[0].name
    inputs = (
        first.inputs[0],
        _weight(graph, f"{name}/weight", weights),
        _weight(graph, f"{name}/bias", bias),
    )
    substitute(last, op_type, inputs, dict(first.attributes))
    graph.remove(first, safe=True)
