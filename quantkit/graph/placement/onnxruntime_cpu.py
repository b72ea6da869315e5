"""Q/DQ placement for ONNX Runtime's x86 kernels: from a prepared graph to a `QdqPlan`, without scales.

ONNX Runtime replaces an operator by an integer kernel only if *all* its inputs are dequantized and, but for MatMul and
Gemm, its output is read only by a QuantizeLinear ("QDQ node units"). Measured on ONNX Runtime 1.31:

1. A Conv whose output is not quantized is worse than float: its weight is dequantized at every run (3 to 6 times
   slower than FP32). So a Conv gets Q/DQ on its input and output, and every reader of the output reads the DQ.
2. A Relu or a Clip from 0 between an operator and its Q is free: saturation replaces it.
3. Add, Mul, Sigmoid, LeakyRelu, pools and Concat between quantized operators run in integers; copies keep the scale.
   Leaving the Sigmoid and Mul of SiLU, or squeeze-and-excite branches, in float costs more than it saves.
4. MatMul and Gemm read integers and write float. Products of two activations, softmax, normalizations and residual
   streams that are normalized stay in float: integers were not faster there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.passes.edits import INSIDE, is_read_inside, name_of
from quantkit.graph.passes.prepare import COPY_OPS, WEIGHTED_OPS, constant_of, input_at, is_standard
from quantkit.graph.placement.activation_bounds import clip_bounds
from quantkit.graph.placement.tensorrt import match_nodes, weight_axis
from quantkit.types import UINT8, QdqEdge, QdqPlan, weight_format

_INTEGER_OPS = ("Add", "Mul", "Sigmoid", "LeakyRelu", "GlobalAveragePool", "AveragePool", "Concat")
"""Computed in integers between Q/DQ."""

_COPY_OPS = (*COPY_OPS, "Gather", "Expand", "Tile", "Resize", "Pad", "DepthToSpace", "SpaceToDepth")
"""Operators that do not change values: input and output share a scale."""

_FLOAT_ACTIVATIONS = (
    *("Relu", "Clip", "HardSwish", "HardSigmoid", "Tanh", "Gelu", "Elu", "Selu", "Celu", "PRelu", "Softplus"),
    *("Softsign", "Mish", "Swish", "ThresholdedRelu"),
)
"""Computed in float between a DQ and a Q."""

_POINTWISE_OPS = ("Sub", "Div", "Pow", "Sqrt", "Erf", "Exp", "Neg", "Abs", "Min", "Max", "BatchNormalization")
"""Float operators behind which a Conv still belongs to a chain of quantized operators."""

_SMALL = 1 / 4
"""A float operand of a broadcast Mul or Add is quantized for it up to this part of the output's elements."""


def plan_cpu(model: ir.Model, *, exclude: Sequence[str] = (), weight_bits: int = 8, name: str = "the model") -> QdqPlan:
    """Plans Q/DQ for ONNX Runtime's CPU kernels.

    Args:
        model: prepared, and best also rewritten by `quantkit.graph.passes.rewrites_cpu.rewrite_for_cpu`.
        exclude: node names, operator types, or shell patterns over node names that stay in float.
        weight_bits: 7 for processors that would saturate with 8.
        name: of the model, for errors.

    Raises:
        ModelError: no node can be quantized, or an exclusion matches nothing.
    """
    placing = _Placing(model, match_nodes(model, exclude))
    if not placing.weighted:
        kept = next(iter(placing.skipped.values()), "it has no Conv, Gemm or MatMul")
        raise ModelError(f"{name} has no node to quantize: {kept}{placing.remedy()}")
    placing.seed()
    placing.spread()
    return QdqPlan(
        activations=tuple(placing.edges()),
        weights=tuple(
            QdqEdge(name_of(node.inputs[1]), name_of(node), 1, axis, weight_format(axis, bits=weight_bits))
            for node in placing.weighted
            for axis in [weight_axis(node, 1)]
        ),
        groups=placing.groups(),
        skipped=placing.skipped,
        excluded=frozenset(placing.out),
        target="cpu",
    )


