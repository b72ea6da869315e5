"""Checks and times the statistics pass on NVIDIA GPUs.

python benchmarks/gpu_calibration.py [--images 1024] [--batch 64] [--gpus 1] [--output FOLDER] [MODEL ...]

Requirements: a GPU, ONNX Runtime with its CUDA provider, pycuda. First the kernels are compared with NumPy, bit for
bit, on arrays of every kind and on the activations of a generated ResNet-50. Then its passes over preprocessed images
are timed, interleaved: the plain forward pass, and those that collect the tensors that Q/DQ needs, and all of them; on
one GPU and on several. MODELs are calibrated on random images on the CPU and on the GPU, and their ranges compared.
Writes gpu_calibration.json; exits with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import quantkit
from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.cuda.histogram import DeviceHistograms
from quantkit.backends.device_runner import DeviceRunner
from quantkit.calibration.collect import Collector
from quantkit.calibration.parallel import CollectorGroup
from quantkit.calibration.statistics import new_statistics, update
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import share_weights
from quantkit.graph.observed_tensors import observed_tensors
from quantkit.graph.passes.expose import batch_first, expose
from quantkit.types import Batch, TensorStatistics

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path())
    arguments = parser.parse_args()
    context = PrimaryContext(0)
    result: dict[str, Any] = {
        "gpu": context.driver.Device(0).name(),
        "onnxruntime": onnxruntime.__version__,
        "images": arguments.images,
        "batch": arguments.batch,
    }
    failures = check_kernels(context)
    path = arguments.output / "resnet50.onnx"
    make_resnet50(path)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((arguments.batch, 3, 224, 224), np.float32)
    failures += check_model(path, context, images[:4])
    result["copy_gb_s"] = copy_bandwidth(context)
    result["resnet50"] = time_resnet50(path, images, arguments)
    for model in arguments.models:
        result[model.stem] = compare_devices(model, arguments.output)
    result["failures"] = failures
    (arguments.output / "gpu_calibration.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
    sys.exit(bool(failures))


def check_kernels(context: PrimaryContext) -> list[str]:
    """Arrays of every kind, in several batches, against NumPy."""
    rng = np.random.default_rng(1)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    tiny = np.float32(1e-45)
    batches: dict[str, list[np.ndarray]] = {
        "normal": [normal(4, 1001), normal(4, 1001), normal(4, 1001)],
        "grows": [normal(100), 3 * normal(100), 1000 * normal(100)],
        "grows_much": [normal(999, scale=1e-30), normal(999), normal(999, scale=1e30)],
        "zeros_then_values": [np.zeros(77, np.float32), np.zeros(3, np.float32), normal(55)],
        "negative_zero": [np.full(9, -0.0, np.float32)] * 3,
        "relu": [np.maximum(normal(64, 333), 0) for _ in range(3)],
        "denormal": [np.array([tiny, -tiny, 0, 5 * tiny], np.float32), np.full(5, tiny), normal(5, scale=1e-38)],
        "largest": [np.array([np.finfo(np.float32).max, -1, 0], np.float32), normal(8), -normal(8)],
        "powers": [np.exp2(np.arange(-126, 127, dtype=np.float32)), np.exp2(np.arange(-20, 20, dtype=np.float32))] * 2,
        "one": [np.float32([3]), np.float32([-4]), np.float32([0.1])],
        "half": [normal(5, 77).astype(np.float16), 9 * normal(5, 77).astype(np.float16), normal(1).astype(np.float16)],
        "empty_first": [np.zeros(0, np.float32), normal(3), normal(4)],
        "large": [normal(1 << 24), normal((1 << 24) + 3), np.zeros(1 << 24, np.float32)],
        "bin_edges": [np.arange(8193, dtype=np.float32), np.arange(8193, dtype=np.float32) / 8192, normal(7)],
    }
    histograms = DeviceHistograms(context, batches)
    wanted = {name: new_statistics() for name in batches}
    for i in range(3):
        histograms.add({name: arrays[i] for name, arrays in batches.items()})
        for name, arrays in batches.items():
            update(wanted[name], arrays[i])
    failures = differences(histograms.statistics(), wanted)
    if histograms.wait():
        failures.append(f"finite values are called non-finite: {histograms.wait()}")
    histograms.free()
    for bad in (np.nan, np.inf, -np.inf):
        histograms = DeviceHistograms(context, ["good", "bad"])
        values = normal(100_000)
        values[77_777] = bad
        histograms.add({"good": normal(9), "bad": values})
        if histograms.wait() != ("bad",):
            failures.append(f"{bad} is not found")
        histograms.free()
    print(f"kernels: {failures or 'as NumPy'}", flush=True)
    return failures


def differences(found: Mapping[str, TensorStatistics], wanted: Mapping[str, TensorStatistics]) -> list[str]:
    """What is not the same, bit for bit."""
    failures = []
    for name, right in wanted.items():
        got = found[name]
        numbers = [(s.bin_width, s.minimum, s.maximum, np.signbit(s.minimum)) for s in (got, right)]
        if numbers[0] != numbers[1] or not np.array_equal(got.histogram, right.histogram):
            wrong = np.flatnonzero(got.histogram != right.histogram)
            failures.append(f"{name}: {numbers[0]} instead of {numbers[1]}, {wrong.size} bins, first {wrong[:3]}")
    return failures


def check_model(path: Path, context: PrimaryContext, images: np.ndarray) -> list[str]:
    """The statistics of a model's activations as the GPU computed them, against NumPy on the same values."""
    exposed, names = open_exposed(path, all_tensors=True)
    histograms = DeviceHistograms(context, names)
    with DeviceRunner(share_weights(exposed), context) as runner:
        values = runner.run({"x": images})
        histograms.add({name: values[name] for name in names})
        wanted = {name: new_statistics() for name in names}
        for name in names:
            update(wanted[name], np.asarray(values[name]))
        failures = differences(histograms.statistics(), wanted)
        histograms.free()
    print(f"{len(names)} activations of ResNet-50: {failures or 'as NumPy'}", flush=True)
    return failures


