"""TensorRT's runtime that is none: engines are Python functions that run on the GPU of `tests.backends.gpu`."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from quantkit.backends.tensorrt.library import Library

from ..gpu import Gpu

COMPUTE_MS = 2.0

TensorIOMode = Enum("TensorIOMode", "NONE INPUT OUTPUT")
TensorLocation = Enum("TensorLocation", "DEVICE HOST")
TensorFormat = Enum("TensorFormat", "LINEAR CHW2 HWC8 CHW4 CHW32")
DataType = Enum("DataType", "FLOAT HALF BF16 INT8 INT32 INT64 BOOL UINT8 FP8")
DTYPES = {
    DataType.FLOAT: "float32",
    DataType.HALF: "float16",
    DataType.INT32: "int32",
    DataType.INT64: "int64",
    DataType.BOOL: "bool",
    DataType.BF16: "uint16",
}


@dataclass
class Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: DataType = DataType.FLOAT
    low: tuple[int, ...] = ()
    high: tuple[int, ...] = ()
    on_host: bool = False
    format: TensorFormat = TensorFormat.LINEAR


@dataclass
class Plan:
    """An engine. `shape_of` gives an output's shape from the inputs' shapes, -1 where only the data decide."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    compute: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
    shape_of: Callable[[str, Mapping[str, tuple[int, ...]]], tuple[int, ...]]
    context_bytes: int = 64
    num_profiles: int = 1
    capturable: bool = True
    fails: bool = False
    host_code: bool = False
    dla_core: int = -1
    compute_ms: float = COMPUTE_MS
    layers: str = '{"Layers": ["only a name"], "Bindings": []}'
    log: list[str] = field(default_factory=list)


class ILogger:
    def __init__(self) -> None:
        self.was_initialised = True


class IOutputAllocator:
    def __init__(self) -> None:
        self.was_initialised = True


class Runtime:
    def __init__(self, plans: Mapping[bytes, Plan], gpu: Gpu, logger: ILogger) -> None:
        assert logger.was_initialised
        self.plans, self.gpu, self.logger = plans, gpu, logger
        self.engine_host_code_allowed = False
        self.DLA_core = -1
        _live(self, "runtime")

    def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
        self.gpu.need_context()
        if content not in self.plans:
            self.logger.log(types.SimpleNamespace(name="ERROR"), "Serialization assertion stdVersionRead failed.\n")
            return None
        if self.plans[content].host_code and not self.engine_host_code_allowed:
            self.logger.log(types.SimpleNamespace(name="ERROR"), "Engine contains host code, which is not allowed.\n")
            return None
        assert self.DLA_core == self.plans[content].dla_core
        return Engine(self, self.plans[content])

    def __del__(self) -> None:
        _dead(self, "runtime")


