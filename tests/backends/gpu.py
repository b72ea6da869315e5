"""A GPU that is none: pycuda.driver and libcuda over plain memory, for tests.

What a stream is given runs when somebody waits for it, not before: a missing wait, memory freed too early and an
address that nobody allocated are errors here, where on a GPU they are garbage.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import types
import weakref
from collections.abc import Callable
from enum import IntFlag

import numpy as np

from quantkit.backends.cuda import context

COPY_MS = 0.25
NAME = "Imaginary GPU 3000"


class CudaError(Exception):
    pass


class CudaMemoryError(CudaError):
    pass


class CudaLogicError(CudaError):
    pass


class Allocation:
    """Device memory."""

    def __init__(self, gpu: Gpu, address: int, size: int) -> None:
        self.gpu, self.address, self.size = gpu, address, size

    def __int__(self) -> int:
        return self.address

    __index__ = __int__

    def free(self) -> None:
        self.gpu.need_context()
        assert self.address in self.gpu.memory, "freed twice"
        self.gpu.drain()  # as cuMemFree does
        del self.gpu.memory[self.address]


class PinnedAllocation:
    """What `pagelocked_empty` hangs an array on. The bytes stay, overwritten, so that a stale view is only wrong."""

    def __init__(self, gpu: Gpu, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.gpu, self.content = gpu, np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, 0xCC, np.uint8)
        self.start = self.content.ctypes.data
        self.__array_interface__ = self.content.view(dtype).reshape(shape).__array_interface__

    def free(self) -> None:
        self.gpu.need_context()
        assert self.start in self.gpu.pinned, "freed twice"
        del self.gpu.pinned[self.start]
        self.content[:] = 0xDD
        self.gpu.graveyard.append(self.content)


class Stream:
    def __init__(self, gpu: Gpu, flags: int = 0) -> None:
        gpu.need_context()
        self.gpu, self.flags = gpu, flags
        self.handle = gpu.next_handle()
        self.queue: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        gpu.streams[self.handle] = self
        gpu.live.add(("stream", self.handle))

    def __del__(self) -> None:
        if self.queue:
            self.gpu.faults.append("a stream is destroyed with work left")
        self.gpu.live.discard(("stream", self.handle))

    def put(self, operation: Callable[[], None]) -> None:
        (self.queue if self.captured is None else self.captured).append(operation)

    def synchronize(self) -> None:
        self.gpu.need_context()
        self.gpu.log("synchronize")
        self.run()

    def run(self) -> None:
        queue, self.queue = self.queue, []
        for operation in queue:
            operation()


class Event:
    def __init__(self, gpu: Gpu, flags: int = 0) -> None:
        gpu.need_context()
        self.gpu, self.time_ms, self.stream, self.version, self.handle = gpu, None, None, 0, gpu.next_handle()
        gpu.live.add(("event", self.handle))

    def __del__(self) -> None:
        self.gpu.live.discard(("event", self.handle))

    def record(self, stream: Stream) -> Event:
        self.gpu.need_context()
        self.gpu.log("record")
        self.time_ms, self.stream, self.version = None, stream, self.version + 1
        version = self.version

        def happen() -> None:
            if version == self.version:  # recorded again since: only the last record counts
                self.time_ms = self.gpu.now_ms

        stream.put(happen)
        return self

    def synchronize(self) -> Event:
        while self.time_ms is None:
            assert self.stream.queue, "waiting for an event that nothing will reach"
            self.stream.queue.pop(0)()
        return self

    def time_since(self, start: Event) -> float:
        if self.time_ms is None or start.time_ms is None:
            raise CudaLogicError("cuEventElapsedTime failed: device not ready")
        return self.time_ms - start.time_ms


class Gpu:
    """The device and everything that lives on it. `capacity` is in bytes.

    Several share one memory; `used` says on which of them something was put.
    """

    def __init__(self, capacity: int = 1 << 20, count: int = 1) -> None:
        self.capacity, self.count = capacity, count
        self.used: set[int] = set()
        self.memory: dict[int, bytearray] = {}
        self.pinned: dict[int, PinnedAllocation] = {}
        self.graveyard: list[np.ndarray] = []
        self.streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.live: set[tuple[str, int]] = set()
        self.faults: list[str] = []
        self.calls: list[str] = []
        self.now_ms = 0.0
        self._stacks = threading.local()
        self.retained = 0
        self._handle, self._address = 0, 0x7F0000000000

    @property
    def stack(self) -> list[object]:
        """Contexts that are pushed in this thread."""
        return self._stacks.__dict__.setdefault("stack", [])

    def log(self, what: str) -> None:
        self.calls.append(what)

    def next_handle(self) -> int:
        self._handle += 1
        return self._handle

    def need_context(self) -> None:
        assert self.stack, "no current context"

    def drain(self) -> None:
        for stream in list(self.streams.values()):
            stream.run()

    def allocate(self, size: int) -> Allocation:
        self.need_context()
        self.used.add(self.stack[-1].device)
        if size <= 0:
            raise CudaLogicError("cuMemAlloc failed: invalid argument")
        if sum(map(len, self.memory.values())) + size > self.capacity:
            raise CudaMemoryError("cuMemAlloc failed: out of memory")
        self._address += 1 << 20
        self.memory[self._address] = bytearray(b"\xcc" * size)
        return Allocation(self, self._address, size)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        self.need_context()
        allocation = PinnedAllocation(self, shape, dtype)
        self.pinned[allocation.start] = allocation
        return np.asarray(allocation)  # its base is the allocation

    def read(self, address: int, size: int) -> bytes:
        start = self.find(address)
        assert address - start + size <= len(self.memory[start]), "read beyond the end"
        return bytes(self.memory[start][address - start : address - start + size])

    def write(self, address: int, content: bytes) -> None:
        start = self.find(address)
        assert address - start + len(content) <= len(self.memory[start]), "write beyond the end"
        self.memory[start][address - start : address - start + len(content)] = content

    def find(self, address: int) -> int:
        """The beginning of the allocation that an address lies in."""
        start = max((a for a in self.memory if a <= address), default=0)
        end = start + max(len(self.memory.get(start, b"")), 1)
        assert address < end, f"{address:#x} is not allocated"
        return start

    def check_pinned(self, array: np.ndarray) -> None:
        start, size = array.ctypes.data, array.nbytes
        inside = any(p.start <= start and start + size <= p.start + p.content.size for p in self.pinned.values())
        assert inside, "an asynchronous copy of memory that is not page-locked, or no longer"

    def copy_in(self, target: Allocation, source: np.ndarray, stream: Stream) -> None:
        self.need_context()
        self.check_pinned(source)
        self.log("h2d")

        def operation() -> None:
            self.check_pinned(source)
            self.write(int(target), source.tobytes())
            self.now_ms += COPY_MS

        stream.put(operation)

    def copy_out(self, target: np.ndarray, source: Allocation, stream: Stream) -> None:
        self.need_context()
        self.check_pinned(target)
        self.log("d2h")

        def operation() -> None:
            self.check_pinned(target)
            content = self.read(int(source), target.nbytes)
            target[...] = np.frombuffer(content, target.dtype).reshape(target.shape)
            self.now_ms += COPY_MS

        stream.put(operation)

    def copy_between(self, target: Allocation, source: int, size: int, stream: Stream) -> None:
        self.need_context()
        stream.put(lambda: self.write(int(target), self.read(int(source), size)))

    def copy_out_now(self, target: np.ndarray, address: int) -> None:
        self.need_context()
        self.drain()
        target[...] = np.frombuffer(self.read(int(address), target.nbytes), target.dtype).reshape(target.shape)

    def copy_in_now(self, target: Allocation, source: np.ndarray) -> None:
        self.need_context()
        self.write(int(target), source.tobytes())

    def is_empty(self) -> bool:
        return not (self.memory or self.pinned or self.graphs or self.live or self.stack or self.faults)


class Kernel:
    """A kernel of histogram.cu, in numpy: its arguments, its structures and its three passes, not its threads."""

    TENSOR = np.dtype("u8,u8,u8,u4,u4")
    STATE = np.dtype("u4,u4,i4,i4,u4,u4")
    BINS = 8192

    def __init__(self, gpu: Gpu, name: str) -> None:
        self.gpu, self.run = gpu, {"count_batch": self.count_batch, "widen": self.widen}[name]

    def __call__(self, *arguments, block, grid, stream) -> None:
        self.gpu.need_context()
        assert all(isinstance(argument, np.generic) for argument in arguments), "pycuda needs numpy's types"
        stream.put(lambda: self.run(grid[0], *(int(argument) for argument in arguments)))

    def view(self, address: int, dtype, count: int) -> np.ndarray:
        return np.frombuffer(self.gpu.read(address, count * np.dtype(dtype).itemsize), dtype).copy()

    def values(self, tensor) -> np.ndarray:
        address, _, size, is_half, _ = tensor
        return self.view(int(address), np.float16 if is_half else np.float32, int(size)).astype(np.float32)

    def count_batch(self, blocks, tensors, num_tensors, num_values, states, histograms, is_second) -> None:
        table = self.view(tensors, self.TENSOR, num_tensors)
        assert num_values == table["f2"].sum()
        np.testing.assert_array_equal(table["f1"], np.cumsum(table["f2"]) - table["f2"])
        for tensor in table:
            index = int(tensor["f4"])
            state = self.view(states + index * self.STATE.itemsize, self.STATE, 1)
            low, high, exponent, counted, has_grown, _ = state[0]
            if is_second and not has_grown:
                continue
            x = self.values(tensor)
            top = 0.0 if exponent == -1000 else 2.0 ** (int(exponent) + 13)
            bottom = (0.0 if counted == -1000 else 2.0 ** (int(counted) + 13)) if is_second else -1.0
            magnitude = np.abs(x.astype(np.float64))
            inside = magnitude[(magnitude > bottom) & (magnitude <= top)]
            place = np.maximum(np.ceil(inside * (0.0 if top == 0 else 8192 / top)), 1).astype(np.int64) - 1
            address = histograms + index * self.BINS * 8
            found = self.view(address, np.int64, self.BINS) + np.bincount(place, minlength=self.BINS)
            self.gpu.write(address, found.tobytes())
            if not is_second:
                finite = x[~np.isnan(x)]
                bits = finite.view(np.uint32)
                ordered = np.where(bits >> 31, ~bits, bits | 0x80000000)
                if finite.size:
                    state["f0"], state["f1"] = min(low, ordered.min()), max(high, ordered.max())
                state["f5"] |= not np.isfinite(x).all()
                self.gpu.write(states + index * self.STATE.itemsize, state.tobytes())

    def widen(self, blocks, tensors, states, histograms) -> None:
        for tensor in self.view(tensors, self.TENSOR, blocks):
            index = int(tensor["f4"])
            state = self.view(states + index * self.STATE.itemsize, self.STATE, 1)
            low, high, exponent, _, _, bad = (int(n) for n in state[0])
            ends = np.array([low, high], np.uint32)
            amax = float(
                np.abs(np.where(ends >> 31, ends & 0x7FFFFFFF, ~ends).astype(np.uint32).view(np.float32)).max()
            )
            wanted = exponent
            if amax > 0 and not bad:
                mantissa, power = np.frexp(amax)
                wanted = max(int(power) - 13 - (mantissa == 0.5), -126, exponent)
            state["f2"], state["f3"], state["f4"] = wanted, exponent, wanted != exponent
            self.gpu.write(states + index * self.STATE.itemsize, state.tobytes())
            if exponent not in (-1000, wanted):
                address, width = histograms + index * self.BINS * 8, 1 << min(wanted - exponent, 13)
                old = self.view(address, np.int64, self.BINS).reshape(-1, width).sum(axis=1)
                self.gpu.write(address, np.pad(old, (0, self.BINS - old.size)).tobytes())


class Context:
    def __init__(self, gpu: Gpu, device: int) -> None:
        self.gpu, self.device = gpu, device

    def push(self) -> None:
        self.gpu.stack.append(self)

    def pop(self) -> None:
        assert self.gpu.stack.pop() is self

    def detach(self) -> None:
        self.gpu.retained -= 1


def make_driver(gpu: Gpu) -> types.ModuleType:
    """A module with the names of pycuda.driver."""

    class Device:
        def __init__(self, index: int) -> None:
            assert 0 <= index < gpu.count
            self.index = index

        @staticmethod
        def count() -> int:
            return gpu.count

        def get_attribute(self, attribute: str) -> int:
            return {"MULTIPROCESSOR_COUNT": 4}[attribute]

        def retain_primary_context(self) -> Context:
            gpu.retained += 1
            return Context(gpu, self.index)

    class EventFlags(IntFlag):
        DEFAULT = 0
        BLOCKING_SYNC = 1
        DISABLE_TIMING = 2

    driver = types.ModuleType("pycuda.driver")
    driver.Error, driver.MemoryError, driver.LogicError = CudaError, CudaMemoryError, CudaLogicError
    driver.init = lambda: None
    driver.Device, driver.event_flags = Device, EventFlags
    driver.Context = types.SimpleNamespace(synchronize=gpu.drain, pop=lambda: gpu.stack.pop())
    driver.mem_alloc = gpu.allocate
    driver.pagelocked_empty = gpu.allocate_pinned
    driver.memcpy_htod_async = gpu.copy_in
    driver.memcpy_dtoh_async = gpu.copy_out
    driver.memcpy_dtod_async = gpu.copy_between
    driver.memcpy_dtoh = gpu.copy_out_now
    driver.memcpy_htod = gpu.copy_in_now
    driver.memset_d8_async = lambda address, value, count, stream: stream.put(
        lambda: gpu.write(int(address), bytes([value]) * count)
    )
    driver.device_attribute = types.SimpleNamespace(MULTIPROCESSOR_COUNT="MULTIPROCESSOR_COUNT")
    driver.module_from_buffer = lambda ptx: types.SimpleNamespace(get_function=lambda name: Kernel(gpu, name))
    driver.mem_get_info = lambda: (gpu.capacity - sum(map(len, gpu.memory.values())), gpu.capacity)
    driver.Stream = type("Stream", (Stream,), {"__init__": lambda self, flags=0: Stream.__init__(self, gpu, flags)})
    driver.Event = type("Event", (Event,), {"__init__": lambda self, flags=0: Event.__init__(self, gpu, flags)})
    return driver


class Libcuda:
    """The functions of the driver API that quantkit calls by ctypes, with their signatures."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def cuInit(self, flags):  # noqa: N802
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = self.gpu.count
        return 0

    def cuDeviceGet(self, device, index):  # noqa: N802
        device._obj.value = index
        return 0 if index < self.gpu.count else 101

    def cuDeviceGetName(self, name, length, device):  # noqa: N802
        name.value = (f"{NAME} {device.value}" if device.value else NAME).encode()
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
        value._obj.value = {75: 9, 76: 0}[attribute]
        return 0

    def cuDeviceGetPCIBusId(self, address, length, device):  # noqa: N802
        address.value = b"0000:01:00.0"
        return 0

    def cuGetErrorString(self, error, text):  # noqa: N802
        text._obj.value = {900: b"operation not permitted when stream is capturing"}.get(error.value, b"odd error")
        return 0

    def cuStreamBeginCapture_v2(self, stream, mode):  # noqa: N802
        assert mode.value == 1, "thread local"
        self.gpu.log("begin capture")
        self.gpu.streams[stream.value].captured = []
        return 0

    def cuStreamEndCapture(self, stream, graph):  # noqa: N802
        self.gpu.log("end capture")
        owner = self.gpu.streams[stream.value]
        captured, owner.captured = owner.captured, None
        graph._obj.value = self._keep(captured)
        return 0

    def cuGraphInstantiateWithFlags(self, executable, graph, flags):  # noqa: N802
        assert flags.value == 0
        executable._obj.value = self._keep(self.gpu.graphs[graph.value])
        return 0

    def cuGraphDestroy(self, graph):  # noqa: N802
        del self.gpu.graphs[graph.value]
        return 0

    cuGraphExecDestroy = cuGraphDestroy  # noqa: N815

    def cuGraphLaunch(self, executable, stream):  # noqa: N802
        self.gpu.log("launch")
        for operation in self.gpu.graphs[executable.value]:
            self.gpu.streams[stream.value].put(operation)
        return 0

    def _keep(self, operations: list[Callable[[], None]]) -> int:
        handle = self.gpu.next_handle()
        self.gpu.graphs[handle] = operations
        return handle


def install(gpu: Gpu, monkeypatch) -> types.ModuleType:
    """Puts the GPU where quantkit looks for one; `monkeypatch` takes it away again."""
    package, driver, load = types.ModuleType("pycuda"), make_driver(gpu), ctypes.CDLL
    package.driver = driver
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr(context, "_retained", {})
    libcuda = Libcuda(gpu)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, *a, **k: libcuda if "cuda" in str(name) else load(name, *a, **k))
    return driver
