"""The ONNX parser of the fake library: names, shapes and kinds of layers, no more."""
# ruff: noqa: N802  (methods have the names of the C++ functions that they stand for)

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

from tests.fake_trt.abi import Abi, FakeObject, slot
from tests.fake_trt.objects import Layer, Network, Tensor

_LAYER_TYPES = {
    "Add": "ELEMENTWISE",
    "AveragePool": "POOLING",
    "BatchNormalization": "SCALE",
    "Cast": "CAST",
    "Clip": "ACTIVATION",
    "Concat": "CONCATENATION",
    "Conv": "CONVOLUTION",
    "DequantizeLinear": "DEQUANTIZE",
    "Flatten": "SHUFFLE",
    "Gemm": "MATRIX_MULTIPLY",
    "GlobalAveragePool": "REDUCE",
    "MatMul": "MATRIX_MULTIPLY",
    "MaxPool": "POOLING",
    "Mul": "ELEMENTWISE",
    "QuantizeLinear": "QUANTIZE",
    "Relu": "ACTIVATION",
    "Reshape": "SHUFFLE",
    "Resize": "RESIZE",
    "Sigmoid": "ACTIVATION",
    "Softmax": "SOFTMAX",
    "Transpose": "SHUFFLE",
}


class ParserError(FakeObject):
    cls = "IParserError"
    is_interface = True

    def __init__(self, text: str) -> None:
        self.message = text
        super().__init__()

    @slot(c_void_p)
    def desc(self):
        return self.text(self.message)

    @slot(c_int32)
    def code(self):
        return 2

    @slot(c_void_p)
    def file(self):
        return self.text("fake.cpp")

    @slot(c_int32)
    def line(self):
        return 1

    @slot(c_void_p)
    def func(self):
        return self.text("fake")

    @slot(c_int32)
    def node(self):
        return -1

    @slot(c_void_p)
    def nodeName(self):
        return self.text("")

    @slot(c_void_p)
    def nodeOperator(self):
        return self.text("")

    @slot(c_int32)
    def localFunctionStackSize(self):
        return 0


class Parser(FakeObject):
    cls = "IParser"
    is_interface = True

    def __init__(self, network: Network) -> None:
        self.network, self.flags = network, 0
        self.found: list[ParserError] = []
        super().__init__()

    @slot(c_bool, c_void_p, c_size_t, c_char_p)
    def parse(self, content, size, path):
        return self._read(ctypes.string_at(content, size))

    @slot(c_bool, c_char_p, c_int32)
    def parseFromFile(self, path, verbosity):
        file = Path(path.decode())
        return self._read(file.read_bytes()) if file.is_file() else self._fail(f"cannot open {file}")

    @slot(c_int32)
    def getNbErrors(self):
        return len(self.found)

    @slot(c_void_p, c_int32)
    def getError(self, i):
        return self.found[i].address

    @slot(None)
    def clearErrors(self):
        self.found.clear()

    @slot(None, c_uint32)
    def setFlags(self, flags):
        self.flags = flags

    @slot(c_uint32)
    def getFlags(self):
        return self.flags

    @slot(None, c_int32)
    def setFlag(self, flag):
        self.flags |= 1 << flag

    @slot(None, c_int32)
    def clearFlag(self, flag):
        self.flags &= ~(1 << flag)

    @slot(c_bool, c_int32)
    def getFlag(self, flag):
        return bool(self.flags >> flag & 1)

    @slot(c_bool, c_char_p)
    def supportsOperator(self, name):
        return True

    def _fail(self, reason: str) -> bool:
        self.found.append(ParserError(reason))
        return False

    def _read(self, content: bytes) -> bool:
        import onnx

        try:
            graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(content)).graph
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            return self._fail(f"Assertion failed: Failed to parse the ONNX model. {reason}")
        members = Abi.trt.OnnxParserFlag.__members__
        self.network.parser_flags = [name for name, member in members.items() if self.flags >> int(member) & 1]
        if not graph.node:
            return self._fail("Assertion failed: Failed to parse the ONNX model.")
        constants = {i.name for i in graph.initializer}
        known = {v.name: v for v in (*graph.value_info, *graph.output)}
        tensors: dict[str, Tensor] = {}
        for value in graph.input:
            if value.name not in constants:
                tensors[value.name] = _tensor(value.name, value, is_input=True)
                self.network.inputs.append(tensors[value.name])
        kinds = Abi.trt.LayerType
        for node in graph.node:
            for name in node.output:
                tensors[name] = _tensor(name, known.get(name))
            kind = getattr(kinds, _LAYER_TYPES.get(node.op_type, "IDENTITY"))
            inputs = [tensors[name] for name in node.input if name in tensors]
            outputs = [tensors[name] for name in node.output]
            self.network.layers.append(Layer(node.name or node.op_type, kind, inputs, outputs))
        for value in graph.output:
            tensors[value.name].is_output = True
            self.network.outputs.append(tensors[value.name])
        return True


def _tensor(name: str, value: Any, *, is_input: bool = False) -> Tensor:
    """A tensor of the type and shape that ONNX says; -1 where it does not."""
    dtypes = Abi.trt.DataType
    if value is None:
        return Tensor(name, [], dtypes.FLOAT, is_input=is_input)
    kind = value.type.tensor_type
    names = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF"}
    dtype = getattr(dtypes, names.get(kind.elem_type, "FLOAT"), dtypes.INT32)  # INT64 is INT32 before TensorRT 10
    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
    return Tensor(name, dims, dtype, is_input=is_input)
