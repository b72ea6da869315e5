"""Where a factor for each channel of an activation can be folded into constants before it, exactly.

Relu, LeakyRelu and PRelu commute with positive factors, and so do pooling, zero padding and shape operators that keep
the channel axis. Before them the factor goes into the weight and bias of Conv, ConvTranspose, Gemm or MatMul, into the
gain and bias of a normalization, or into the constant of a Mul or Div (as in a decomposed LayerNormalization).
See Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.passes.edits import Names, name_of, replace_constant
from quantkit.graph.passes.prepare import constant_of, input_at, is_standard

_HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu", "Identity")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_CHANNEL_NORMALIZATIONS = ("BatchNormalization", "InstanceNormalization")
_LAST_AXIS_NORMALIZATIONS = ("LayerNormalization", "RMSNormalization")


@dataclass(frozen=True)
class ConstantFactor:
    """What a constant input of a node has to be multiplied by; it broadcasts against the constant."""

    node: ir.Node
    index: int
    factor: npt.NDArray[np.float64]

    def apply(self, names: Names) -> None:
        """Multiplies the constant for this node; other readers of a shared constant keep theirs."""
        value = self.node.inputs[self.index]
        tensor = constant_of(value)
        assert tensor is not None  # as when it was found
        array = np.asarray(tensor.numpy())
        product = (array.astype(np.float64) * self.factor).astype(array.dtype)
        replace_constant(names, self.node, self.index, product, name=f"{name_of(value)}_scaled")


def find_folding(value: ir.Value, axis: int, factors: npt.NDArray[np.float64]) -> list[ConstantFactor] | None:
    """The constants to multiply so that `value` is multiplied by `factors`; None if there is no exact way.

    The caller checks the readers of `value` itself; tensors before it must have no other reader.

    Args:
        value: an activation.
        axis: of its channels, counted from the end.
        factors: positive, [C].
    """
    found: list[ConstantFactor] = []
    while (node := value.producer()) is not None and value is node.outputs[0]:
        last = _last_step(node, axis, factors)
        if last is not None:
            return found + last
        before = _operand_before(node, axis, factors)
        if before is None:
            return None
        value, axis, constants = before
        if value.is_graph_output() or len(value.uses()) != 1:
            return None
        found += constants
    return None


def _last_step(node: ir.Node, axis: int, factors: npt.NDArray[np.float64]) -> list[ConstantFactor] | None:
    """The constants of `node` that take the factor, after which nothing before it changes."""
    along = factors.reshape(-1, *(1,) * (-axis - 1))
    if is_standard(node, "Mul", "Div"):
        index = 0 if is_standard(node, "Mul") and constant_of(node.inputs[1]) is None else 1
        if constant_of(node.inputs[index]) is None:
            return None
        return [ConstantFactor(node, index, along if is_standard(node, "Mul") else 1 / along)]
    if is_standard(node, *_CHANNEL_NORMALIZATIONS):
        # The rank of what is normalized decides where its channels are.
        if not _is_second(node.outputs[0], axis):
            return None
        return _if_constant(node, {1: factors, 2: factors}, len(factors))
    if is_standard(node, *_LAST_AXIS_NORMALIZATIONS):
        if axis != -1:
            return None
        return _if_constant(node, {1: factors, 2: factors} if len(node.inputs) > 2 else {1: factors}, len(factors))
    if is_standard(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        return _into_weight(node, axis, factors)
    return None


def _into_weight(node: ir.Node, axis: int, factors: npt.NDArray[np.float64]) -> list[ConstantFactor] | None:
    tensor = constant_of(node.inputs[1])
    along = None if tensor is None else _along_outputs(node, tensor.numpy().shape, axis, factors)
    if along is None:
        return None
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    return _if_constant(node, {1: along, 2: factors} if has_bias else {1: along})


def _along_outputs(
    node: ir.Node, shape: tuple[int, ...], axis: int, factors: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64] | None:
    """Factors of output channels in a shape that broadcasts against the weight; None if `axis` is not theirs."""
    rank, spatial = len(shape), (1,) * (len(shape) - 2)
    if rank < 2 or (is_standard(node, "MatMul") and rank > 2):
        return None
    if is_standard(node, "Conv"):
        return factors.reshape(-1, 1, *spatial) if (axis, len(factors)) == (1 - rank, shape[0]) else None
    if is_standard(node, "ConvTranspose"):
        groups = node.attributes.get_int("group", 1)
        if (axis, len(factors)) != (1 - rank, shape[1] * groups):
            return None
        return np.repeat(factors.reshape(groups, -1), shape[0] // groups, axis=0).reshape(*shape[:2], *spatial)
    transposed = is_standard(node, "Gemm") and node.attributes.get_int("transB", 0) == 1
    if (axis, len(factors)) != (-1, shape[0 if transposed else 1]):
        return None
    return factors.reshape(-1, 1) if transposed else factors


def _if_constant(
    node: ir.Node, factors: dict[int, npt.NDArray[np.float64]], size: int | None = None
) -> list[ConstantFactor] | None:
    """The factors by index of the input, if all these inputs are constants (whose last dimension is `size`)."""
    tensors = [constant_of(node.inputs[index]) for index in factors]
    if any(t is None or (size is not None and tuple(t.shape)[-1:] != (size,)) for t in tensors):
        return None
    return [ConstantFactor(node, index, factor) for index, factor in factors.items()]


def _operand_before(
    node: ir.Node, axis: int, factors: npt.NDArray[np.float64]
) -> tuple[ir.Value, int, list[ConstantFactor]] | None:
    """The operand of `node` to multiply instead of its result, its channel axis, and constants to multiply as well."""
    if is_standard(node, "Add", "Sub"):
        constants = [index for index, value in enumerate(node.inputs) if constant_of(value) is not None]
        operand = node.inputs[1 - constants[0]] if len(constants) == 1 else None
        if operand is None:
            return None
        along = factors.reshape(-1, *(1,) * (-axis - 1))
        return operand, axis, [ConstantFactor(node, constants[0], along)]
    operand = node.inputs[0] if node.inputs else None
    if operand is None or constant_of(operand) is not None:
        return None
    position = _axis_before(node, operand, axis, len(factors))
    return None if position is None else (operand, position, [])


def _axis_before(node: ir.Node, operand: ir.Value, axis: int, channels: int) -> int | None:
    """The axis of `operand` that becomes `axis` of the result, both counted from the end; None if there is none."""
    if is_standard(node, *_HOMOGENEOUS):
        return axis
    if is_standard(node, *_POOLS):
        return axis if _is_second(node.outputs[0], axis) else None
    if is_standard(node, "Pad"):
        return axis if _adds_zeros(node, axis) else None
    before, after = operand.shape, node.outputs[0].shape
    if before is None or after is None:
        return None
    if is_standard(node, "Transpose"):
        rank = len(before)
        order = node.attributes.get_ints("perm", tuple(reversed(range(rank))))
        return order[axis + rank] - rank
    if is_standard(node, *_RESHAPES):
        # An element keeps its channel where the channels are as many and as far apart as before.
        distance = _elements(after, axis)
        for position in range(-1, -len(before) - 1, -1):
            if distance is not None and _elements(before, position) == distance and before[position] == channels:
                return position
    return None


def _adds_zeros(node: ir.Node, axis: int) -> bool:
    """Whether a Pad adds zeros, to other axes than `axis`."""
    pads = constant_of(node.inputs[1])
    fill = input_at(node, 2)
    tensor = constant_of(fill)
    is_zero = fill is None or (tensor is not None and not tensor.numpy().any())
    if (
        pads is None
        or not is_zero
        or len(node.inputs) > 3
        or node.attributes.get_string("mode", "constant") != "constant"
    ):
        return False
    return not pads.numpy().reshape(2, -1)[:, axis].any()


def _elements(shape: ir.Shape, axis: int) -> int | None:
    """Number of elements from one index of `axis` to the next; None if it is not known."""
    behind = list(shape)[len(shape) + axis + 1 :]
    known = [d for d in behind if isinstance(d, int)]
    return math.prod(known) if len(known) == len(behind) else None


def _is_second(value: ir.Value, axis: int) -> bool:
    """Whether `axis`, counted from the end, is the second from the front."""
    return value.shape is not None and len(value.shape) + axis == 1
