"""Checks the TensorRT runner on a real GPU, with CUDA kernels behind TensorRT's Python interface as engines.

python benchmarks/gpu_runner.py [--seconds 3] [--output REPORT.md]

Requirements: a GPU, nvcc, numpy and pycuda. Buffers, copies, streams, events, CUDA graphs, latency measurement and
errors work as with TensorRT. Only the computation is replaced by kernels with a known result and duration. Prints a
Markdown table; exits with 1 if a check fails.
"""

# ruff: noqa: D101, D102  (the methods are TensorRT's)

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pycuda
import pycuda.driver as cuda

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.tensorrt.library import Library
from quantkit.backends.tensorrt.runtime.runner import TensorRTRunner
from quantkit.datasets.batching import run_padded
from quantkit.errors import BackendError
from quantkit.evaluation.latency.device import TRTEXEC, latency_notes, measure_device_latency
from quantkit.types import Batch

KERNELS = r"""
__device__ unsigned long long now_ns() {
    unsigned long long t; asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t)); return t;
}

extern "C" __global__ void affine(const float* x, float* y, long long n, float a, float b) {
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x)
        y[i] = fmaxf(__fadd_rn(__fmul_rn(a, x[i]), b), 0.0f);  // no fused multiply-add: numpy rounds twice
}

extern "C" __global__ void spin(long long ns) {
    unsigned long long start = now_ns();
    while (now_ns() - start < ns) { }
}

extern "C" __global__ void count_positive(const float* x, long long n, long long* count) {
    long long found = 0;
    for (long long i = 0; i < n; ++i) found += x[i] > 0.0f;
    *count = found;
}

extern "C" __global__ void take_positive(const float* x, long long n, float* y) {
    long long found = 0;
    for (long long i = 0; i < n; ++i) if (x[i] > 0.0f) y[found++] = x[i];
}

extern "C" __global__ void fault() { *(volatile int*)16 = 1; }
"""

A, B = np.float32(1.7), np.float32(-0.3)
WIDTH = 4096
MAX_BATCH = 512

TensorIOMode = Enum("TensorIOMode", "NONE INPUT OUTPUT")
TensorLocation = Enum("TensorLocation", "DEVICE HOST")
TensorFormat = Enum("TensorFormat", "LINEAR CHW32")
DataType = Enum("DataType", "FLOAT HALF BF16 INT32")


@dataclass(frozen=True)
class Plan:
    """An engine: its computation ("affine" or "positive"), the duration it waits first, and its fault."""

    kind: str = "affine"
    spin_us: int = 0
    output_type: DataType = DataType.FLOAT
    waits: bool = False
    faults: bool = False
    context_bytes: int = 4 << 20
    weight_bytes: int = 16 << 20
    max_batch: int = MAX_BATCH


PLANS = {
    b"plain": Plan(),
    b"positive": Plan(kind="positive"),
    b"waits": Plan(waits=True),
    b"faults": Plan(faults=True),
    b"bf16": Plan(output_type=DataType.BF16),
    b"greedy": Plan(context_bytes=1 << 44),
    b"huge": Plan(max_batch=1 << 40),
    **{f"spin {us}".encode(): Plan(spin_us=us) for us in (100, 250, 500, 1000, 2000)},
}


class KnownStream(cuda.Stream):
    """A stream that can be looked up by its handle, which execute_async_v3 receives."""

    by_handle: ClassVar[weakref.WeakValueDictionary[int, KnownStream]] = weakref.WeakValueDictionary()

    def __init__(self, flags: int = 0) -> None:
        super().__init__(flags)
        KnownStream.by_handle[self.handle] = self


class Kernels:
    """The compiled kernels, in the primary context."""

    def __init__(self) -> None:
        from pycuda.compiler import SourceModule

        module = SourceModule(KERNELS, no_extern_c=True)
        formats = {"affine": "PPqff", "spin": "q", "count_positive": "PqP", "take_positive": "PqP", "fault": ""}
        self._functions = {name: module.get_function(name).prepare(form) for name, form in formats.items()}

    def launch(self, name: str, stream: cuda.Stream, *arguments: Any, blocks: int = 1, threads: int = 1) -> None:
        self._functions[name].prepared_async_call((blocks, 1), (threads, 1, 1), stream, *arguments)


