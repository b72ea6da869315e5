"""Q/DQ placement for TensorRT: from a prepared graph to a `QdqPlan`, without scales.

The rules are NVIDIA's Q/DQ placement recommendations (TensorRT documentation, "Working with Quantized Types",
"Explicit Quantization"):

1. Both inputs of Conv, ConvTranspose, Gemm and MatMul are quantized, or neither: the activation per tensor, a constant
   weight per output channel. The bias and the output stay in float, so that the epilogue fuses.
2. A residual Add fuses into the convolution before it, and then the *other* operand decides the precision of the fused
   layer: it is quantized; the edge from the convolution to the Add is not.
3. A residual stream that is normalized (transformers) stays in float: it fuses with the normalization instead.
4. A tensor is quantized once, for all of its readers: `quantkit.graph.placement.shared_scales`.
5. What INT8 does not speed up stays in float, if it is little: `quantkit.graph.placement.cost_rule`.
6. A combined projection of query, key and value gets a per-tensor weight scale: TensorRT-RTX moves the split into heads
   before the matrix product, and with per-channel scales it then multiplies in float.
7. FP8 leaves out rule 2 and what rule 4 shares with an Add: its 3 bits of mantissa cost a residual stream more accuracy
   than INT8 does, and the Add fuses in FP16 as well.
"""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.passes.edits import INSIDE, ancestors, is_read_inside, name_of
from quantkit.graph.passes.prepare import COPY_OPS, FLOAT_TYPES, WEIGHTED_OPS, constant_of, is_standard
from quantkit.graph.placement.cost_rule import find_unprofitable
from quantkit.graph.placement.format_rules import format_obstacle, weight_granularity
from quantkit.graph.placement.shared_scales import SharedScales
from quantkit.graph.share import float_reason, is_product
from quantkit.types import INT8, QdqEdge, QdqPlan, QuantFormat, weight_format

_NORMALIZATIONS = (
    "LayerNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
)


def plan_tensorrt(
    model: ir.Model,
    *,
    exclude: Sequence[str] = (),
    quantize_all: bool = False,
    fmt: QuantFormat = INT8,
    apart: Collection[str] = (),
) -> QdqPlan:
    """Plans Q/DQ for TensorRT 8.6 to 11 and TensorRT-RTX.

    Args:
        model: prepared by `quantkit.graph.passes.prepare.prepare`.
        exclude: node names, operator types, or shell patterns over node names that stay in float.
        quantize_all: also what INT8 does not speed up (`quantkit.graph.placement.cost_rule`).
        fmt: of activations: INT8 or FP8, which `quantkit.graph.placement.format_rules` restricts.
        apart: nodes that are planned otherwise: in `quantkit.graph.placement.weight_only`.

    Raises:
        ModelError: no node can be quantized, or an exclusion matches nothing.
    """
    skipped: dict[str, str] = {}
    kind: Literal["int", "float"] = "float" if fmt.kind == "float" else "int"
    activations: list[QdqEdge] = []
    weights: list[QdqEdge] = []
    out = match_nodes(model, exclude)
    costly = {} if quantize_all else find_unprofitable(model).in_float
    for node in model.graph:
        if is_product(node) and float_reason(node):
            skipped[name_of(node)] = float_reason(node)
        if not is_standard(node, *WEIGHTED_OPS) or name_of(node) in apart:
            continue
        no_kernel = format_obstacle(node, fmt, quantize_all=quantize_all)
        reason = out.get(name_of(node)) or _obstacle(node) or no_kernel or costly.get(name_of(node))
        if reason:
            skipped[name_of(node)] = reason
            continue
        for index in WEIGHTED_OPS[node.op_type]:
            value = node.inputs[index]
            if constant_of(value) is None:
                activations.append(QdqEdge(name_of(value), name_of(node), index, format=fmt))
            else:
                axis = None if _is_cut_into_heads(node) else weight_axis(node, index)
                axis = weight_granularity(node, axis, fmt)
                weights.append(QdqEdge(name_of(value), name_of(node), index, axis, weight_format(axis, kind=kind)))
    if not activations and not apart:
        kept = next(iter(skipped.values()), "it has no Conv, ConvTranspose, Gemm or MatMul")
        raise ModelError(f"the model has no node to quantize: {kept}")
    weighted = {edge.node for edge in activations}
    read_quantized = {edge.tensor for edge in activations}
    for node in model.graph:
        if fmt.kind != "float" and is_standard(node, "Add") and name_of(node) not in out:
            edge = _skip_edge(node, weighted, read_quantized, skipped)
            if edge is not None:
                activations.append(edge)
        elif name_of(node) in out:
            skipped.setdefault(name_of(node), out[name_of(node)])
    normalized = {value for node in model.graph for value in node.outputs if _is_normalized(value)}
    shared = SharedScales(model, activations, out, normalized)
    added = shared.added(only_copies=fmt.kind == "float")
    activations += [replace(edge, format=fmt) for edge in added]
    quantized = {edge.tensor for edge in activations}
    return QdqPlan(
        activations=tuple(activations),
        weights=tuple(weights),
        groups=shared.groups(),
        # A node and a tensor may share a name: the reason of the node is more specific.
        skipped=_float_reasons(model, quantized, weights) | skipped,
        operators=frozenset(skipped),
        excluded=frozenset(out),
        target="tensorrt",
    )


