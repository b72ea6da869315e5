"""Returns outputs in the blocked layout in which ONNX Runtime computes convolutions on a CPU.

Where a processor has the instructions, operators of the domain com.microsoft.nchwc work on blocks of 8 or 16 channels,
and ReorderOutput writes what leaves them once more in the plain layout. Both hold the same values, for each sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from quantkit.graph.model import parse_model

_DOMAIN = "com.microsoft.nchwc"
_ACTIVATIONS = "Clip", "Relu"
"""Exact for each value, wherever it lies: a Sigmoid may be rounded otherwise at the end of an array."""


def return_blocks(optimized: bytes) -> bytes | None:
    """Takes away ReorderOutput where nothing but an output of the model is made by it; names stay.

    Where the number of channels is no multiple of the block's, zeros fill the last one: such an output stays as it is.

    Args:
        optimized: what ONNX Runtime made of a model.

    Returns:
        The model; None if it has no such output.

    Raises:
        ModelError: the model cannot be read.
    """
    model = parse_model(optimized, "ONNX Runtime's optimized model")
    whole = _whole_blocks(model)
    _activate_blocks(model, whole)
    found = False
    for node in whole:
        plain, blocked = node.outputs[0], node.inputs[0]
        if blocked is not None and plain.is_graph_output() and not plain.uses() and not blocked.is_graph_output():
            model.graph.outputs[model.graph.outputs.index(plain)] = blocked
            model.graph.remove(node, safe=True)
            blocked.name, blocked.type, blocked.shape = plain.name, plain.type, None
            found = True
    return bytes(ir.to_proto(model).SerializeToString()) if found else None


def _whole_blocks(model: ir.Model) -> list[ir.Node]:
    """The ReorderOutput nodes that leave out no zeros; none where no convolution tells how many a block holds."""
    nodes = [node for node in model.graph if node.domain == _DOMAIN]
    weights = [node.inputs[1] for node in nodes if node.op_type == "Conv"]
    # Filled up to whole blocks, so that what divides all of them is a multiple of the block.
    filled = [weight.shape.numpy()[0] for weight in weights if weight is not None and weight.shape is not None]
    block = math.gcd(*filled)
    reorders = [node for node in nodes if node.op_type == "ReorderOutput"]
    return [node for node in reorders if block and node.attributes["channels"].as_int() % block == 0]


def _activate_blocks(model: ir.Model, whole: Sequence[ir.Node]) -> None:
    """Takes activations out of the plain layout that they alone are in: an observed input keeps them out of a Conv."""
    for reorder in whole:
        is_last = reorder.attributes["channels_last"].as_int()  # 1: with a Transpose in it
        for node in reorder.outputs[0].consumers():
            result, after = node.outputs[0], node.outputs[0].consumers()
            is_alone = all(
                r.op_type == "ReorderInput" and r.attributes["channels_last"].as_int() == is_last for r in after
            )
            is_inside = all(part.graph is model.graph for part in (node, *after))
            if is_alone and is_inside and node.domain == "" and node.op_type in _ACTIVATIONS:
                node.replace_input_with(0, reorder.inputs[0])
                for reader in after:
                    reader.outputs[0].replace_all_uses_with(result)
                    model.graph.remove(reader, safe=True)