class Runtime:
    def __init__(self, kernels: Kernels, logger: Any) -> None:
        self.kernels, self.logger = kernels, logger

    def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
        if content not in PLANS:
            self.logger.log(types.SimpleNamespace(name="ERROR"), "Serialization assertion stdVersionRead failed.")
            return None
        return Engine(self, PLANS[content])


class Engine:
    """The methods of `ICudaEngine`. Its "weights" occupy GPU memory until it is deleted."""

    num_io_tensors = 2
    num_optimization_profiles = 1

    def __init__(self, runtime: Runtime, plan: Plan) -> None:
        self.runtime, self.plan = runtime, plan
        self.weights = cuda.mem_alloc(plan.weight_bytes)
        self.row = () if plan.kind == "positive" else (WIDTH,)

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "x" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.FLOAT if name == "x" else self.plan.output_type

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat.LINEAR

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.row)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [(1, *self.row), (1, *self.row), (self.plan.max_batch, *self.row)]

    def create_execution_context(self) -> Context | None:
        try:
            return Context(self)
        except cuda.MemoryError as error:
            self.runtime.logger.log(types.SimpleNamespace(name="ERROR"), f"Error Code 2: OutOfMemory ({error})")
            return None


class Context:
    """The methods of `IExecutionContext`."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.plan, self.kernels = engine, engine.plan, engine.runtime.kernels
        self.scratch = cuda.mem_alloc(self.plan.context_bytes)
        self.count = cuda.mem_alloc(8)
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.allocator: Any = None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        return [] if self.shape else ["x"]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1,) if self.plan.kind == "positive" and name == "y" else self.shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        self.allocator = output_allocator
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = KnownStream.by_handle[stream_handle]
        if self.plan.faults:
            self.kernels.launch("fault", stream)
        if self.plan.waits:
            try:
                stream.synchronize()  # not allowed while capturing, and spoils the capture
            except cuda.Error:
                return False
        if self.plan.spin_us:
            self.kernels.launch("spin", stream, 1000 * self.plan.spin_us)
        count = int(np.prod(self.shape))
        if self.plan.kind == "positive":
            return self._take_positive(stream, count)
        self.kernels.launch(
            "affine", stream, self.addresses["x"], self.addresses["y"], count, A, B, blocks=1024, threads=256
        )
        return True

    def _take_positive(self, stream: cuda.Stream, count: int) -> bool:
        """Waits for the number of positive elements, then requests the memory, as TensorRT does."""
        self.kernels.launch("count_positive", stream, self.addresses["x"], count, int(self.count))
        found = np.zeros(1, np.int64)
        cuda.memcpy_dtoh_async(found, self.count, stream)
        stream.synchronize()
        size = int(found[0])
        address = self.allocator.reallocate_output_async("y", self.addresses.get("y", 0), 4 * size, 256, stream.handle)
        if not address or address % 256:
            return False
        self.addresses["y"] = address
        self.allocator.notify_shape("y", (size,))
        self.kernels.launch("take_positive", stream, self.addresses["x"], count, address)
        return True


class Checks:
    """A check, its result, and whether it passed."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, bool]] = []

    def add(self, what: str, found: str, passed: bool) -> None:
        self.rows.append((what, found, passed))
        print(f"{'ok  ' if passed else 'FAIL'} {what}: {found}", file=sys.stderr, flush=True)

    def markdown(self) -> str:
        lines = ["| check | result | |", "|:--|:--|:--|"]
        lines += [f"| {what} | {found} | {'ok' if passed else '**fails**'} |" for what, found, passed in self.rows]
        return "\n".join(lines)


def make_library(kernels: Kernels) -> Library:
    class Base:
        def __init__(self) -> None: ...

    module = types.ModuleType("tensorrt")
    module.__dict__.update(
        ILogger=type("ILogger", (Base,), {}),
        IOutputAllocator=type("IOutputAllocator", (Base,), {}),
        Runtime=lambda logger: Runtime(kernels, logger),
        TensorIOMode=TensorIOMode,
        TensorLocation=TensorLocation,
        TensorFormat=TensorFormat,
        DataType=DataType,
    )
    return Library(module, "tensorrt", (0, 0, 0))