class Engine:
    def __init__(self, runtime: Runtime, plan: Plan) -> None:
        self.runtime, self.plan, self.gpu = runtime, plan, runtime.gpu
        self.tensors = {t.name: t for t in (*plan.inputs, *plan.outputs)}
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = plan.num_profiles
        _live(self, "engine")

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        is_input = any(t.name == name for t in self.plan.inputs)
        return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name].dtype

    def get_tensor_format(self, name: str) -> TensorFormat:
        return self.tensors[name].format

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if self.tensors[name].on_host else TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert -1 in self.tensors[name].shape, "only dynamic inputs have a profile"
        assert profile_index < self.plan.num_profiles
        return [self.tensors[name].low, self.tensors[name].low, self.tensors[name].high]

    def create_engine_inspector(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(get_engine_information=lambda form: self.plan.layers)

    def create_execution_context(self) -> ExecutionContext | None:
        self.gpu.need_context()
        if self.plan.context_bytes > self.gpu.capacity:
            message = "[executionContext.cpp] Error Code 2: OutOfMemory (no memory for the context)"
            self.runtime.logger.log(types.SimpleNamespace(name="ERROR"), message)
            return None
        return ExecutionContext(self)

    def __del__(self) -> None:
        _dead(self, "engine")


class ExecutionContext:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.plan, self.gpu = engine, engine.plan, engine.gpu
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, IOutputAllocator] = {}
        self.profile = 0
        self.scratch = self.gpu.allocate(self.plan.context_bytes)
        _live(self, "context")

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.plan.log.append(f"profile {profile_index}")
        return stream_handle in self.gpu.streams

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.plan.log.append(f"shape {name} {shape}")
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert isinstance(memory, int)
        self.plan.log.append(f"address {name}")
        self.addresses[name] = memory
        return memory != 0

    def set_output_allocator(self, name: str, output_allocator: IOutputAllocator) -> bool:
        assert output_allocator.was_initialised
        self.allocators[name] = output_allocator
        return True

    def infer_shapes(self) -> list[str]:
        self.plan.log.append("infer")
        if len({s[:1] for s in self.shapes.values()}) > 1:
            raise RuntimeError("infer_shapes failed")
        return [t.name for t in self.plan.inputs if t.name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.plan.shape_of(name, self.shapes)

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.gpu.need_context()
        self.gpu.log("execute")
        stream = self.gpu.streams[stream_handle]
        if self.plan.fails or (stream.captured is not None and not self.plan.capturable):
            message = "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (in enqueueV3)"
            self.engine.runtime.logger.log(types.SimpleNamespace(name="ERROR"), message)
            return False
        missing = [n for n in self.engine.tensors if n not in self.addresses and n not in self.allocators]
        assert not missing, f"no memory for {missing}"
        if self.allocators:
            return self._run_allocated(stream)
        addresses, shapes = dict(self.addresses), dict(self.shapes)
        stream.put(lambda: self._run(addresses, shapes))
        return True

    def _inputs(self, addresses, shapes) -> dict[str, np.ndarray]:
        arrays = {}
        for t in self.plan.inputs:
            dtype = np.dtype(DTYPES[t.dtype])
            size = int(np.prod(shapes[t.name])) * dtype.itemsize
            if t.on_host:
                held = [p for p in self.gpu.pinned.values() if p.start == addresses[t.name]]
                assert held, "a shape tensor whose memory is gone"
                content = held[0].content[:size].tobytes()
            else:
                content = self.gpu.read(addresses[t.name], size)
            arrays[t.name] = np.frombuffer(content, dtype).reshape(shapes[t.name])
        return arrays

    def _run(self, addresses, shapes) -> None:
        for name, array in self.plan.compute(self._inputs(addresses, shapes)).items():
            assert array.shape == self.plan.shape_of(name, shapes)
            self.gpu.write(addresses[name], np.ascontiguousarray(array).tobytes())
        self.gpu.now_ms += self.plan.compute_ms

    def _run_allocated(self, stream) -> bool:
        """TensorRT waits for the shape itself, then asks for the memory, then goes on."""
        if stream.captured is not None:
            return False
        stream.run()
        for name, array in self.plan.compute(self._inputs(self.addresses, self.shapes)).items():
            if name not in self.allocators:
                self.gpu.write(self.addresses[name], array.tobytes())
                continue
            allocator = self.allocators[name]
            address = allocator.reallocate_output_async(name, self.addresses.get(name, 0), array.nbytes, 256, 0)
            if not address:
                return False
            self.addresses[name] = address
            allocator.notify_shape(name, array.shape)
            content = np.ascontiguousarray(array).tobytes()
            stream.put(lambda address=address, content=content: self.gpu.write(address, content))
        self.gpu.now_ms += self.plan.compute_ms
        return True

    def __del__(self) -> None:
        if hasattr(self, "scratch"):
            self.scratch.free()
        _dead(self, "context")


def make_library(gpu: Gpu, plans: Mapping[bytes, Plan]) -> Library:
    """A library whose runtime knows these engines by their bytes."""
    module = types.ModuleType("tensorrt")
    module.__version__ = "10.16.1.11"
    module.ILogger, module.IOutputAllocator = ILogger, IOutputAllocator
    module.Runtime = lambda logger: Runtime(plans, gpu, logger)
    module.LayerInformationFormat = Enum("LayerInformationFormat", "ONELINE JSON")
    for kind in (TensorIOMode, TensorLocation, TensorFormat, DataType):
        setattr(module, kind.__name__, kind)
    return Library(module=module, name="tensorrt", version=(10, 16, 1))


def affine_plan(**changes) -> Plan:
    """y = relu(2 x + 1) over [N, 3], N from 1 to 8."""
    plan = Plan(
        inputs=[Tensor("x", (-1, 3), low=(1, 3), high=(8, 3))],
        outputs=[Tensor("y", (-1, 3))],
        compute=lambda a: {"y": np.maximum(2 * a["x"] + 1, 0)},
        shape_of=lambda name, shapes: shapes["x"],
    )
    for name, value in changes.items():
        setattr(plan, name, value)
    return plan


def nonzero_plan() -> Plan:
    """The positive elements of x: how many there are, only the data decide. Beside them, their sum."""
    return Plan(
        inputs=[Tensor("x", (-1,), low=(0,), high=(64,))],
        outputs=[Tensor("positive", (-1,)), Tensor("sum", (1,))],
        compute=lambda a: {"positive": a["x"][a["x"] > 0], "sum": a["x"].sum(keepdims=True)},
        shape_of=lambda name, shapes: (-1,) if name == "positive" else (1,),
    )


def _live(thing: object, kind: str) -> None:
    thing.gpu.live.add((kind, id(thing)))


def _dead(thing: object, kind: str) -> None:
    if not thing.gpu.stack:
        thing.gpu.faults.append(f"the {kind} is destroyed with no current context")
    thing.gpu.live.discard((kind, id(thing)))
