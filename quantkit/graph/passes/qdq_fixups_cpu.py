"""Fix-ups of a model with Q/DQ for ONNX Runtime's CPU kernels: INT32 biases, and padding of quantized tensors.

Results change only by the rounding of biases to INT32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.passes.edits import Names, make_dequantize, remove_unused_initializers
from quantkit.graph.passes.prepare import constant_of, input_at, is_standard

_ALIGNED_CHANNELS = 4
"""With fewer input channels a Conv cannot use the kernel that reads its input in place (x86: 4 bytes a step)."""

_LARGEST_BIAS = 2**30
"""Half of the INT32 range; the other half is for the sum of products."""


def quantize_biases(model: ir.Model) -> ir.Model:
    """Stores the bias of every quantized operator as INT32, with scale = input scale * weight scale, zero point 0.

    Gemm has an integer kernel only for such a bias, and so has a MatMul with the Add after it: for static shapes ONNX
    Runtime fuses the two into a Gemm. Where a channel's weights are so small that its bias would overflow, the weight
    scale of the channel is raised and the channel is quantized again.
    """
    names = Names(model)
    for node in list(model.graph):
        place = _bias_of(node)
        if place is None:
            continue
        reader, index = place
        data, weight = _dequantize(node.inputs[0]), _dequantize(node.inputs[1])
        tensor = constant_of(reader.inputs[index])
        if data is None or weight is None or tensor is None:
            continue
        bias = np.asarray(tensor.numpy(), np.float64).ravel()
        input_scale = np.float64(_array(data.inputs[1]))
        _raise_weight_scale(weight, np.abs(bias) / (input_scale * _LARGEST_BIAS), names)
        scale = (np.asarray(_array(weight.inputs[1]), np.float64) * input_scale).astype(np.float32)
        _dequantized_bias(reader, index, bias, scale, names)
    return remove_unused_initializers(model)


def keep_float_weights(model: ir.Model) -> ir.Model:
    """Keeps ONNX Runtime from quantizing weights that the plan left in float.

    Between a DQ and a Q it quantizes the float weight of a Conv, ConvTranspose or Gemm by itself, with one scale for
    the whole tensor, if the bias is an initializer too. Here a DequantizeLinear produces the bias, exact to 2**-30.
    """
    names = Names(model)
    for node in list(model.graph):
        if not is_standard(node, "Conv", "ConvTranspose", "Gemm") or constant_of(node.inputs[1]) is None:
            continue
        if _dequantize(node.inputs[0]) is None or not _leads_to_quantize(node):
            continue
        given = input_at(node, 2)
        tensor = constant_of(given)
        if given is not None and tensor is None:
            continue
        bias = (
            np.zeros(_channels(node), np.float64) if tensor is None else np.asarray(tensor.numpy(), np.float64).ravel()
        )
        if given is None:
            node.resize_inputs(3)
        largest = float(np.abs(bias).max(initial=0.0))
        scale = np.asarray(max(largest / _LARGEST_BIAS, 2.0**-100), np.float32)
        _dequantized_bias(node, 2, bias, scale, names)
    return remove_unused_initializers(model)


def pad_quantized(model: ir.Model) -> ir.Model:
    """Replaces DQ → Pad with zeros → Q of one scale by a Pad of quantized values: ONNX Runtime would pad in float."""
    names = Names(model)
    for node in list(model.graph):
        if not is_standard(node, "Pad") or node.attributes.get_string("mode", "constant") != "constant":
            continue
        dq = _dequantize(node.inputs[0])
        users = [user for user, _ in node.outputs[0].uses()]
        fill = input_at(node, 2)
        if dq is None or len(users) != 1 or not is_standard(users[0], "QuantizeLinear"):
            continue
        if fill is not None and (constant_of(fill) is None or np.any(_array(fill))):
            continue
        q = users[0]
        if any(not np.array_equal(_array(a), _array(b)) for a, b in zip(dq.inputs[1:3], q.inputs[1:3], strict=True)):
            continue
        zero = names.initializer(f"{node.name}_fill", _array(dq.inputs[2]))
        padded = _like(q.outputs[0], names.new(f"{node.outputs[0].name}_codes"))
        inputs = [dq.inputs[0], node.inputs[1], zero, *node.inputs[3:]]
        model.graph.insert_before(node, ir.node("Pad", inputs, outputs=[padded], name=names.new(f"{node.name}_codes")))
        for user, index in list(q.outputs[0].uses()):
            user.replace_input_with(index, padded)
        model.graph.remove([q, node], safe=True)
        _remove_unread(model, dq)
    return remove_unused_initializers(model)


def align_channels(model: ir.Model) -> ir.Model:
    """Pads the quantized input of a first Conv from 3 channels to 4, and its weights with zeros.

    The Conv then runs without being unrolled into a matrix: about twice as fast, with the same result.
    """
    names = Names(model)
    for node in list(model.graph):
        if not is_standard(node, "Conv") or node.attributes.get_int("group", 1) != 1:
            continue
        data, weight = _dequantize(node.inputs[0]), _dequantize(node.inputs[1])
        quantized = constant_of(weight.inputs[0]) if weight is not None else None
        if data is None or weight is None or quantized is None:
            continue
        array = np.asarray(quantized.numpy())
        missing = _ALIGNED_CHANNELS - array.shape[1]
        if missing != 1 or array.ndim != 4:
            continue
        name = str(node.name)
        pads = names.initializer(f"{name}_pads", np.array([0, 0, 0, 0, 0, missing, 0, 0], np.int64))
        source, zero_point = data.inputs[0], data.inputs[2]
        if source is None:
            continue
        fill = names.initializer(f"{name}_fill", _array(zero_point))
        padded = _like(source, names.new(f"{source.name}_padded"))
        shape = source.shape
        if shape is not None:
            padded.shape = ir.Shape([shape[0], _ALIGNED_CHANNELS, *shape[2:]])
        wider = names.initializer(f"{name}_weight_padded", np.pad(array, ((0, 0), (0, missing), (0, 0), (0, 0))))
        pad = ir.node("Pad", [source, pads, fill], outputs=[padded], name=names.new(f"{name}_Pad"))
        data_dq = make_dequantize(
            names, [padded, *data.inputs[1:]], f"{source.name}_padded", node_name=f"{name}_Pad", shape=padded.shape
        )
        axis = weight.attributes.get_int("axis", 1) if "axis" in weight.attributes else None
        weight_dq = make_dequantize(names, [wider, *weight.inputs[1:]], f"{name}_weight", shape=wider.shape, axis=axis)
        model.graph.insert_before(node, [pad, data_dq, weight_dq])
        node.replace_input_with(0, data_dq.outputs[0])
        node.replace_input_with(1, weight_dq.outputs[0])
        _remove_unread(model, data, weight)
    return remove_unused_initializers(model)


def _remove_unread(model: ir.Model, *nodes: ir.Node) -> None:
    for node in nodes:
        if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            model.graph.remove(node, safe=True)


def _bias_of(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The node and the input where the bias of `node` is read."""
    if is_standard(node, "Conv", "Gemm"):
        return (node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    uses = list(node.outputs[0].uses()) if is_standard(node, "MatMul") else []
    if len(uses) != 1 or not is_standard(uses[0][0], "Add") or uses[0][0].graph is not node.graph:
        return None
    reader, index = uses[0]
    bias, weight = constant_of(reader.inputs[1 - index]), node.inputs[1]
    columns = weight.shape[-1] if weight is not None and weight.shape is not None else None
    return (reader, 1 - index) if bias is not None and tuple(bias.shape) == (columns,) else None


def _dequantized_bias(
    node: ir.Node, index: int, bias: npt.NDArray[np.float64], scale: npt.NDArray[np.float32], names: Names
) -> None:
    """Feeds input `index` of `node` from `bias` [C], quantized to INT32 with `scale` [] or [C]."""
    old = node.inputs[index]
    name = str(old.name) if old is not None else f"{node.name}_bias"
    inputs = [
        names.initializer(f"{name}_quantized", np.rint(bias / scale.astype(np.float64)).astype(np.int32)),
        names.initializer(f"{name}_scale", scale),
        names.initializer(f"{name}_zero_point", np.zeros(scale.shape, np.int32)),
    ]
    dq = make_dequantize(names, inputs, name, shape=ir.Shape(bias.shape), axis=0 if scale.ndim else None)
    names.graph.insert_before(node, dq)
    node.replace_input_with(index, dq.outputs[0])


def _leads_to_quantize(node: ir.Node) -> bool:
    """Whether a QuantizeLinear is the only reader of the node, perhaps after a Relu or Clip."""
    current = node
    while True:
        users = [user for user, _ in current.outputs[0].uses()]
        if len(users) != 1:
            return False
        if is_standard(users[0], "QuantizeLinear"):
            return True
        if not is_standard(users[0], "Relu", "Clip"):
            return False
        current = users[0]


def _channels(node: ir.Node) -> int:
    weight = _array(node.inputs[1])
    if node.op_type == "ConvTranspose":
        return int(weight.shape[1]) * node.attributes.get_int("group", 1)
    return int(weight.shape[1 if node.op_type == "Gemm" and not node.attributes.get_int("transB", 0) else 0])


def _raise_weight_scale(weight: ir.Node, smallest: npt.NDArray[np.float64], names: Names) -> None:
    """Raises the scales of a weight to `smallest` [C] where they are below, and requantizes those channels."""
    scale = np.asarray(_array(weight.inputs[1]), np.float32)
    needed = smallest if scale.ndim else smallest.max(initial=0.0)
    raised = np.maximum(scale, np.asarray(needed, np.float32))
    if np.array_equal(raised, scale):
        return
    quantized = np.asarray(_array(weight.inputs[0]), np.int8)
    shape = [1] * quantized.ndim
    if scale.ndim:
        shape[weight.attributes.get_int("axis", 1)] = -1
    factor = (scale.astype(np.float64) / raised).reshape(shape)
    name = str(weight.outputs[0].name)
    weight.replace_input_with(0, names.initializer(f"{name}_codes", np.rint(quantized * factor).astype(np.int8)))
    weight.replace_input_with(1, names.initializer(f"{name}_scale", raised))


def _dequantize(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and is_standard(node, "DequantizeLinear") else None


def _array(value: ir.Value | None) -> npt.NDArray[np.generic]:
    tensor = constant_of(value)
    if tensor is None:
        raise TypeError("Q/DQ parameters are constants")
    return np.asarray(tensor.numpy())


def _like(like: ir.Value, name: str) -> ir.Value:
    return ir.Value(name=name, shape=like.shape, type=like.type)