def expected(x: np.ndarray) -> np.ndarray:
    return np.maximum(A * x + B, np.float32(0))


def make_batch(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((size, WIDTH), dtype=np.float32)}


Open = Callable[..., TensorRTRunner]


def check_results(open_: Open, checks: Checks) -> None:
    rng = np.random.default_rng(0)
    for cuda_graph in (False, True):
        wrong, graphs, runs = 0, 0, 0
        with open_(b"plain", cuda_graph=cuda_graph) as runner:
            for size in [*rng.integers(1, 129, 40), *[16] * 20, MAX_BATCH, 1]:
                batch = make_batch(rng, int(size))
                for _ in range(3):
                    wrong += not np.array_equal(runner.run(batch)["y"], expected(batch["x"]))
                    runs += 1
                graphs += runner.uses_cuda_graph
            kept = runner.run(batch)["y"]
            runner.run(make_batch(rng, 1))
            wrong += not np.array_equal(kept, expected(batch["x"]))
            notes = runner.notes
        name = "replayed from graphs" if cuda_graph else "plain"
        passed = not wrong and not notes and (graphs > 0) == cuda_graph
        checks.add(f"batches of 1 to {MAX_BATCH}, {name}, bit for bit", f"{wrong} of {runs} differ", passed)
    with open_(b"plain") as runner:
        x = make_batch(rng, 5)["x"]
        outputs = run_padded(runner, Batch({"x": x}, tuple("abcde")))["y"]
        doubles = runner.run({"x": x.astype(np.float64)})["y"]
        same = np.array_equal(outputs, expected(x)) and np.array_equal(doubles, expected(x))
        checks.add("through run_batch, and cast from float64", "equal" if same else "differ", same)


def check_allocated_outputs(open_: Open, checks: Checks) -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    with open_(b"positive", cuda_graph=True) as runner:
        for size in rng.integers(1, MAX_BATCH, 60):
            x = rng.standard_normal(size, dtype=np.float32) - np.float32(rng.choice([-9, 0, 9]))
            wrong += not np.array_equal(runner.run({"x": x})["y"], x[x > 0])
        times = runner.time_block({"x": x}, duration_ms=50)
        note = "; ".join(runner.notes)
    checks.add("outputs whose shape the data decide", f"{wrong} of 60 differ; {len(times)} queries timed", not wrong)
    checks.add("such an engine is not captured, and says so", note, "data decide" in note)


def check_capture_failure(open_: Open, checks: Checks) -> None:
    rng = np.random.default_rng(2)
    batch = make_batch(rng, 8)
    with open_(b"waits", cuda_graph=True) as runner:
        same = all(np.array_equal(runner.run(batch)["y"], expected(batch["x"])) for _ in range(5))
        note = "; ".join(runner.notes)
        timed = len(runner.time_block(batch, duration_ms=20))
    passed = same and timed > 0 and bool(note) and not runner.uses_cuda_graph
    checks.add("an engine that waits inside cannot be captured: it goes on plainly", note, passed)


def check_memory(open_: Open, checks: Checks, context: PrimaryContext) -> None:
    rng = np.random.default_rng(3)
    batches = [make_batch(rng, size) for size in (1, 64)]

    def use(cuda_graph: bool) -> None:
        with open_(b"plain", cuda_graph=cuda_graph) as runner:
            for batch in batches * 2:
                runner.run(batch)
            runner.time_block(batches[0], duration_ms=1)
        with open_(b"positive") as runner:
            runner.run({"x": batches[0]["x"][0, :300]})

    def refuse(engine: bytes, reason: str) -> None:
        message = "nothing"
        try:
            open_(engine)
        except BackendError as error:
            message = str(error)
        if reason not in message:
            raise RuntimeError(f"{engine!r} was to be refused for {reason}, and was for {message}")

    def measure(what: str, action: Callable[[], None], times: int) -> None:
        for _ in range(2):
            action()
        gc.collect()
        before = context.memory_bytes()[0]
        for _ in range(times):
            action()
        gc.collect()
        lost = before - context.memory_bytes()[0]
        checks.add(f"{what}, {times} times", f"{lost} bytes of device memory lost", lost <= 0)

    measure("open, run, time, close", lambda: use(False), 50)
    measure("the same with CUDA graphs", lambda: use(True), 50)
    measure("an engine that is refused after it was loaded (BF16)", lambda: refuse(b"bf16", "BF16"), 20)
    measure("an engine without room for its context", lambda: refuse(b"greedy", "OutOfMemory"), 20)
    measure("no engine at all", lambda: refuse(b"nonsense", "stdVersionRead"), 20)


