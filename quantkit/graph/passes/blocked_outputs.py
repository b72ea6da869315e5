"""Returns outputs in the blocked layout in which ONNX Runtime computes convolutions on a CPU.

Where a processor has the instructions, operators of the domain com.microsoft.nchwc work on blocks of 8 or 16 channels,
and ReorderOutput writes what leaves them once more in the plain layout. Both hold the same values, for each sample.
"""

from __future__ import annotations

import math

import onnx
import onnx_ir as ir

_DOMAIN = "com.microsoft.nchwc"


def return_blocks(optimized: bytes) -> bytes | None:
    """Takes away ReorderOutput where nothing but an output of the model is made by it; names stay.

    Where the number of channels is no multiple of the block's, zeros fill the last one: such an output stays as it is.

    Args:
        optimized: what ONNX Runtime made of a model.

    Returns:
        The model; None if it has no such output.
    """
    model = ir.from_proto(onnx.ModelProto.FromString(optimized))
    nodes = [node for node in model.graph if node.domain == _DOMAIN]
    weights = [node.inputs[1] for node in nodes if node.op_type == "Conv"]
    # Filled up to whole blocks, so that what divides all of them is a multiple of the block.
    block = math.gcd(*(int(weight.shape[0]) for weight in weights if weight is not None and weight.shape is not None))
    found = False
    for node in nodes:
        plain, blocked = node.outputs[0], node.inputs[0]
        if node.op_type != "ReorderOutput" or blocked is None or node.attributes["channels"].as_int() % block:
            continue
        if plain.is_graph_output() and not plain.uses() and not blocked.is_graph_output():
            model.graph.outputs[model.graph.outputs.index(plain)] = blocked
            model.graph.remove(node, safe=True)
            blocked.name, blocked.type, blocked.shape = plain.name, plain.type, None
            found = True
    return bytes(ir.to_proto(model).SerializeToString()) if found else None
