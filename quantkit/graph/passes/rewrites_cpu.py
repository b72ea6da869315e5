"""Exact rewrites of the float graph that enable ONNX Runtime's integer kernels; remaining tensors keep their names.

ONNX Runtime fuses these operators itself, but not once there are Q/DQ between them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.passes.edits import Names, remove_unused_initializers, replace_result
from quantkit.graph.passes.prepare import constant_of, input_at, is_standard


def rewrite_for_cpu(model: ir.Model) -> ir.Model:
    """Rewrites a prepared `model` in place and returns it.

    1. BatchNormalization after a Conv is folded into its weight and bias.
    2. A Pad with zeros is folded into the Conv operators that read it.
    3. ReduceMean over all spatial axes, which has no integer kernel, becomes GlobalAveragePool.
    """
    names = Names(model)
    for node in list(model.graph):
        if is_standard(node, "BatchNormalization"):
            _fold_batch_normalization(node, names)
        elif is_standard(node, "Pad"):
            _fold_pad(node)
        elif is_standard(node, "ReduceMean"):
            _pool_globally(node, names)
    return remove_unused_initializers(model)


def _fold_batch_normalization(node: ir.Node, names: Names) -> None:
    source = node.inputs[0]
    conv = source.producer() if source is not None else None
    if source is None or conv is None or not is_standard(conv, "Conv") or conv.graph is not node.graph:
        return
    if len(source.uses()) != 1 or source.is_graph_output() or node.attributes.get_int("training_mode", 0) == 1:
        return
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return
    statistics = [_float32(value) for value in node.inputs[1:5]]
    weight = _float32(conv.inputs[1])
    bias_value = input_at(conv, 2)
    bias = _float32(bias_value) if bias_value is not None else np.zeros(1, np.float32)
    if weight is None or bias is None or any(array is None for array in statistics):
        return
    gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in statistics)
    factor = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    scaled = weight * factor.reshape(-1, *([1] * (weight.ndim - 1)))
    shifted = (bias - mean) * factor + beta
    weight_name = str(conv.inputs[1].name) if conv.inputs[1] is not None else "weight"
    conv.replace_input_with(1, names.initializer(f"{weight_name}_folded", scaled.astype(np.float32)))
    if len(conv.inputs) < 3:
        conv.resize_inputs(3)
    conv.replace_input_with(2, names.initializer(f"{weight_name}_folded_bias", shifted.astype(np.float32)))
    replace_result(node.outputs[0], source, node)


def _fold_pad(node: ir.Node) -> None:
    source, padded = node.inputs[0], node.outputs[0]
    pads = _integers(input_at(node, 1))
    value = input_at(node, 2)
    if source is None or pads is None or len(pads) < 6 or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return
    fill = _float32(value) if value is not None else np.zeros(1, np.float32)
    if node.attributes.get_string("mode", "constant") != "constant" or fill is None or fill.any():
        return
    rank = len(pads) // 2
    begins, ends = pads[:rank], pads[rank:]
    readers = padded.uses()
    if min(pads) < 0 or any((*begins[:2], *ends[:2])) or not readers or padded.is_graph_output():
        return
    for conv, index in readers:
        automatic = conv.attributes.get_string("auto_pad", "NOTSET")
        if not is_standard(conv, "Conv") or index != 0 or automatic not in ("NOTSET", "VALID"):
            return
    for conv, _ in list(readers):
        old = list(conv.attributes.get_ints("pads", [0] * (2 * (rank - 2))))
        if conv.attributes.get_string("auto_pad", "NOTSET") == "VALID":
            old = [0] * len(old)
        conv.attributes.pop("auto_pad", None)
        added = [*begins[2:], *ends[2:]]
        conv.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(old, added, strict=True)])
        conv.replace_input_with(0, source)
    if node.graph is not None:
        node.graph.remove(node, safe=True)


def _pool_globally(node: ir.Node, names: Names) -> None:
    source = node.inputs[0]
    if source is None or source.shape is None or node.graph is None or not node.attributes.get_int("keepdims", 1):
        return
    listed = node.attributes.get_ints("axes", []) or _integers(input_at(node, 1))
    rank = len(source.shape)
    if not listed or rank < 3 or sorted(axis % rank for axis in listed) != list(range(2, rank)):
        return
    old = node.outputs[0]
    new = ir.Value(name=names.new(f"{old.name}_pooled"), shape=old.shape, type=old.type)
    node.graph.insert_before(node, ir.node("GlobalAveragePool", [source], outputs=[new], name=names.new("pool")))
    name = node.name
    replace_result(old, new, node)
    pool = new.producer()
    if pool is not None:
        pool.name = name


def _float32(value: ir.Value | None) -> npt.NDArray[np.float32] | None:
    tensor = constant_of(value)
    if tensor is None or tensor.dtype is not ir.DataType.FLOAT:
        return None
    return np.asarray(tensor.numpy(), np.float32)


def _integers(value: ir.Value | None) -> list[int] | None:
    tensor = constant_of(value)
    return None if tensor is None else [int(i) for i in tensor.numpy().ravel()]
