"""Converts a float model to FP16, including Q/DQ scales. ONNX's operator schemas decide what stays in FP32."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.graph.passes.edits import Names, inner_graphs
from quantkit.graph.passes.fp16_overflow import with_dequantizers
from quantkit.graph.passes.prepare import FP16_OPSET, is_standard

_LARGEST = float(np.finfo(np.float16).max)

_TYPE_ATTRIBUTES = {"Cast": "to", "EyeLike": "dtype", "DequantizeLinear": "output_dtype"}
"""Attributes that fix the element type of the output."""

_KEPT_OPS = (
    "Bernoulli",
    "BlackmanWindow",
    "HammingWindow",
    "HannWindow",
    "MelWeightMatrix",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
"""Generators, for which runtimes have no FP16 kernels although ONNX allows the type."""


def to_fp16(model: ir.Model, *, keep: Collection[str] = ()) -> ir.Model:
    """Converts every FP32 tensor of a prepared model (opset >= `FP16_OPSET`) to FP16, in place, and returns it.

    Model inputs and outputs keep FP32, through one Cast each. Between Casts, FP32 stays: what an operator's schema
    accepts in FP32 only (the scales of Resize, NonMaxSuppression), operators of custom domains and their readers,
    operators with sub-graphs or on sequences, generators, and arithmetic on shapes, because FP16 represents integers
    exactly only up to 2048. Constants are clipped to FP16's range (attention masks of -3e38), and nonzero constants do
    not become zero.

    Args:
        model: with element types inferred (`prepare`).
        keep: names of nodes that stay in FP32 as a whole: see `overflowing_nodes`.
    """
    conversion = _Conversion(model)
    nodes = list(model.graph)
    whole = {*_shape_arithmetic(nodes), *with_dequantizers(model, keep)}
    opset = model.graph.opset_imports.get("", FP16_OPSET)
    demands = {node: _Demand.of(node, opset, whole=node in whole) for node in nodes}
    conversion.cast_inputs()
    for node, demand in demands.items():
        conversion.keep_results(node, demand.outputs)
    for node, demand in demands.items():
        conversion.keep_arguments(node, demand.inputs)
        if not demand.whole:
            _halve_attributes(node)
    conversion.halve_the_rest()
    conversion.cast_outputs()
    return model


class _Demand:
    """Which inputs and outputs of a node must stay FP32."""

    def __init__(self, inputs: set[int], outputs: set[int], *, whole: bool) -> None:
        self.inputs, self.outputs, self.whole = inputs, outputs, whole

    @classmethod
    def of(cls, node: ir.Node, opset: int, *, whole: bool) -> _Demand:
        schema = _schema(node, opset)
        whole = (
            whole or any(True for _ in inner_graphs(node)) or not all(map(_is_tensor, (*node.inputs, *node.outputs)))
        )
        whole = whole or is_standard(node, *_KEPT_OPS)
        # The result of an unknown operator is what that made of FP32.
        whole = whole or any(value is not None and value.dtype is None for value in node.inputs)
        if whole or schema is None:
            return cls(set(range(len(node.inputs))), set(range(len(node.outputs))), whole=True)
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}

        def fixed(formals: list[onnx.defs.OpSchema.FormalParameter], count: int) -> set[int]:
            found = set()
            for i in range(count):
                word = formals[min(i, len(formals) - 1)].type_str
                types = allowed.get(word, {word})
                if "tensor(float)" in types and "tensor(float16)" not in types:
                    found.add(i)
            return found

        return cls(
            fixed(list(schema.inputs), len(node.inputs)), fixed(list(schema.outputs), len(node.outputs)), whole=False
        )


class _Conversion:
    """The conversion of one graph: `full` maps each FP16 value to its FP32 counterpart."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.names = Names(model)
        self.full: dict[ir.Value, ir.Value] = {}
        self.kept: set[ir.Value] = set()
        values = [*self.graph.inputs, *self.graph.initializers.values(), *(v for n in self.graph for v in n.outputs)]
        self.half_before = {value for value in values if value.dtype is ir.DataType.FLOAT16}

    def cast_inputs(self) -> None:
        for value in list(self.graph.inputs):
            if _is(value, ir.DataType.FLOAT) and value.uses():
                half = self._cast(value, ir.DataType.FLOAT16, f"{value.name}_fp16", before=self.graph[0])
                self.full[half] = value
                self.kept.add(value)

    def keep_results(self, node: ir.Node, indices: set[int]) -> None:
        """Keeps outputs in FP32 and gives their readers an FP16 copy."""
        for index in sorted(indices):
            value = node.outputs[index]
            if _is(value, ir.DataType.FLOAT):
                half = self._cast(value, ir.DataType.FLOAT16, f"{value.name}_fp16", after=node)
                self.full[half] = value
                self.kept.add(value)

    def keep_arguments(self, node: ir.Node, indices: set[int]) -> None:
        """Feeds inputs, and the outer values that sub-graphs read, in FP32."""
        for index in sorted(indices):
            value = node.inputs[index]
            if value is not None and _is(value, ir.DataType.FLOAT, ir.DataType.FLOAT16):
                replacement = self._full(value, node)
                if replacement is not None:
                    node.replace_input_with(index, replacement)
        for graph in inner_graphs(node):
            for inner in ir.traversal.RecursiveGraphIterator(graph):
                for index, value in enumerate(inner.inputs):
                    outside = value is not None and value.graph is self.graph
                    if value is not None and outside and _is(value, ir.DataType.FLOAT, ir.DataType.FLOAT16):
                        replacement = self._full(value, node)
                        if replacement is not None:
                            inner.replace_input_with(index, replacement)

    def halve_the_rest(self) -> None:
        for value in list(self.graph.initializers.values()):
            if value.dtype is ir.DataType.FLOAT and value not in self.kept and value.const_value is not None:
                array = _half(value.const_value.numpy())
                value.const_value = ir.tensor(array, name=value.name)
                value.dtype = ir.DataType.FLOAT16
        for node in self.graph:
            for value in node.outputs:
                if _is(value, ir.DataType.FLOAT) and value not in self.kept:
                    value.dtype = ir.DataType.FLOAT16

    def cast_outputs(self) -> None:
        for position, value in enumerate(list(self.graph.outputs)):
            if not _is(value, ir.DataType.FLOAT16) or value in self.half_before:
                continue
            name = str(value.name)
            value.name = self.names.new(f"{name}_fp16")
            full = self._cast(value, ir.DataType.FLOAT, f"{name}_fp32", after=value.producer(), readers=False)
            full.name = name
            self.graph.outputs[position] = full

    def _full(self, value: ir.Value, reader: ir.Node) -> ir.Value | None:
        """FP32 copy of a value, inserted before its first reader; None if it was never FP32 or still is."""
        if value in self.kept or value in self.half_before:
            return None
        if value in self.full:
            return self.full[value]
        if value.is_initializer():
            if value.const_value is None:
                return None
            twin = self.names.initializer(f"{value.name}_fp32", value.const_value.numpy().astype(np.float32))
        else:
            node = value.producer()
            twin = self._cast(value, ir.DataType.FLOAT, f"{value.name}_fp32", after=node, readers=False)
        self.full[value] = twin
        self.kept.add(twin)
        return twin

    def _cast(
        self,
        value: ir.Value,
        to: ir.DataType,
        name: str,
        *,
        before: ir.Node | None = None,
        after: ir.Node | None = None,
        readers: bool = True,
    ) -> ir.Value:
        """A Cast of `value`, read by all that read `value` if `readers`."""
        taken = self.names.new(name)
        result = ir.Value(name=taken, shape=value.shape, type=ir.TensorType(to))
        uses = list(value.uses()) if readers else []
        cast = ir.node(
            "Cast", [value], attributes={"to": int(to)}, outputs=[result], name=self.names.new(f"{taken}_Cast")
        )
        if after is not None:
            self.graph.insert_after(after, cast)
        else:
            self.graph.insert_before(before if before is not None else self.graph[0], cast)
        for user, index in uses:
            user.replace_input_with(index, result)
        return result


