"""Networks, profiles and memory of the fake library: they keep what they are given."""
# ruff: noqa: N802  (methods have the names of the C++ functions that they stand for)

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_void_p
from typing import Any

from tests.fake_trt.abi import Abi, DimsByValue, FakeObject, dims_slot, read_dims, slot


class Tensor(FakeObject):
    cls = "VTensor"

    def __init__(self, name: str, dims: list[int], dtype: int, *, is_input: bool = False) -> None:
        self.name, self.dims, self.dtype = name, dims, int(dtype)
        self.is_input, self.is_output = is_input, False
        self.range: tuple[float, float] | None = None
        self.formats: int | None = None
        super().__init__()

    @slot(c_void_p)
    def getName(self):
        return self.text(self.name)

    @slot(None, c_char_p)
    def setName(self, name):
        self.name = name.decode()

    @slot(c_int32)
    def getType(self):
        return self.dtype

    @slot(None, c_int32)
    def setType(self, dtype):
        self.dtype = dtype

    @dims_slot()
    def getDimensions(self):
        return self.dims

    @slot(None, c_void_p)
    def setDimensions(self, address):
        self.dims = read_dims(address)

    @slot(c_bool)
    def isNetworkInput(self):
        return self.is_input

    @slot(c_bool)
    def isNetworkOutput(self):
        return self.is_output

    @slot(c_bool)
    def isShapeTensor(self):
        return False

    @slot(c_bool)
    def isExecutionTensor(self):
        return True

    @slot(c_int32)
    def getLocation(self):
        return 0

    @slot(c_bool, c_float, c_float)
    def setDynamicRange(self, low, high):
        self.range = (low, high)
        return True

    @slot(c_bool)
    def dynamicRangeIsSet(self):
        return self.range is not None

    @slot(c_float)
    def getDynamicRangeMin(self):
        return self.range[0] if self.range else 0.0

    @slot(c_float)
    def getDynamicRangeMax(self):
        return self.range[1] if self.range else 0.0

    @slot(None)
    def resetDynamicRange(self):
        self.range = None

    @slot(None, c_uint32)
    def setAllowedFormats(self, formats):
        self.formats = formats

    @slot(c_uint32)
    def getAllowedFormats(self):
        return 1


class Layer(FakeObject):
    cls = "VLayer"

    def __init__(self, name: str, kind: int, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        self.name, self.kind, self.inputs, self.outputs = name, int(kind), inputs, outputs
        self.precision: int | None = None
        self.output_types: dict[int, int] = {}
        super().__init__()

    @slot(c_void_p)
    def getName(self):
        return self.text(self.name)

    @slot(None, c_char_p)
    def setName(self, name):
        self.name = name.decode()

    @slot(c_void_p)
    def getMetadata(self):
        return self.text("")

    @slot(c_int32)
    def getType(self):
        return self.kind

    @slot(c_int32)
    def getNbInputs(self):
        return len(self.inputs)

    @slot(c_void_p, c_int32)
    def getInput(self, i):
        return _address(self.inputs, i)

    @slot(c_int32)
    def getNbOutputs(self):
        return len(self.outputs)

    @slot(c_void_p, c_int32)
    def getOutput(self, i):
        return _address(self.outputs, i)

    @slot(None, c_int32)
    def setPrecision(self, dtype):
        self.precision = dtype

    @slot(c_int32)
    def getPrecision(self):
        return self.precision or 0

    @slot(c_bool)
    def precisionIsSet(self):
        return self.precision is not None

    @slot(None)
    def resetPrecision(self):
        self.precision = None

    @slot(None, c_int32, c_int32)
    def setOutputType(self, i, dtype):
        self.output_types[i] = dtype

    @slot(c_int32, c_int32)
    def getOutputType(self, i):
        return self.output_types.get(i, self.outputs[i].dtype)

    @slot(c_bool, c_int32)
    def outputTypeIsSet(self, i):
        return i in self.output_types

    @slot(None, c_int32)
    def resetOutputType(self, i):
        self.output_types.pop(i, None)


class Network(FakeObject):
    cls = "VNetworkDefinition"

    def __init__(self, flags: int) -> None:
        self.flags, self.name = flags, "fake"
        self.parser_flags: list[str] = []
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.layers: list[Layer] = []
        super().__init__()

    @slot(c_int32)
    def getNbInputs(self):
        return len(self.inputs)

    @slot(c_void_p, c_int32)
    def getInput(self, i):
        return _address(self.inputs, i)

    @slot(c_int32)
    def getNbOutputs(self):
        return len(self.outputs)

    @slot(c_void_p, c_int32)
    def getOutput(self, i):
        return _address(self.outputs, i)

    @slot(c_int32)
    def getNbLayers(self):
        return len(self.layers)

    @slot(c_void_p, c_int32)
    def getLayer(self, i):
        return _address(self.layers, i)

    @slot(c_void_p)
    def getName(self):
        return self.text(self.name)

    @slot(None, c_char_p)
    def setName(self, name):
        self.name = name.decode()

    @slot(c_uint32)
    def getFlags(self):
        return self.flags

    @slot(c_bool, c_int32)
    def getFlag(self, flag):
        return bool(self.flags >> flag & 1)

    @slot(c_bool)
    def hasImplicitBatchDimension(self):
        return False

    @slot(c_bool)
    def hasExplicitPrecision(self):
        return False


class OptimizationProfile(FakeObject):
    cls = "VOptimizationProfile"

    def __init__(self) -> None:
        self.shapes: dict[str, dict[int, list[int]]] = {}  # by input: 0 minimum, 1 optimum, 2 maximum
        super().__init__()

    def find(self, name):
        if name == "setDimensions" and Abi.major < 10:
            return self.set_dimensions_by_value
        return super().find(name)

    @slot(c_bool, c_char_p, c_int32, c_void_p)
    def setDimensions(self, name, which, address):
        self.shapes.setdefault(name.decode(), {})[which] = read_dims(address)
        return True

    @slot(c_bool, c_char_p, c_int32, DimsByValue)
    def set_dimensions_by_value(self, name, which, dims):
        self.shapes.setdefault(name.decode(), {})[which] = list(dims.sizes[: dims.count])
        return True

    @dims_slot(c_char_p, c_int32)
    def getDimensions(self, name, which):
        return self.shapes.get(name.decode(), {}).get(which)

    @slot(c_int32, c_char_p)
    def getNbShapeValues(self, name):
        return -1

    @slot(c_bool)
    def isValid(self):
        return all(
            len(shapes) == 3 and all(a <= b <= c for a, b, c in zip(shapes[0], shapes[1], shapes[2], strict=True))
            for shapes in self.shapes.values()
        )


class HostMemory(FakeObject):
    cls = "VHostMemory"

    def __init__(self, content: bytes) -> None:
        self.content = ctypes.create_string_buffer(content, len(content))
        super().__init__()

    @slot(c_void_p)
    def data(self):
        return ctypes.addressof(self.content)

    @slot(c_size_t)
    def size(self):
        return len(self.content)

    @slot(c_int32)
    def type(self):
        return 2


class TimingCache(FakeObject):
    cls = "VTimingCache"

    def __init__(self, content: bytes) -> None:
        self.content = content
        super().__init__()

    @slot(c_void_p)
    def serialize(self):
        return HostMemory(self.content or b"fake timing cache").address

    @slot(c_bool, c_void_p, c_bool)
    def combine(self, other, ignore_mismatch):
        return True

    @slot(c_bool)
    def reset(self):
        return True


def _address(objects: list[Any], i: int) -> int | None:
    return objects[i].address if 0 <= i < len(objects) else None