def check_shortage(open_: Open, checks: Checks, context: PrimaryContext) -> None:
    rng = np.random.default_rng(4)
    batch, large = make_batch(rng, 2), make_batch(rng, 16384)  # 256 MiB in, as much out
    with open_(b"huge") as runner:
        runner.run(batch)
        with context:
            free = context.memory_bytes()[0]
            hog = cuda.mem_alloc(free - (200 << 20))
        message = ""
        try:
            runner.run(large)
        except BackendError as error:
            message = str(error)
        again = np.array_equal(runner.run(batch)["y"], expected(batch["x"]))
        with context:
            hog.free()
        later = np.array_equal(runner.run(large)["y"], expected(large["x"]))
    checks.add("out of memory is told, and the runner goes on", message, "out of memory" in message and again and later)


def check_events(open_: Open, checks: Checks, context: PrimaryContext, kernels: Kernels) -> None:
    batch = make_batch(np.random.default_rng(5), 16)
    for us in (100, 500, 2000):
        with context:
            stream, start, end = cuda.Stream(1), cuda.Event(), cuda.Event()
            alone = []
            for _ in range(20):
                start.record(stream)
                kernels.launch("spin", stream, 1000 * us)
                end.record(stream)
                end.synchronize()
                alone.append(end.time_since(start))
            del stream, start, end
        with open_(f"spin {us}".encode()) as runner:
            times = runner.time_block(batch, duration_ms=200)
        compute, kernel = float(np.median(times.compute_ms)), float(np.median(alone))
        span = sum(map(sum, (times.h2d_ms, times.compute_ms, times.d2h_ms)))
        passed = 0.98 * us / 1e3 <= compute < kernel + 0.05 and span <= 1.001 * times.span_ms + 0.1
        found = f"{1e3 * compute:.1f} us computation, kernel alone {1e3 * kernel:.1f} us, {len(times)} queries; "
        found += f"parts fill {100 * span / times.span_ms:.1f}% of the span"
        checks.add(f"events around a kernel of {us} us", found, passed)
    with open_(b"plain") as runner:
        batch = make_batch(np.random.default_rng(6), MAX_BATCH)
        times = runner.time_block(batch, duration_ms=300)
    rates = [batch["x"].nbytes / 1e6 / float(np.median(part)) for part in (times.h2d_ms, times.d2h_ms)]
    found = f"{rates[0]:.1f} GB/s to the device, {rates[1]:.1f} GB/s back ({batch['x'].nbytes >> 20} MiB)"
    checks.add("copies run at the speed of page-locked memory", found, all(3 < rate < 500 for rate in rates))


def check_graph_timing(open_: Open, checks: Checks) -> None:
    batch = make_batch(np.random.default_rng(7), 4)
    found = {}
    for cuda_graph in (False, True):
        with open_(b"spin 100", cuda_graph=cuda_graph) as runner:
            runner.time_block(batch, duration_ms=50)
            times = runner.time_block(batch, duration_ms=300)
            found[cuda_graph] = (float(np.median(times.compute_ms)), float(np.median(times.enqueue_ms)))
            used = runner.uses_cuda_graph
            same = np.array_equal(runner.run(batch)["y"], expected(batch["x"]))
            if used != cuda_graph or not same:
                checks.add("a graph is used when it is asked for", f"{used}, {same}", False)
    words = [
        f"{name}: {1e3 * c:.1f} us computation, {1e3 * e:.1f} us enqueue"
        for name, (c, e) in zip(("plain", "graph"), found.values(), strict=True)
    ]
    checks.add("graph and plain take the same time on the GPU", "; ".join(words), abs(found[0][0] - found[1][0]) < 0.02)