def open_exposed(path: Path, *, all_tensors: bool) -> tuple[Any, list[str]]:
    """The model with the tensors to observe as outputs, and their names."""
    graph = FloatModel(path).prepared()
    names = list(observed_tensors(graph, all_tensors=all_tensors).names)
    return expose(graph, names), names


def copy_bandwidth(context: PrimaryContext) -> float:
    """Bytes read and written by a copy within the GPU, in GB/s."""
    driver, size = context.driver, 1 << 30
    with context:
        source, target = driver.mem_alloc(size), driver.mem_alloc(size)
        start, end = driver.Event(), driver.Event()
        for _ in range(3):
            start.record()
            driver.memcpy_dtod(target, int(source), size)
            end.record()
            end.synchronize()
        found = 2 * size / end.time_since(start) / 1e6
        source.free()
        target.free()
    return float(found)


def time_resnet50(path: Path, images: np.ndarray, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each pass, median over rounds; bandwidth of the counting alone."""
    count = -(-arguments.images // len(images))
    result: dict[str, Any] = {}
    with ExitStack() as stack:
        passes: dict[str, Callable[[], object]] = {}

        def batches() -> Iterator[Batch]:
            for i in range(count):
                yield Batch(inputs={"x": images}, ids=tuple(f"{i}.{j}" for j in range(len(images))))

        for gpus in dict.fromkeys((1, arguments.gpus)):
            contexts = [PrimaryContext(i) for i in range(gpus)]
            plain = share_weights(FloatModel(path).prepared())
            runners = [stack.enter_context(DeviceRunner(plain, context)) for context in contexts]
            if gpus == 1:
                passes["plain, 1 GPU"] = lambda runner=runners[0]: [runner.run(b.inputs) for b in batches()]
            for label, all_tensors in (("needed", False), ("all", True)):
                exposed, names = open_exposed(path, all_tensors=all_tensors)
                first = batch_first(exposed)
                shared = share_weights(exposed)
                members = []
                for context in contexts:
                    histograms = DeviceHistograms(context, names)
                    stack.callback(histograms.free)
                    runner = stack.enter_context(DeviceRunner(shared, context))
                    members.append((runner, Collector(names, batch_first=first, accumulator=histograms)))
                passes[f"{label}, {gpus} GPU"] = lambda members=members: collect(members, batches())
                if gpus == 1:
                    result[f"counting {label}"] = count_alone(*members[0], next(batches()))
        seconds: dict[str, list[float]] = {name: [] for name in passes}
        for n in range(ROUNDS + 1):
            for name, run in passes.items():
                start = time.perf_counter()
                run()
                if n:  # the first round chooses algorithms
                    seconds[name].append(time.perf_counter() - start)
    result["seconds"] = {name: statistics.median(values) for name, values in seconds.items()}
    plain_s = result["seconds"]["plain, 1 GPU"]
    result["ratio to plain"] = {name: value / plain_s for name, value in result["seconds"].items()}
    return result


def collect(members: list[tuple[Any, Collector]], batches: Iterator[Batch]) -> dict[str, TensorStatistics]:
    """One pass."""
    with CollectorGroup(members) as group:
        for batch in batches:
            group.observe(batch)
        return group.statistics


def count_alone(runner: Any, collector: Collector, batch: Batch) -> dict[str, float]:
    """Milliseconds and GB/s of the kernels, on the activations of one batch."""
    outputs = runner.run(batch.inputs)
    size = sum(a.nbytes for name, a in outputs.items() if name in collector.statistics)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        collector.add(batch, outputs)
        collector.wait()
        times.append(time.perf_counter() - start)
    best = statistics.median(times[2:])
    return {"mib": size / 2**20, "ms": 1e3 * best, "gb_s": size / best / 1e9}


def compare_devices(model: Path, folder: Path) -> dict[str, Any]:
    """A whole calibration on the CPU and on the GPU: seconds, and how far the ranges differ."""
    spec = FloatModel(model).inputs[0]
    shape = [d if isinstance(d, int) else 256 for d in spec.shape]
    data = folder / f"{model.stem}.npy"
    np.save(data, np.random.default_rng(0).standard_normal((256, *shape[1:]), np.float32))
    found: dict[str, Any] = {}
    tables = {}
    for device in ("cpu", "cuda"):
        for accuracy in ("fast", "balanced"):
            start, busy = time.perf_counter(), time.process_time()
            table = quantkit.calibrate(model, data, device=device, accuracy=accuracy)
            found[f"{device} {accuracy}"] = {
                "s": time.perf_counter() - start,
                "cpu_s": time.process_time() - busy,
                "quality": dict(table.quality),
                "float": len(table.float_tensors),
            }
            tables[device, accuracy] = table
            print(model.stem, device, accuracy, found[f"{device} {accuracy}"], flush=True)
    one, other = (tables[device, "fast"].tensors for device in ("cpu", "cuda"))
    found["largest difference of a range"] = max(abs(one[n].amax - other[n].amax) / one[n].amax for n in one)
    return found


def make_resnet50(path: Path) -> None:
    """ResNet-50 v1.5 with random weights, folded batch normalization, free batch size."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def conv(x: str, c_in: int, c_out: int, kernel: int, stride: int = 1, relu: bool = True) -> str:
        name = f"conv{len(weights)}"
        weight = rng.standard_normal((c_out, c_in, kernel, kernel), np.float32) * np.sqrt(2 / (c_in * kernel**2))
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}.w"))
        weights.append(numpy_helper.from_array(np.zeros(c_out, np.float32), f"{name}.b"))
        pads = [kernel // 2] * 4
        inputs = [x, f"{name}.w", f"{name}.b"]
        nodes.append(helper.make_node("Conv", inputs, [name], name, pads=pads, strides=[stride] * 2))
        if not relu:
            return name
        nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"], f"{name}.relu"))
        return f"{name}.relu"

    x = conv("x", 3, 64, 7, 2)
    nodes.append(helper.make_node("MaxPool", [x], ["pool"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    x, c_in = "pool", 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            skip = x if block else conv(x, c_in, 4 * width, 1, stride, relu=False)
            y = conv(conv(conv(x, c_in, width, 1), width, width, 3, stride), width, 4 * width, 1, relu=False)
            name = f"block{stage}.{block}"
            nodes.append(helper.make_node("Add", [y, skip], [name], name))
            nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"], f"{name}.relu"))
            x, c_in = f"{name}.relu", 4 * width
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["mean"], "mean"))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"], "flat"))
    weights.append(numpy_helper.from_array(rng.standard_normal((2048, 1000), np.float32) * 0.02, "fc.w"))
    nodes.append(helper.make_node("MatMul", ["flat", "fc.w"], ["y"], "fc"))
    graph = helper.make_graph(
        nodes,
        "resnet50",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1000])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


if __name__ == "__main__":
    main()