class _Placing:
    """The set of quantized values, grown from the weighted operators."""

    def __init__(self, model: ir.Model, out: dict[str, str]) -> None:
        self.graph = model.graph
        self.out = out
        self.skipped = dict(out)
        self.weighted: dict[ir.Node, None] = {}
        self.integer: dict[ir.Node, None] = {}
        self.quantized: dict[ir.Value, None] = {}
        self._folded: set[ir.Node] = set()
        for node in self.graph:
            if is_standard(node, *WEIGHTED_OPS):
                reason = out.get(name_of(node)) or self._obstacle(node)
                if reason:
                    self.skipped[name_of(node)] = reason
                else:
                    self.weighted[node] = None
        self._leave_islands()
        self.wanted = self._wanted()

    def remedy(self) -> str:
        """What helps a model that computes in another type throughout; empty for others."""
        operators = [n for n in self.graph if is_standard(n, *WEIGHTED_OPS) and name_of(n) not in self.out]
        types = {value.dtype for node in operators for value in node.inputs[:2] if value is not None}
        if not types or ir.DataType.FLOAT in types:
            return ""
        return "; export it in FP32" + (", or use --target tensorrt" if types == {ir.DataType.FLOAT16} else "")

    def seed(self) -> None:
        """Quantizes the inputs of weighted operators and the outputs of Conv."""
        for node in self.weighted:
            if node.inputs[0] is not None:
                self.quantized[node.inputs[0]] = None
            if node.op_type == "Conv":
                self._quantize_output(node.outputs[0])

    def spread(self) -> None:
        """Quantizes what lies between quantized operators and has an integer kernel."""
        for node in self.graph:
            if node in self.weighted or name_of(node) in self.out:
                continue
            if not is_standard(node, *_INTEGER_OPS, *_COPY_OPS, *_FLOAT_ACTIVATIONS):
                continue
            inputs = _operands(node)
            outputs = [v for v in node.outputs if v.uses() or v.is_graph_output()]
            if not self.wanted.intersection(outputs) or not all(self._only_read_here(v) for v in outputs):
                continue
            if not self._runs_in_integers(node, inputs):
                continue
            self.quantized |= dict.fromkeys(inputs)
            if is_standard(node, *_FLOAT_ACTIVATIONS):
                self.quantized |= dict.fromkeys(outputs)
                continue
            self.integer[node] = None
            for value in outputs:
                self._quantize_output(value)

    def edges(self) -> Iterator[QdqEdge]:
        """Every edge that goes through Q/DQ, in network order."""
        position = {node: i for i, node in enumerate(self.graph)}
        order = {v: i for i, v in enumerate(self._values())}
        for value in sorted(self.quantized, key=lambda v: order[v]):
            producer = value.producer()
            # An integer kernel outputs quantized values only; a float tensor stays as it is for its float readers.
            only_quantized = producer is not None and (
                producer in self.weighted or producer in self.integer or producer in self._folded
            )
            for user, index in sorted(value.uses(), key=lambda use: (position.get(use[0], -1), use[1])):
                if user.graph is not self.graph:
                    continue
                reads_quantized = (user in self.weighted and index == 0) or user in self.integer
                if only_quantized or reads_quantized:
                    yield QdqEdge(name_of(value), name_of(user), index, format=UINT8)

    def groups(self) -> tuple[frozenset[str], ...]:
        """Copies share a scale with their input; a Concat with the inputs that nothing else reads."""
        groups: list[set[ir.Value]] = []

        def join(members: Iterable[ir.Value]) -> None:
            joined = set(members)
            for group in [g for g in groups if g & joined]:
                joined |= group
                groups.remove(group)
            groups.append(joined)

        for node in self.integer:
            outputs = [v for v in node.outputs if v in self.quantized]
            if is_standard(node, *_COPY_OPS):
                join(v for v in (node.inputs[0], *outputs) if v is not None)
            elif node.op_type == "Concat":
                inputs = [v for v in _operands(node) if v in self.quantized]
                # A folded Relu or Clip needs a zero point of 0, a range of its own and nothing below.
                own = [v for v in inputs if len(v.uses()) == 1 and not self._is_bounded(v)]
                if own and not any(self._is_bounded(v) for v in inputs) and outputs:
                    join((*own, *outputs))
        return tuple(frozenset(name_of(v) for v in group) for group in groups if len(group) > 1)

    def _is_bounded(self, value: ir.Value) -> bool:
        source: ir.Value | None = value
        while source is not None:
            producer = source.producer()
            if producer is None:
                return False
            if is_standard(producer, "Relu", "Clip"):
                return True
            source = producer.inputs[0] if is_standard(producer, *_COPY_OPS) else None
        return False

    def _runs_in_integers(self, node: ir.Node, inputs: Sequence[ir.Value]) -> bool:
        known = [value in self.quantized for value in inputs]
        if node.op_type == "Concat":
            return any(known) and len(inputs) == len(node.inputs)
        if node.op_type in ("Add", "Mul"):
            if len(inputs) != 2 or not any(known):
                return False
            return all(known) or _is_small(inputs[known.index(False)], node.outputs[0])
        return bool(known) and known[0]

    def _wanted(self) -> set[ir.Value]:
        """Values from which quantized operators, or one float activation at a time, lead to a weighted operator."""
        wanted: set[ir.Value] = set()
        for node in reversed(list(self.graph)):
            if node in self.weighted:
                if node.inputs[0] is not None:
                    wanted.add(node.inputs[0])
            elif (
                is_standard(node, *_INTEGER_OPS, *_COPY_OPS, *_FLOAT_ACTIVATIONS)
                and name_of(node) not in self.out
                and wanted.intersection(node.outputs)
            ):
                wanted.update(_operands(node))
        return wanted

    def _leave_islands(self) -> None:
        """Leaves a Conv in float that reads floats and leads to no other weighted operator: patch embeddings."""
        alone = []
        for node in self.weighted:
            producer = node.inputs[0].producer() if node.inputs[0] is not None else None
            entered = producer is None or not is_standard(
                producer, *WEIGHTED_OPS, *_INTEGER_OPS, *_COPY_OPS, *_FLOAT_ACTIVATIONS
            )
            if node.op_type == "Conv" and entered and not self._leads_on(node.outputs[0]):
                alone.append(node)
        if len(alone) == len(self.weighted):
            return
        for node in alone:
            del self.weighted[node]
            self.skipped[name_of(node)] = (
                "no quantized operator before or after it: Q and DQ would cost more than they save"
            )

    def _leads_on(self, value: ir.Value) -> bool:
        passable = (*_INTEGER_OPS, *_COPY_OPS, *_FLOAT_ACTIVATIONS, *_POINTWISE_OPS)
        seen: set[ir.Value] = set()
        stack = [value]
        while stack:
            current = stack.pop()
            seen.add(current)
            for user, _ in current.uses():
                if user in self.weighted:
                    return True
                if is_standard(user, *passable):
                    stack.extend(v for v in user.outputs if v not in seen)
        return False

    def _quantize_output(self, value: ir.Value) -> None:
        """Quantizes the output of an integer kernel, or that of the Relu or Clip after it that saturation replaces."""
        uses = list(value.uses())
        node = uses[0][0] if len(uses) == 1 else None
        if (
            node is not None
            and value not in self.quantized
            and is_standard(node, "Relu", "Clip")
            and _starts_at_zero(node)
            and name_of(node) not in self.out
            and self._only_read_here(node.outputs[0])
        ):
            self._folded.add(node)
            value = node.outputs[0]
        self.quantized[value] = None

    def _only_read_here(self, value: ir.Value) -> bool:
        return not value.is_graph_output() and all(user.graph is self.graph for user, _ in value.uses())

    def _obstacle(self, node: ir.Node) -> str | None:
        data, weight = node.inputs[0], node.inputs[1]
        if node.op_type == "ConvTranspose":
            return "ONNX Runtime has no integer kernel for ConvTranspose"
        if any(v is None or v.dtype is not ir.DataType.FLOAT for v in (data, weight)):
            return "its inputs are not FP32"
        tensor = constant_of(weight)
        if constant_of(data) is not None:
            return "its first input is a constant"
        if tensor is None:
            if node.op_type == "MatMul":
                return "a product of two activations: integers are not faster"
            return "its weight is computed at run time"
        if tensor.size == 0:
            return "its weight is empty"
        if is_read_inside(weight, node):
            return INSIDE
        bias = input_at(node, 2)
        if bias is not None and constant_of(bias) is None:
            return "its bias is computed at run time"
        if node.op_type == "Conv":
            if not self._only_read_here(node.outputs[0]):
                return "its output is a model output: it stays in float"
            return None
        if len(tensor.shape) != 2:
            return "its weight has not two dimensions"
        return _gemm_obstacle(node, tensor, constant_of(bias)) if node.op_type == "Gemm" else None

    def _values(self) -> Iterator[ir.Value]:
        yield from self.graph.inputs
        for node in self.graph:
            yield from node.outputs