def _shape_arithmetic(nodes: list[ir.Node]) -> Iterator[ir.Node]:
    """Nodes that compute on shapes and constants only, at least one shape among them."""
    known: set[ir.Value] = set()
    for node in nodes:
        inputs = [v for v in node.inputs if v is not None]
        if is_standard(node, "Shape", "Size"):
            known.update(node.outputs)
        elif any(v in known for v in inputs) and all(v in known or v.is_initializer() for v in inputs):
            if is_standard(node, "ConstantOfShape", "Expand", "Reshape", "Tile"):
                continue  # a tensor of that shape is data, no longer shape arithmetic
            known.update(node.outputs)
            yield node


def _schema(node: ir.Node, opset: int) -> onnx.defs.OpSchema | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _is_tensor(value: ir.Value | None) -> bool:
    """Whether a value is a tensor, not a sequence, map or optional."""
    return value is None or value.type is None or isinstance(value.type, ir.TensorType)


def _is(value: ir.Value | None, *dtypes: ir.DataType) -> bool:
    """Whether a value is a tensor of one of these types."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype in dtypes


def _halve_attributes(node: ir.Node) -> None:
    """Converts the element types and values in attributes."""
    name = _TYPE_ATTRIBUTES.get(node.op_type)
    if name is not None and node.attributes.get_int(name, 0) == ir.DataType.FLOAT:
        node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT16))
    for key, attribute in list(node.attributes.items()):
        if attribute.type is ir.AttributeType.TENSOR and attribute.as_tensor().dtype is ir.DataType.FLOAT:
            node.attributes[key] = ir.AttrTensor(key, ir.tensor(_half(attribute.as_tensor().numpy())))
    if is_standard(node, "ConstantOfShape") and "value" not in node.attributes:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1, np.float16)))


def _half(array: np.ndarray) -> np.ndarray:
    """FP16 values: finite ones stay finite, and what was not 0 does not become 0."""
    finite = np.isfinite(array)
    with np.errstate(over="ignore", under="ignore"):
        half = np.where(finite, np.clip(array, -_LARGEST, _LARGEST), array).astype(np.float16)
    vanished = (half == 0) & (array != 0)
    tiny = np.copysign(np.finfo(np.float16).smallest_subnormal, array).astype(np.float16)
    return np.where(vanished, tiny, half)
