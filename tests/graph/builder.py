"""Writing small float ONNX models, a line for each operator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ELEMENT_TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16, np.float64: TensorProto.DOUBLE}

LOADABLE_OPSET = 23 if onnxruntime.__version__.startswith("1.23.") else 24
"""That the runtime loads: 1.23, the last one for Python 3.10, does not know opset 24."""


class Builder:
    """A graph under construction. Every method that adds an operator returns the name of its first output.

    Args:
        opset: of the standard domain.
        dtype: of inputs, weights and outputs.
        batch: first dimension of inputs: a symbol or a number.
    """

    def __init__(self, *, opset: int = 17, dtype: type = np.float32, batch: str | int = "N", seed: int = 0) -> None:
        self.opset, self.dtype, self.batch = opset, dtype, batch
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.domains: dict[str, int] = {}
        self._count = 0

    def input(self, name: str, *shape: int | str, dtype: type | None = None) -> str:
        """A model input; the batch dimension comes first."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, [self.batch, *shape]))
        return name

    def constant(self, values: np.ndarray | Sequence[float] | float, name: str = "") -> str:
        """An initializer of the builder's type; integers stay int64."""
        array = np.asarray(values)
        array = array.astype(self.dtype if array.dtype.kind == "f" else np.int64)
        name = name or self._fresh("constant")
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, name: str = "") -> str:
        """Random numbers that keep the variance of what they are multiplied with, roughly."""
        fan_in = max(int(np.prod(shape[1:])), 1)
        return self.constant(self.random.standard_normal(shape) * np.sqrt(1.5 / fan_in), name or self._fresh("weight"))

    def op(self, op_type: str, *inputs: str, outputs: int = 1, name: str | None = None, domain: str = "", **attributes):
        """Any operator."""
        name = self._fresh(op_type) if name is None else name
        results = [f"{name or self._fresh(op_type)}_out{i or ''}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, results, name=name, domain=domain, **attributes))
        return results[0]

    def conv(
        self,
        x: str,
        channels_in: int,
        channels: int,
        kernel=3,
        *,
        stride=1,
        groups=1,
        bias=True,
        rank=2,
        weight="",
        name=None,
    ) -> str:
        """A convolution that pads to the same size."""
        weight = weight or self.weight(channels, channels_in // groups, *(kernel,) * rank)
        rest = [self.constant(self.random.standard_normal(channels) * 0.1, self._fresh("bias"))] if bias else []
        return self.op(
            "Conv",
            x,
            weight,
            *rest,
            name=name,
            kernel_shape=[kernel] * rank,
            strides=[stride] * rank,
            pads=[kernel // 2] * (2 * rank),
            group=groups,
        )

    def linear(self, x: str, features_in: int, features: int) -> str:
        """MatMul and bias, as exporters write a linear layer of a sequence."""
        weight = self.constant(self.random.standard_normal((features_in, features)) * np.sqrt(1 / features_in))
        return self.op("Add", self.op("MatMul", x, weight), self.constant(self.random.standard_normal(features) * 0.1))

    def gemm(self, x: str, features_in: int, features: int, *, transposed: bool = True) -> str:
        """Gemm with its weight [features, features_in] if `transposed`."""
        shape = (features, features_in) if transposed else (features_in, features)
        weight = self.constant(self.random.standard_normal(shape) * np.sqrt(1 / features_in))
        return self.op("Gemm", x, weight, self.constant(np.zeros(features)), transB=int(transposed))

    def norm(self, x: str, features: int) -> str:
        """LayerNormalization over the last axis."""
        return self.op(
            "LayerNormalization", x, self.constant(np.ones(features)), self.constant(np.zeros(features)), axis=-1
        )

    def batch_norm(self, x: str, channels: int) -> str:
        shift, mean = (self.constant(self.random.standard_normal(channels) * 0.1) for _ in range(2))
        gain, variance = (self.constant(self.random.uniform(0.5, 1.5, channels)) for _ in range(2))
        return self.op("BatchNormalization", x, gain, shift, mean, variance)

    def clip(self, x: str, low: float, high: float) -> str:
        return self.op("Clip", x, self.constant(low), self.constant(high))

    def model(self, *outputs: str, types: Sequence[type] = ()) -> onnx.ModelProto:
        """The finished model, with shapes inferred for its outputs."""
        kinds = [*(helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in types)] or [ELEMENT_TYPES[self.dtype]] * len(
            outputs
        )
        results = [
            onnx.ValueInfoProto(name=o, type=helper.make_tensor_type_proto(k, None))
            for o, k in zip(outputs, kinds, strict=True)
        ]
        graph = helper.make_graph(self.nodes, "graph", self.inputs, results, self.initializers)
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, v) for d, v in self.domains.items())]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            functions=self.functions,
            ir_version=max(helper.find_min_ir_version_for(opsets[:1]), 8),
        )
        inferred = onnx.shape_inference.infer_shapes(model)
        known = {v.name: v for v in inferred.graph.input}
        for value in inferred.graph.output:
            if value.name in known:
                value.type.CopyFrom(known[value.name].type)
            elif not value.type.tensor_type.HasField("shape"):
                value.type.tensor_type.shape.SetInParent()
                value.type.tensor_type.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in range(2))
        return inferred

    def _fresh(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{self._count}"