def _gemm_obstacle(node: ir.Node, weight: ir.TensorProtocol, bias: ir.TensorProtocol | None) -> str | None:
    attributes = node.attributes
    if attributes.get_int("transA", 0) or {attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)} != {
        1.0
    }:
        return "transA, alpha or beta is set, which the integer kernel does not take"
    channels = weight.shape[0 if attributes.get_int("transB", 0) else 1]
    if bias is not None and (bias.size != channels or bias.shape[-1] != channels):
        return "its bias has not one value for each output"
    return None


def _operands(node: ir.Node) -> list[ir.Value]:
    """Inputs that are activations: no shapes, indices or constants."""
    inputs = node.inputs if node.op_type in ("Add", "Mul", "Concat") else node.inputs[:1]
    return [v for v in inputs if v is not None and v.dtype is ir.DataType.FLOAT and constant_of(v) is None]


def _starts_at_zero(node: ir.Node) -> bool:
    if is_standard(node, "Relu"):
        return True
    return is_standard(node, "Clip") and clip_bounds(node)[0] == 0 < clip_bounds(node)[1]


def _is_small(value: ir.Value, output: ir.Value) -> bool:
    """Whether `value` is broadcast over most of `output`, like the gate of a squeeze-and-excite block."""
    if value.shape is None or output.shape is None or len(value.shape) != len(output.shape):
        return False
    ratio = 1.0
    for own, whole in zip(value.shape, output.shape, strict=True):
        if own == 1 and whole != 1:
            ratio /= whole if isinstance(whole, int) else 1 / _SMALL
    return ratio <= _SMALL
