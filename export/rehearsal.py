"""An FP16 graph as a GPU would round it, run on the CPU.

ONNX Runtime's CPU provider has no FP16 convolutions: it computes FP16 nodes in FP32 and drops the
roundings between them (seen in 1.31: the value 111,000 passes through an FP16 tensor), so neither
lost digits nor overflow would show there. The rehearsal is the same graph in FP32 with every FP16
tensor rounded to half precision and back, as with FP16 storage and FP32 accumulation.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from sdps.export.precision import FLOAT, HALF, tensor_types


def rehearse_fp16(model: ModelProto) -> ModelProto:
    """An FP32 graph that gives what the FP16 graph `model` gives where FP16 is really stored.

    For checking only: it is slower than either and carries no types of inner tensors.
    """
    rehearsal = ModelProto()
    rehearsal.CopyFrom(model)
    graph = rehearsal.graph
    types = tensor_types(model)
    del graph.value_info[:]
    for weight in graph.initializer:
        if weight.data_type == HALF:
            weight.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name)
            )
    nodes: list[NodeProto] = []
    for node in list(graph.node):
        nodes.append(node)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == HALF:
                attribute.i = FLOAT
        for slot, name in enumerate(node.output):
            if types.get(name) == HALF:
                node.output[slot] = f"{name}/exact"
                nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=HALF))
                nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], to=FLOAT))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return rehearsal