def check_latency(open_: Open, checks: Checks, seconds: float) -> list[str]:
    """Measures three interleaved engines of known duration; returns the table."""
    names = {"fp32": b"spin 1000", "fp16": b"spin 500", "int8": b"spin 250"}
    runners = {name: open_(engine) for name, engine in names.items()}
    latencies = measure_device_latency(
        runners, make_batch(np.random.default_rng(8), 8), replace(TRTEXEC, duration_s=seconds)
    )
    for runner in runners.values():
        runner.close()
    compute = {name: latency.compute_ms or 0.0 for name, latency in latencies.items()}
    speedups = [compute["fp32"] / compute[name] for name in ("fp16", "int8")]
    passed = abs(speedups[0] - 2) < 0.1 and abs(speedups[1] - 4) < 0.4
    checks.add("kernels of 1000, 500 and 250 us, interleaved", " and ".join(f"{s:.3f}x" for s in speedups), passed)
    lines = [
        "| engine | queries | latency ms | compute ms | p99 | H2D | D2H | enqueue | variation | samples/s | notes |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|:--|",
    ]
    for name, latency in latencies.items():
        numbers = (latency.median_ms, latency.compute_ms, latency.compute_p99_ms, latency.h2d_ms, latency.d2h_ms)
        cells = [name, str(latency.iterations), *(f"{n or 0.0:.4f}" for n in (*numbers, latency.enqueue_ms))]
        cells += [f"{100 * (latency.compute_variation or 0.0):.2f}%", f"{latency.throughput:.0f}"]
        lines.append("| " + " | ".join([*cells, "; ".join(latency_notes(latency)) or "–"]) + " |")
    return lines


def check_fault(checks: Checks) -> None:
    """Runs in a separate process, because every CUDA call fails after such an error."""
    command = [sys.executable, __file__, "--fault"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]]
    checks.add("a fault on the GPU is one error, and closing is quiet", lines[-1], done.returncode == 0)


def fault(open_: Open) -> int:
    batch = make_batch(np.random.default_rng(9), 2)
    runner = open_(b"faults")
    try:
        runner.run(batch)
    except BackendError as error:
        message = str(error)
    else:
        print("the fault went unnoticed")
        return 1
    runner.close()
    runner.close()
    print(message)
    return 0 if "CUDA fails" in message else 1


def describe(context: PrimaryContext) -> str:
    device = cuda.Device(context.device)
    version = cuda.get_driver_version()
    return (
        f"{device.name()}, {device.total_memory() >> 20} MiB; CUDA {version // 1000}.{version % 1000 // 10} by the "
        f"driver; pycuda {'.'.join(map(str, pycuda.VERSION))}; Python {sys.version.split()[0]}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="timed per engine")
    parser.add_argument("--output", type=Path, help="file for the Markdown, too")
    parser.add_argument("--fault", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    context = PrimaryContext()
    cuda.Stream = KnownStream
    with context:
        kernels = Kernels()
    library = make_library(kernels)

    def open_(engine: bytes, **options: Any) -> TensorRTRunner:
        return TensorRTRunner(engine, library=library, name=engine.decode(), **options)

    if arguments.fault:
        return fault(open_)
    checks = Checks()
    with open_(b"plain") as runner:
        backend = runner.backend
    steps: Mapping[str, Callable[[], Any]] = {
        "results": lambda: check_results(open_, checks),
        "allocated outputs": lambda: check_allocated_outputs(open_, checks),
        "capture": lambda: check_capture_failure(open_, checks),
        "memory": lambda: check_memory(open_, checks, context),
        "shortage": lambda: check_shortage(open_, checks, context),
        "events": lambda: check_events(open_, checks, context, kernels),
        "graph timing": lambda: check_graph_timing(open_, checks),
        "fault": lambda: check_fault(checks),
    }
    for name, step in steps.items():
        try:
            step()
        except Exception as error:  # the other checks are still worth having
            checks.add(name, f"{type(error).__name__}: {error}", False)
    table = check_latency(open_, checks, arguments.seconds)
    text = "\n\n".join([f"{describe(context)}; the runner says: {backend}", checks.markdown(), "\n".join(table)])
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n", encoding="utf-8")
    return 0 if all(passed for _, _, passed in checks.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
