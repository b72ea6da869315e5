"""Constant expressions become constants: weights that a graph computes, and the branch that an If always takes.

Weight normalization, weight standardization, unfused branches, and weights that are sliced, joined, scaled or adapted
are expressions of constants. Evaluated once, they are weights like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from quantkit.graph.passes.edits import Names, ancestors, inner_graphs, name_of
from quantkit.machine import raise_if_out_of_memory

LARGEST_FOLDED_BYTES = 1 << 30
"""All results that replace expressions of a model, together: a few bytes can describe any size."""

_ALWAYS_FOLDED_BYTES, _LARGEST_INDEX_BYTES = 1 << 16, 1 << 14
"""Results that no weighted operator reads are stored up to here, and wherever their operands are larger. Tables of
indices (of ScatterND, for caches) are larger than what computes them, and decide on nothing.
"""

_READ_AS_SHAPE = 1024
"""Elements of a constant whose values may decide on a shape."""

_WEIGHTED = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "If": (0,), "Einsum": (0, 1)}
"""Where a constant matters, by operator: weights, biases, conditions."""

_NEVER = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Bernoulli", "Multinomial", "Dropout"),
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    }
)
"""Operators that quantize, or whose result is drawn by chance."""


def fold_constants(model: ir.Model, fixed: Mapping[str, np.ndarray] | None = None) -> None:
    """Evaluates what constants decide, in place: expressions of the main graph, and each If whose condition is one.

    Args:
        model: without functions and Constant nodes, in topological order.
        fixed: values of inputs by name. They decide conditions; what else they are read for is left to read them.
    """
    while True:
        _fold(model, fixed or {})
        if not _take_branches(model):
            return


def decided_by(model: ir.Model, inputs: Collection[str]) -> list[str]:
    """Which of these inputs the conditions of the main graph's Ifs are computed from, if from nothing else.

    Args:
        model: as it was read.
        inputs: names.
    """
    found: set[str] = set()
    for node in model.graph:
        if node.op_type == "If" and node.domain in ("", "ai.onnx"):
            read = [v for n in ancestors(node.inputs) for v in n.inputs] + list(node.inputs)
            names = {name_of(v) for v in read if v is not None and v.is_graph_input() and not v.is_initializer()}
            found |= names if names <= set(inputs) else set()
    return sorted(found)


def _fold(model: ir.Model, fixed: Mapping[str, np.ndarray]) -> None:
    opset, left = model.graph.opset_imports.get("", 1), LARGEST_FOLDED_BYTES
    known = {value: fixed[name_of(value)] for value in model.graph.inputs if name_of(value) in fixed}
    by_fixed, conditions = set(known), _conditions(model.graph) if known else set()
    needed = _needed(model.graph, known)
    folded: set[ir.Node] = set()
    for node in model.graph:
        arguments = _arguments(node, known)
        if any(value in by_fixed for value in node.inputs):
            by_fixed.update(node.outputs)
            if node not in conditions:
                continue
        if arguments is None or any(value.is_graph_output() for value in node.outputs):
            continue
        size = _result_bytes(node, arguments, opset)
        is_index = all(a.dtype.kind in "iub" for a in arguments.values())
        limit = _LARGEST_INDEX_BYTES if is_index else _ALWAYS_FOLDED_BYTES
        grows = size is None or size > max(sum(a.nbytes for a in arguments.values()), limit)
        if size is None or size > left or (grows and node not in needed):
            continue
        results = _evaluate(node, arguments, opset)
        if results is not None:
            left -= size
            folded.add(node)
            known.update(zip(node.outputs, results, strict=True))
    names = Names(model)
    for value, array in known.items():
        uses = [use for use in value.uses() if use.node not in folded]
        if value in by_fixed:
            uses = [use for use in uses if use.node.op_type == "If" and use.idx == 0]
        if uses:
            constant = names.initializer(f"{value.name}_folded", array)
            for use in uses:
                use.node.replace_input_with(use.idx, constant)
    if folded:
        passes.RemoveUnusedNodesPass()(model)


def _conditions(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that conditions are made by."""
    return ancestors(node.inputs[0] for node in graph if node.op_type == "If" and node.domain in ("", "ai.onnx"))


def _needed(graph: ir.Graph, known: Container[ir.Value]) -> set[ir.Node]:
    """Nodes that weights, biases and conditions are made by, if constants or what is known make them."""
    varying = {value for value in graph.inputs if not value.is_initializer() and value not in known}
    for node in graph:
        if not varying.isdisjoint(node.inputs):
            varying.update(node.outputs)
    return ancestors(
        node.inputs[index]
        for node in graph
        for index in _WEIGHTED.get(node.op_type, ())
        if node.domain in ("", "ai.onnx", "com.microsoft")
        and index < len(node.inputs)
        and node.inputs[index] not in varying
    )


