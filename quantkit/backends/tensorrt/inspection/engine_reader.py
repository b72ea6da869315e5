"""Reads an engine file: with the TensorRT that built it if installed, else from the text in a TensorRT-RTX plan.

The time of each layer is measured in a pass of its own: a profiler makes every layer wait for the one before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.backends.tensorrt.inspection.engine_layers import EngineLayers
from quantkit.backends.tensorrt.inspection.inspector import join_profile, parse_inspector
from quantkit.backends.tensorrt.inspection.rtx_plan import MAGIC, read_plan
from quantkit.backends.tensorrt.library import Library, load_library
from quantkit.backends.tensorrt.logger import make_logger
from quantkit.backends.tensorrt.plugins import init_standard_plugins, load_plugins
from quantkit.errors import BackendError, NotInstalledError, joined_lines
from quantkit.machine import raise_if_out_of_memory
from quantkit.types import PathLike

_EXPORT = (
    "where it runs, export it with trtexec --loadEngine=ENGINE --exportLayerInfo=layers.json, then inspect layers.json"
)

_WIDEST_VECTOR = 32
_WIDEST_ELEMENT_BYTES = 8
_WARM_UP_RUNS = 3
_TIMED_RUNS = 20


def read_engine(
    content: bytes, *, name: str, measure: bool = False, plugins: Sequence[PathLike] = (), host_code: bool = False
) -> EngineLayers:
    """The layers of an engine.

    Args:
        content: of the file; Ultralytics' header of metadata is skipped.
        name: of the file, for messages.
        measure: time its layers here.
        plugins: libraries of TensorRT plugins that it needs.
        host_code: let it run code that it carries, as version-compatible engines do.

    Raises:
        BackendError: TensorRT is not installed or rejects the engine, and the file has no readable layer list.
    """
    if not content:
        raise BackendError(f"{name} is empty: build the engine again")
    content = _without_metadata(content)
    is_rtx = content[:4] == MAGIC
    plan = read_plan(content) if is_rtx else None
    try:
        library = load_library("tensorrt-rtx" if is_rtx else "tensorrt")
        load_plugins(library, plugins)
        engine_layers = _read_with(library, content, measure=measure, host_code=host_code)
    except BackendError as error:
        if plan is not None and not measure:
            return plan
        is_useless = isinstance(error, NotInstalledError) and find_gpu() is None  # to install it
        reason = "this machine has no NVIDIA GPU" if is_useless else error
        raise BackendError(f"{name} cannot be read here ({reason}): {_EXPORT}") from error
    if plan is not None and not engine_layers.has_details:
        return plan
    return replace(engine_layers, memory_bytes={"file": len(content), **engine_layers.memory_bytes})


def _without_metadata(content: bytes) -> bytes:
    """Without what Ultralytics writes in front of an engine: a length of 4 bytes, little-endian, and that much JSON."""
    length = int.from_bytes(content[:4], "little", signed=True)
    if content[4:5] != b"{" or not 0 < length <= len(content) - 4:
        return content
    try:
        json.loads(content[4 : 4 + length])
    except (ValueError, RecursionError):
        return content
    return content[4 + length :]


def _read_with(library: Library, content: bytes, *, measure: bool, host_code: bool) -> EngineLayers:
    trt = library.module
    logger = make_logger(library)
    init_standard_plugins(library, logger)
    try:
        runtime = trt.Runtime(logger)
        if host_code:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            reason = "; ".join(logger.errors()[:2]) or "no GPU, or an engine of another version or GPU"
            raise BackendError(f"{library.title} cannot load it: {reason}")
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        engine_layers = parse_inspector(text, name=f"what {library.title} says of it")
        memory = dict(engine_layers.memory_bytes)
        for attribute in ("device_memory_size_v2", "device_memory_size"):
            if size := getattr(engine, attribute, None):
                memory.setdefault("activations", int(size))
        engine_layers = replace(engine_layers, source=f"{library.title} engine inspector", memory_bytes=memory)
        if measure:
            engine_layers = join_profile(engine_layers, _measure(library, engine), name="the measured profile")
        return engine_layers
    except BackendError:
        raise
    except Exception as error:
        raise_if_out_of_memory(error)
        raise BackendError(f"{library.title}: {joined_lines(error)[:300]}") from error


def _measure(library: Library, engine: Any) -> dict[str, float]:
    """Mean milliseconds of each layer over some runs on zeros, with the shapes that the engine is tuned for."""
    with PrimaryContext() as primary:
        return _timed(library.module, primary.driver, engine)


def _timed(trt: Any, cuda: Any, engine: Any) -> dict[str, float]:
    class LayerTimes(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.total_ms: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.total_ms[layer_name] = self.total_ms.get(layer_name, 0.0) + ms

    context = engine.create_execution_context()
    if context is None:
        raise BackendError("TensorRT has no memory for an execution context: free the GPU")
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    for name in names:
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT and -1 in tuple(engine.get_tensor_shape(name)):
            context.set_input_shape(name, tuple(engine.get_tensor_profile_shape(name, 0)[1]))
    buffers = []
    for name in names:
        if engine.get_tensor_location(name) == trt.TensorLocation.HOST:
            raise BackendError(f"tensor {name!r} is in host memory: use trtexec to time this engine")
        if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
            size = max(int(context.get_max_output_size(name)), 1)
        else:
            size = _input_bytes(context, name)
        buffers.append(cuda.mem_alloc(size))
        cuda.memset_d8(buffers[-1], 0, size)
        context.set_tensor_address(name, int(buffers[-1]))
    stream = cuda.Stream()
    for _ in range(_WARM_UP_RUNS):
        context.execute_async_v3(stream.handle)
    stream.synchronize()
    times = LayerTimes()
    context.profiler = times
    for _ in range(_TIMED_RUNS):
        if not context.execute_async_v3(stream.handle):
            raise BackendError("TensorRT does not run the engine under a profiler: use trtexec --dumpProfile")
        stream.synchronize()
    return {name: ms / _TIMED_RUNS for name, ms in times.total_ms.items()}


def _input_bytes(context: Any, name: str) -> int:
    """Enough for an input of the present shape: no element is wider than 8 bytes, and channels are padded to 32."""
    shape = [max(int(d), 1) for d in tuple(context.get_tensor_shape(name))]
    if len(shape) > 2:
        shape[1] = -(-shape[1] // _WIDEST_VECTOR) * _WIDEST_VECTOR
    return math.prod(shape) * _WIDEST_ELEMENT_BYTES