def exclude_tensors(plan: QdqPlan, tensors: Mapping[str, str]) -> QdqPlan:
    """The plan without the operators that read any of `tensors` (name → reason: those that calibration skipped).

    An operator with one float input runs in float, so that its other inputs are not quantized either.
    """
    hit = {edge.node: tensors[edge.tensor] for edge in plan.activations if edge.tensor in tensors}
    if not hit:
        return plan
    activations = _without_idle(plan, [e for e in plan.activations if e.node not in hit])
    weights = tuple(e for e in plan.weights if e.node not in hit)
    quantized = {e.tensor for e in activations}
    groups = (frozenset(group & quantized) for group in plan.groups)
    left = dict.fromkeys(e.tensor for e in (*plan.activations, *plan.weights) if e.node in hit)
    for edge in (*activations, *weights):
        left.pop(edge.tensor, None)
    return replace(
        plan,
        activations=activations,
        weights=weights,
        groups=tuple(group for group in groups if len(group) > 1),
        skipped={
            **plan.skipped,
            **{tensor: tensors.get(tensor, "read by an operator that runs in float") for tensor in left},
            **{node: f"it reads a tensor that is {reason}" for node, reason in hit.items()},
        },
    )


def _without_idle(plan: QdqPlan, edges: Sequence[QdqEdge]) -> tuple[QdqEdge, ...]:
    """Without edges that share the Q of a tensor, or of its group, that no other reader needs any more."""
    needed = {edge.tensor for edge in edges if not edge.shared}
    for group in plan.groups:
        if group & needed:
            needed |= group
    return tuple(edge for edge in edges if not edge.shared or edge.tensor in needed)


