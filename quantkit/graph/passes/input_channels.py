"""Quantized activations whose readers have weights of their own for each channel, and how these weights are laid out.

Conv (also grouped and depthwise), ConvTranspose, Gemm and MatMul sum over the channels of their activation. A factor or
an offset of one channel can therefore be undone exactly in the weights of that channel, or in the bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.passes.edits import Names, name_of, replace_constant
from quantkit.graph.passes.prepare import constant_of, input_at, is_standard
from quantkit.types import QdqEdge, QdqPlan

SCALED = "quantkit.channel_scale"
"""Mark of a tensor that has been scaled: where the factor was folded into constants nothing else shows it."""

WeightRows = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]
"""Magnitudes of a reader's weights, a row for each output channel, and which channel each of them is of: [R, K]."""

_SHAPE_OPS = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity")


@dataclass(frozen=True)
class ChannelSite:
    """A quantized activation of which each channel has its own weights in every quantized reader.

    Attributes:
        tensor: name of the activation.
        axis: of its channels, counted from the end: -3 for [N, C, H, W].
        channels: number of them.
        readers: names of the nodes that read it quantized. Other nodes may read it too.
        is_depthwise: whether every reader is a convolution with one input channel per group. Its weights have a scale
            per output channel, hence per channel of the activation: a factor in them costs no precision.
        is_attention_output: whether shape operators alone lie between the activation and a product of two activations.
            Another operator there takes the fused attention kernel of TensorRT-RTX apart.
        is_grouped: whether the plan lets it share its scale with others, because a Concat joins them. Once edited it
            has a scale of its own, and the Concat no longer moves its INT8 values.
    """

    tensor: str
    axis: int
    channels: int
    readers: tuple[str, ...]
    is_depthwise: bool
    is_attention_output: bool
    is_grouped: bool

    def broadcast(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """One value, or one for each channel, in a shape that broadcasts against the activation."""
        array = np.asarray(values, np.float64)
        return array if array.ndim == 0 else array.reshape(-1, *(1,) * (-self.axis - 1))


def channel_sites(model: ir.Model, plan: QdqPlan) -> dict[str, ChannelSite]:
    """The sites of a plan by name of the activation, in the order of the plan.

    An activation is none if a quantized reader has no constant weight (a residual Add, a product in attention), if its
    readers differ in what they take for a channel, or if it has been scaled: that is the last thing that is done to it.
    Readers that only share the Q of others do not count: they read the float tensor once it is edited.

    Args:
        model: prepared; edited or not.
        plan: of this graph.

    Raises:
        ModelError: the plan was made from another graph.
    """
    nodes = {name_of(node): node for node in model.graph}
    grouped = frozenset[str]().union(*plan.groups)
    readers: dict[str, list[QdqEdge]] = {}
    for edge in plan.activations:
        node = nodes.get(edge.node)
        if node is None or name_of(node.inputs[edge.index]) != edge.tensor:
            raise ModelError(f"the plan does not fit the model: node {edge.node!r} does not read {edge.tensor!r}")
        if not edge.shared:
            readers.setdefault(edge.tensor, []).append(edge)
    found = {}
    for tensor, edges in readers.items():
        channels = {_channels(nodes[edge.node], edge.index) for edge in edges}
        known = channels.pop() if len(channels) == 1 else None
        value = nodes[edges[0].node].inputs[edges[0].index]
        if known is None or value is None or SCALED in value.meta:
            continue
        found[tensor] = ChannelSite(
            tensor,
            *known,
            readers=tuple(edge.node for edge in edges),
            is_depthwise=all(_is_depthwise(nodes[edge.node]) for edge in edges),
            is_attention_output=_is_attention_output(value),
            is_grouped=tensor in grouped,
        )
    return found


def follow_edits(plan: QdqPlan, model: ir.Model) -> QdqPlan:
    """The plan with its edges on the tensors that their nodes read now, after activations were shifted or scaled.

    Nodes that only shared the Q of an edited tensor, or of its group, read floats again: that Q is gone. A new plan may
    differ from it: whether the operand of a residual Add is quantized depends on who reads the sum.

    Args:
        plan: of the graph before.
        model: edited by `apply_shifts` or `apply_channel_scales`.
    """
    nodes = {name_of(node): node for node in model.graph}

    def followed(edges: tuple[QdqEdge, ...]) -> tuple[QdqEdge, ...]:
        return tuple(replace(edge, tensor=name_of(nodes[edge.node].inputs[edge.index])) for edge in edges)

    activations = followed(plan.activations)
    moved = {
        old.tensor: "its channels are quantized shifted or scaled"
        for old, new in zip(plan.activations, activations, strict=True)
        if old.tensor != new.tensor
    }
    apart = moved.keys() | {name for group in plan.groups if group & moved.keys() for name in group}
    activations = tuple(edge for edge in activations if not (edge.shared and edge.tensor in apart))
    groups = (group - moved.keys() for group in plan.groups)
    return replace(
        plan,
        activations=activations,
        weights=followed(plan.weights),
        groups=tuple(group for group in groups if len(group) > 1),
        skipped={**plan.skipped, **moved},
    )


def along_channels(node: ir.Node, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """One value for each input channel of a weighted `node`, in a shape that broadcasts against its weight."""
    weight = constant_weight(node)
    if is_standard(node, "Conv"):
        groups = node.attributes.get_int("group", 1)
        outputs, inputs = weight.shape[:2]
        spread = np.broadcast_to(values.reshape(groups, 1, inputs), (groups, outputs // groups, inputs))
        return spread.reshape(outputs, inputs, *(1,) * (weight.ndim - 2))
    if is_standard(node, "Gemm") and node.attributes.get_int("transB", 0) == 1:
        return values.reshape(1, -1)
    return values.reshape(-1, *(1,) * (weight.ndim - 1))


def weight_rows(model: ir.Model, site: ChannelSite) -> list[WeightRows]:
    """The weights of each quantized reader of `site`."""
    nodes = {name_of(node): node for node in model.graph}
    found = []
    for node in (nodes[name] for name in site.readers):
        weight = constant_weight(node)
        channel = along_channels(node, np.arange(site.channels, dtype=np.float64)).astype(np.int64)
        is_output_first = is_standard(node, "Conv") or node.attributes.get_int("transB", 0) == 1
        axis = 0 if is_output_first else 1
        rows = (np.moveaxis(a, axis, 0) for a in (np.abs(weight), np.broadcast_to(channel, weight.shape)))
        magnitudes, channels = (a.reshape(weight.shape[axis], -1) for a in rows)
        found.append((magnitudes.astype(np.float64), channels))
    return found


def weight_amax(rows: Sequence[WeightRows], num_channels: int) -> npt.NDArray[np.float32]:
    """The largest magnitude of the weights of each channel, over all `weight_rows` of a site: [C]."""
    largest = np.zeros(num_channels)
    for magnitudes, channels in rows:
        np.maximum.at(largest, channels.ravel(), magnitudes.ravel())
    return largest.astype(np.float32)


def constant_weight(node: ir.Node) -> npt.NDArray[np.floating]:
    """The weight of a reader of a site, as it is stored."""
    tensor = constant_of(node.inputs[1])
    assert tensor is not None  # only nodes with a constant weight belong to a site
    return np.asarray(tensor.numpy())


def float_type(value: ir.Value) -> np.dtype:
    """The element type of an activation."""
    return np.dtype((value.dtype or ir.DataType.FLOAT).numpy())


def as_stored(value: ir.Value, array: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """`array` rounded to the type of `value`, so that what undoes it undoes what the model holds."""
    return np.asarray(np.asarray(array, float_type(value)), np.float64)


def bias_input(node: ir.Node) -> tuple[ir.Node, int] | None:
    """Where a constant is added to the output channels of a weighted `node`, or could be: a node and which input of it.

    The node itself for Conv, ConvTranspose and Gemm; for MatMul the Add behind it, if nothing else reads the product.
    None if it would take another operator.
    """
    if is_standard(node, "MatMul"):
        return _bias_add(node)
    if not is_standard(node, "Conv", "ConvTranspose", "Gemm") or bias_factor(node) == 0.0:
        return None
    bias = input_at(node, 2)
    return (node, 2) if bias is None or constant_of(bias) is not None else None


def bias_factor(node: ir.Node) -> float:
    """What the bias of a weighted `node` is multiplied by: `beta` of Gemm."""
    return node.attributes.get_float("beta", 1.0) if is_standard(node, "Gemm") else 1.0


def add_to_bias(names: Names, node: ir.Node, delta: npt.NDArray[np.float64]) -> None:
    """Adds `delta` [C_out] to the output channels of a weighted `node` that has a `bias_input`.

    The bias of Conv, ConvTranspose and Gemm is created if there is none.
    """
    found = bias_input(node)
    assert found is not None  # the caller has asked
    owner, index = found
    tensor = constant_of(owner.inputs[index]) if len(owner.inputs) > index else None
    dtype = tensor.numpy().dtype if tensor is not None else constant_weight(node).dtype
    old = np.asarray(tensor.numpy(), np.float64) if tensor is not None else np.zeros(())
    new = (old + delta / bias_factor(node)).astype(dtype)
    replace_constant(names, owner, index, new, name=f"{name_of(node)}_bias")


def main_graph_values(model: ir.Model) -> dict[str, ir.Value]:
    """Inputs and results of the main graph by name."""
    return {name_of(v): v for v in model.graph.inputs} | {name_of(v): v for node in model.graph for v in node.outputs}


def _channels(node: ir.Node, index: int) -> tuple[int, int] | None:
    """Axis, from the end, and number of the channels that `node` sums over; None if it has no weights for each."""
    tensor = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if index != 0 or tensor is None:
        return None
    shape = tensor.numpy().shape
    if is_standard(node, "Conv"):
        return 1 - len(shape), shape[1] * node.attributes.get_int("group", 1)
    if is_standard(node, "ConvTranspose"):
        return 1 - len(shape), shape[0]
    if is_standard(node, "Gemm") and not node.attributes.get_int("transA", 0):
        return -1, shape[1 if node.attributes.get_int("transB", 0) else 0]
    if is_standard(node, "MatMul") and len(shape) == 2:
        return -1, shape[0]
    return None


def _is_depthwise(node: ir.Node) -> bool:
    return is_standard(node, "Conv") and constant_weight(node).shape[1] == 1


def _is_attention_output(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and is_standard(node, *_SHAPE_OPS) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or not is_standard(node, "MatMul", "Attention"):
        return False
    return all(constant_of(operand) is None for operand in node.inputs)


def _bias_add(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add behind a MatMul, and which of its inputs is the constant; None if something else reads the product."""
    product = node.outputs[0]
    if not is_standard(node, "MatMul") or len(product.uses()) != 1 or product.is_graph_output():
        return None
    (use,) = product.uses()
    if not is_standard(use.node, "Add") or use.node.graph is not node.graph:
        return None
    return (use.node, 1 - use.idx) if constant_of(use.node.inputs[1 - use.idx]) is not None else None