def _arguments(node: ir.Node, known: Mapping[ir.Value, np.ndarray]) -> dict[str, np.ndarray] | None:
    """The inputs of a node by name, if all of them are constants and it is one that can be evaluated."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _NEVER or any(True for _ in inner_graphs(node)):
        return None
    values = [value for value in node.inputs if value is not None]
    if not values or any(v not in known and not (v.is_initializer() and v.const_value is not None) for v in values):
        return None
    arrays = {}
    for value in values:
        tensor = value.const_value
        arrays[name_of(value)] = known[value] if value in known or tensor is None else np.asarray(tensor.numpy())
    return arrays if all(_is_plain(array) for array in arrays.values()) else None


def _is_plain(array: object) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "fiub"


def _alone(
    node: ir.Node, arguments: Mapping[str, np.ndarray], opset: int, constants: Sequence[str] = ()
) -> onnx.ModelProto:
    proto = ir.serde.serialize_node(node)
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in arguments.items()
        if name not in constants
    ]
    outputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in proto.output if name]
    tensors = [onnx.numpy_helper.from_array(arguments[name], name) for name in constants]
    graph = onnx.helper.make_graph([proto], "constant", inputs, outputs, tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def _result_bytes(node: ir.Node, arguments: Mapping[str, np.ndarray], opset: int) -> int | None:
    """Size of the results before they are computed; None where only computing tells."""
    small = [name for name, array in arguments.items() if array.size <= _READ_AS_SHAPE]
    try:
        inferred = onnx.shape_inference.infer_shapes(_alone(node, arguments, opset, small), data_prop=True)
        total = 0
        for value in inferred.graph.output:
            kind = value.type.tensor_type
            if not kind.HasField("shape") or any(not dim.HasField("dim_value") for dim in kind.shape.dim):
                return None
            items = [dim.dim_value for dim in kind.shape.dim]
            total += int(np.prod(items, dtype=object)) * onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
        return total
    except Exception as error:  # no such operator, or operands that do not fit: the runtime says so in its words
        raise_if_out_of_memory(error)
        return None


def _evaluate(node: ir.Node, arguments: Mapping[str, np.ndarray], opset: int) -> list[np.ndarray] | None:
    from onnx.reference import ReferenceEvaluator  # slow to load (schemas of all operators), and few models need it

    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(_alone(node, arguments, opset)).run(None, dict(arguments))
    except Exception as error:  # anything, on what the reference does not implement
        raise_if_out_of_memory(error)
        return None
    arrays = iter(np.asarray(result) for result in results)
    found = [next(arrays) if value.name else np.zeros(0) for value in node.outputs]
    return found if all(_is_plain(array) for array in found) else None


def _take_branches(model: ir.Model) -> bool:
    """Replaces each If of the main graph whose condition is constant by its branch; whether there was any."""
    found = False
    for node in list(model.graph):
        condition = node.inputs[0] if node.op_type == "If" and node.domain in ("", "ai.onnx") else None
        if condition is None or not condition.is_initializer() or condition.const_value is None:
            continue
        holds = bool(np.asarray(condition.const_value.numpy()).reshape(-1)[0])
        branch = node.attributes["then_branch" if holds else "else_branch"].as_graph()
        _inline(model, node, branch)
        found = True
    if found:
        model.graph.sort()
        passes.RemoveUnusedNodesPass()(model)
    return found


def _inline(model: ir.Model, node: ir.Node, branch: ir.Graph) -> None:
    graph, names = model.graph, Names(model)
    for value in list(branch.initializers.values()):
        del branch.initializers[name_of(value)]
        if value.name in graph.initializers:
            value.name = names.new(name_of(value))
        graph.register_initializer(value)
    inner, results = list(branch), list(branch.outputs)
    branch.outputs.clear()
    branch.remove(inner)
    graph.insert_before(node, inner)
    for old, result in zip(list(node.outputs), results, strict=True):
        name = name_of(old)
        if old.is_graph_output():
            # A value of its own, under the name that callers know: the result may be a constant or read elsewhere.
            copy = ir.node("Identity", [result], outputs=[ir.Value(type=old.type or result.type, shape=old.shape)])
            copy.name = names.new(f"{name}_Identity")
            graph.insert_before(node, copy)
            old.name = names.new(f"{name}_of_branch")
            result = copy.outputs[0]
            result.name = name
            for position, value in enumerate(list(graph.outputs)):
                if value is old:
                    graph.outputs[position] = result
        ir.convenience.replace_all_uses_with(old, result)
    graph.remove(node, safe=True)