def match_nodes(model: ir.Model, patterns: Iterable[str]) -> dict[str, str]:
    """Name of every node that an exclusion matches → reason.

    Raises:
        ModelError: a pattern matches neither a node name nor an operator type of the model.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        names = [
            name_of(node)
            for node in model.graph
            if pattern in (node.op_type, name_of(node)) or fnmatch.fnmatchcase(name_of(node), pattern)
        ]
        if not names:
            raise ModelError(f"--exclude {pattern!r} matches no node name and no operator type of the model")
        found |= dict.fromkeys(names, f"excluded by {pattern!r}")
    return found


def exact_patterns(model: ir.Model, names: Iterable[str]) -> list[str]:
    """For `match_nodes`: what matches these nodes alone, also where one is called as an operator type."""
    types = {node.op_type for node in model.graph}
    escaped = {name: glob.escape(name) for name in names}
    return [f"[{name[0]}]{name[1:]}" if pattern in types else pattern for name, pattern in escaped.items()]


def weight_axis(node: ir.Node, index: int) -> int | None:
    """Output-channel axis of a constant input; None for a per-tensor scale.

    Conv [C_out, C_in / g, ...]: 0. ConvTranspose [C_in, C_out / g, ...]: 1. Gemm B: 0 if transB else 1.
    MatMul B [K, N]: 1; a batch of matrices gets one scale, because ONNX Runtime has no kernel for per-column scales
    there. A constant left operand [..., M, K] has its output rows in the last but one dimension.
    """
    tensor = constant_of(node.inputs[index])
    rank = len(tensor.shape) if tensor is not None else 0
    if rank < 2:
        return None
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        transposed = node.attributes.get_int("transB" if index == 1 else "transA", 0)
        return (0 if transposed else 1) if index == 1 else (1 if transposed else 0)
    if index == 1:
        return 1 if rank == 2 else None
    return rank - 2


def fused_source(value: ir.Value | None) -> ir.Node | None:
    """The weighted node whose fused epilogue produces `value`: Conv → [BatchNormalization | bias Add | scale Mul]."""
    node = value.producer() if value is not None else None
    if node is None or value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    if is_standard(node, *WEIGHTED_OPS):
        return node
    if is_standard(node, "BatchNormalization"):
        return fused_source(node.inputs[0])
    if is_standard(node, "Add", "Mul"):
        left, right = node.inputs
        if constant_of(right) is not None:
            return fused_source(left)
        if constant_of(left) is not None:
            return fused_source(right)
    return None


def probability_tensors(model: ir.Model) -> frozenset[str]:
    """Names of the tensors that hold outputs of Softmax or Sigmoid, copies included: probabilities in [0, 1]."""
    found: set[str] = set()
    for node in model.graph:
        if is_standard(node, "Softmax", "Sigmoid", "HardSigmoid"):
            found |= _reached_by_copies(node.outputs[0])
    return frozenset(found)


def float_activations(model: ir.Model) -> tuple[str, ...]:
    """Names of all float activations of the main graph, model inputs included, in network order."""
    values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs if v.name)]
    return tuple(
        name_of(v)
        for v in values
        if v.dtype in FLOAT_TYPES and isinstance(v.type, ir.TensorType) and constant_of(v) is None
    )


def _obstacle(node: ir.Node) -> str | None:
    indices = WEIGHTED_OPS[node.op_type]
    values = [node.inputs[i] for i in indices]
    for value in values:
        if value is None or value.dtype is None:
            return f"the type of its inputs is unknown: {_unknown_operator(value)}"
        if value.dtype not in FLOAT_TYPES:
            return f"its inputs are {value.dtype.name}, not FP32 or FP16"
    constants = [constant_of(v) is not None for v in values]
    if all(constants):
        return "both inputs are constants"
    if node.op_type in ("Conv", "ConvTranspose") and not constants[1]:
        return "its weight is computed at run time"
    for value, constant in zip(values, constants, strict=True):
        if constant:
            tensor = constant_of(value)
            if tensor is not None and tensor.size == 0:
                return "its weight is empty"
            if is_read_inside(value, node):
                return INSIDE
    return None


def _unknown_operator(value: ir.Value | None) -> str:
    """The operator of another domain that hides the type of `value`."""
    for node in ancestors([value]):
        if not is_standard(node, node.op_type):
            return f"no runtime here knows the operator {node.domain}.{node.op_type} before it"
    return "an operator before it does not say"


def _skip_edge(node: ir.Node, weighted: set[str], read_quantized: set[str], skipped: dict[str, str]) -> QdqEdge | None:
    """The operand of a residual Add that has to be quantized; None if `node` is not a residual Add."""
    values = list(node.inputs)
    if any(v is None or v.dtype not in FLOAT_TYPES or constant_of(v) is not None for v in values):
        return None
    sources = [fused_source(v) for v in values]
    candidates = [i for i, source in enumerate(sources) if source is not None and name_of(source) in weighted]
    if not candidates or values[0] is values[1] or not _may_be_equal(*(v.shape for v in values if v is not None)):
        return None
    main = candidates[0] if len(candidates) == 1 else _longer_branch(values)
    skip = 1 - main
    source = sources[main]
    if _is_normalized(node.outputs[0]):
        skipped[name_of(node)] = "residual stream that is normalized: it fuses in float"
        return None
    if source is not None and source.op_type in ("MatMul", "Gemm") and name_of(node.outputs[0]) not in read_quantized:
        skipped[name_of(node)] = "residual stream that no quantized operator reads: it stays in float"
        return None
    return QdqEdge(name_of(values[skip]), name_of(node), skip)


def _may_be_equal(first: ir.Shape | None, second: ir.Shape | None) -> bool:
    """Whether two shapes can be the same as far as they are known: a broadcast operand is not a skip connection."""
    if first is None or second is None:
        return True
    known = [(a, b) for a, b in zip(first, second, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(first) == len(second) and all(a == b for a, b in known)


def _is_cut_into_heads(node: ir.Node) -> bool:
    """Whether the output is split into operands of attention: a combined projection of query, key and value."""
    operands: set[tuple[ir.Node, int]] = set()
    cuts = 0
    stack = [node.outputs[0]]
    while stack:
        value = stack.pop()
        for user, index in value.uses():
            if is_standard(user, "MatMul") and all(constant_of(v) is None for v in user.inputs):
                operands.add((user, index))
            elif (index == 0 and is_standard(user, *COPY_OPS, "Gather")) or (
                is_standard(user, "Add", "Mul", "Div") and constant_of(user.inputs[1 - index]) is not None
            ):
                cuts += is_standard(user, "Split", "Slice", "Gather")
                stack.extend(user.outputs)
    return cuts > 0 and len(operands) > 1


def _longer_branch(values: Sequence[ir.Value | None]) -> int:
    """Which of two operands has more nodes that the other does not share: the main branch of a residual block."""
    first, second = (ancestors([v]) for v in values)
    return 0 if len(first - second) >= len(second - first) else 1


def _is_normalized(value: ir.Value) -> bool:
    users = {user for user, _ in value.uses()}
    if any(user.op_type in _NORMALIZATIONS for user in users):
        return True
    # Before opset 17 exporters write LayerNormalization out: x - mean(x), where a pooling mean is not subtracted.
    means = [user.outputs[0] for user in users if is_standard(user, "ReduceMean")]
    return any(is_standard(user, "Sub") and user in users for mean in means for user, _ in mean.uses())


def _reached_by_copies(value: ir.Value) -> set[str]:
    reached: set[str] = set()
    stack = [value]
    while stack:
        current = stack.pop()
        reached.add(name_of(current))
        for user, index in current.uses():
            if index == 0 and is_standard(user, *COPY_OPS):
                stack.extend(v for v in user.outputs if name_of(v) not in reached)
    return reached


def _float_reasons(model: ir.Model, quantized: set[str], weights: Sequence[QdqEdge]) -> dict[str, str]:
    """Every float tensor of the main graph that stays float → why."""
    reasons: dict[str, str] = {}
    edges = {(edge.node, edge.index) for edge in weights}
    for value in model.graph.initializers.values():
        # A weight that something else reads too is stored twice: as INT8 and, for the others, in float.
        uses = [(user, i) for user, i in value.uses() if (name_of(user), i) not in edges]
        if value.dtype in FLOAT_TYPES and uses:
            users = sorted({user.op_type for user, _ in uses})
            is_bias = all(is_standard(u, *WEIGHTED_OPS) and i == 2 for u, i in uses)
            reasons[name_of(value)] = "bias: added in float" if is_bias else f"constant of {', '.join(users)}"
    for name in float_activations(model):
        if name not in quantized:
            reasons[name] = ""
    values = {name_of(v): v for v in model.graph.inputs} | {name_of(v): v for n in model.graph for v in n.outputs}
    for name in [n for n, reason in reasons.items() if not reason]:
        reasons[name] = _float_reason(values[name])
    return reasons


def _float_reason(value: ir.Value) -> str:
    node = value.producer()
    users = [user for user, _ in value.uses()]
    if value.is_graph_output():
        return "model output: stays in float"
    if fused_source(value) is not None and node is not None:
        return f"fuses with {node.op_type} into {users[0].op_type}"
    if any(is_standard(user, "Softmax", "LogSoftmax") for user in users):
        return "softmax input: stays in float"
    if _is_normalized(value):
        return "normalization input: stays in float"
    if users:
        return f"read by {', '.join(sorted({u.op_type for u in users}))}, which runs in float"
    return "not read"
