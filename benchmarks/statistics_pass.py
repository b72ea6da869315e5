"""Cost of collecting statistics beside the plain forward pass over the same decoded batches, and beside other tools.

    python benchmarks/statistics_pass.py --data IMAGES mobilenetv2.onnx resnet50:224 [--images 1000] [--rounds 5]
        [--ort PYTHON] [--nncf PYTHON] [--modelopt PYTHON] [--json FILE]

"plain" is the unmodified model with all of ONNX Runtime's optimizations, "exposed" the model with the tensors that Q/DQ
need among its outputs, "needed" what `calibrate` collects of them, "all" the same with every activation, as caches of
TensorRT need them. CPU seconds (user and system, all threads) of one process that takes the variants in turn; ratios
are medians of the ratios of each turn, so that other load on the machine meets both sides. `resnet50:SIZE` is a
ResNet-50 with random weights on random images of that size.

Other tools calibrate the same model on the same batches once per round, their imports not counted: ONNX Runtime's
MinMax calibrator, NNCF and ModelOpt by the Python of an environment that holds them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantkit import ImageOptions
from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.calibration import statistics as counting
from quantkit.calibration.collect import Collector
from quantkit.commands.on_device import open_observer
from quantkit.datasets.batching import make_batches
from quantkit.datasets.open import open_samples
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import input_specs, share_weights
from quantkit.graph.observed_tensors import observed_tensors
from quantkit.graph.passes.expose import batch_first, expose, hide_copies
from quantkit.types import Batch

ORT_MINMAX = """
import time
from onnxruntime.quantization import CalibrationMethod, create_calibrator, quant_pre_process
from onnxruntime.quantization.calibrate import CalibrationDataReader
class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter(batches)
    def get_next(self):
        batch = next(self.batches, None)
        return None if batch is None else {name: batch}
begin = time.process_time()
quant_pre_process(model, folder + "/pre.onnx")
calibrator = create_calibrator(folder + "/pre.onnx", augmented_model_path=folder + "/augmented.onnx")
calibrator.collect_data(Reader())
calibrator.compute_data()
"""
NNCF = """
import time
import nncf, onnx
loaded = onnx.load(model)
data = nncf.Dataset([{name: batch} for batch in batches])
begin = time.process_time()
nncf.quantize(loaded, data, subset_size=len(batches), fast_bias_correction=True)
"""
MODELOPT = """
import time
from modelopt.onnx.quantization import quantize
begin = time.process_time()
shape = "x".join(map(str, batches[0].shape))
data = {name: np.concatenate(batches)}
quantize(onnx_path=model, quantize_mode="int8", calibration_data=data, calibration_method="max",
         calibration_shapes=f"{name}:{shape}", calibration_eps=["cpu"], high_precision_dtype="fp32",
         output_path=folder + "/modelopt.onnx")
"""
PREPARE = """
import sys
import numpy as np
model, folder, name = sys.argv[1:4]
stored = np.load(folder + "/images.npy")
size = int(sys.argv[4])
batches = [stored[i:i + size] for i in range(0, len(stored) // size * size, size)]
"""
MANY = 1000
"""Samples that a calibration has, of which the benchmark measures some."""
REPORT = """
print("cpu_s", time.process_time() - begin)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="model.onnx, or resnet50:SIZE")
    parser.add_argument("--data", type=Path, help="images for the models that are files")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ort", metavar="PYTHON", help="of an environment with onnxruntime")
    parser.add_argument("--nncf", metavar="PYTHON", help="likewise, with nncf")
    parser.add_argument("--modelopt", metavar="PYTHON", help="likewise, with nvidia-modelopt[onnx]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    peers = {
        "ORT MinMax": (options.ort, ORT_MINMAX),
        "NNCF": (options.nncf, NNCF),
        "ModelOpt": (options.modelopt, MODELOPT),
    }
    found = []
    for word in options.models:
        with tempfile.TemporaryDirectory(prefix="quantkit-pass-") as name:
            folder = Path(name)
            path, batches = open_model(word, options, folder)
            variants = dict(own_variants(path, batches))
            variants |= {
                peer: peer_variant(python, code, path, batches, folder)
                for peer, (python, code) in peers.items()
                if python
            }
            found.append({"model": word, "images": sum(map(len, batches)), **measure(variants, options.rounds)})
            show(found[-1])
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def open_model(word: str, options: argparse.Namespace, folder: Path) -> tuple[Path, list[Batch]]:
    """The model's path, and its batches, decoded."""
    kind, _, size = word.partition(":")
    if kind == "resnet50":
        path = write_resnet50(folder / "resnet50.onnx", int(size))
        random = np.random.default_rng(0)
        images = random.standard_normal((options.images, 3, int(size), int(size)), dtype=np.float32)
        pieces = np.split(images, range(options.batch_size, options.images, options.batch_size))
        return path, [Batch({"input": piece}, tuple(map(str, range(len(piece))))) for piece in pieces]
    preprocess = ImageOptions(preset="imagenet", resize="stretch")
    inputs = input_specs(FloatModel(word).graph)
    dataset = open_samples(inputs, options.data, preprocess, None, num_samples=options.images, seed=0, order="shuffled")
    return Path(word), list(make_batches(dataset, options.batch_size, strict=True, workers=None, skipped={}))


def own_variants(path: Path, batches: Sequence[Batch]) -> Iterator[tuple[str, Callable[[], float]]]:
    """By name, what runs once over the batches and returns CPU seconds."""
    plain = OnnxRuntimeRunner(path, spinning=False)
    yield "plain", lambda: timed(lambda: run_all(plain, batches))
    model = FloatModel(path)
    for label, all_tensors in (("needed", False), ("all", True)):
        names = observed_tensors(model.prepared(), all_tensors=all_tensors).names
        exposed = expose(model.prepared(), names)
        copies = hide_copies(exposed, names, batch_first(exposed))
        known = (open_observer(share_weights(exposed), MANY, name=path.name), batches, names, copies)
        if not all_tensors:
            yield "exposed", lambda known=known: timed(lambda: run_all(*known[:2]))
            yield "needed, NumPy", lambda known=known: timed(lambda: collect_by_numpy(*known))
        yield label, lambda known=known: timed(lambda: collect(*known))


def run_all(runner: OnnxRuntimeRunner, batches: Sequence[Batch]) -> None:
    for batch in batches:
        runner.run(batch.inputs)


def collect(
    runner: OnnxRuntimeRunner, batches: Sequence[Batch], names: Sequence[str], copies: Mapping[str, str]
) -> None:
    collector = Collector(names, copies=copies)
    for batch in batches:
        collector.observe(runner, batch)


def collect_by_numpy(
    runner: OnnxRuntimeRunner, batches: Sequence[Batch], names: Sequence[str], copies: Mapping[str, str]
) -> None:
    kernel, counting.KERNEL = counting.KERNEL, None
    try:
        collect(runner, batches, names, copies)
    finally:
        counting.KERNEL = kernel


def peer_variant(python: str, code: str, path: Path, batches: Sequence[Batch], folder: Path) -> Callable[[], float]:
    """Another tool in a process of its own, on the full batches."""
    (name,) = batches[0].inputs
    np.save(folder / "images.npy", np.concatenate([batch.inputs[name] for batch in batches]))
    words = [python, "-c", PREPARE + code + REPORT, str(path), str(folder), name, str(len(batches[0]))]

    def run() -> float:
        output = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
        if output.returncode:
            raise SystemExit(output.stderr[-2000:])
        return float(output.stdout.rsplit("cpu_s", 1)[1])

    return run


def timed(action: Callable[[], object]) -> float:
    begin = time.process_time()
    action()
    return time.process_time() - begin


def measure(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, dict[str, float]]:
    variants["plain"]()  # loads what is loaded on first use
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            times[name].append(run())
    ratios = {
        name: statistics.median(own / plain for own, plain in zip(values, times["plain"], strict=True))
        for name, values in times.items()
    }
    return {"cpu_s": {name: statistics.median(values) for name, values in times.items()}, "times_plain": ratios}


def show(found: dict[str, object]) -> None:
    cpu, ratios = found["cpu_s"], found["times_plain"]
    print(f"\n{found['model']}, {found['images']} images\n\n| variant | CPU s | x plain |\n|---|---|---|")
    for name in cpu:
        print(f"| {name} | {cpu[name]:.2f} | {ratios[name]:.2f} |", flush=True)


def write_resnet50(path: Path, size: int) -> Path:
    """ResNet-50 as it is exported: batch normalization folded into the convolutions; random weights."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def conv(value: str, channels: tuple[int, int], kernel: int, stride: int, relu: bool) -> str:
        name = f"conv{len(nodes)}"
        weight = random.standard_normal((channels[1], channels[0], kernel, kernel), dtype=np.float32)
        gain = (2 if relu else 0.5) / (channels[0] * kernel * kernel)
        weights.append(numpy_helper.from_array(weight * np.float32(gain**0.5), f"{name}.w"))
        weights.append(numpy_helper.from_array(random.standard_normal(channels[1], dtype=np.float32) / 10, f"{name}.b"))
        pads, strides = [kernel // 2] * 4, [stride] * 2
        inputs = [value, f"{name}.w", f"{name}.b"]
        nodes.append(
            helper.make_node("Conv", inputs, [name], name=name, kernel_shape=[kernel] * 2, pads=pads, strides=strides)
        )
        return activate(name) if relu else name

    def activate(value: str) -> str:
        nodes.append(helper.make_node("Relu", [value], [f"{value}.relu"], name=f"{value}.relu"))
        return f"{value}.relu"

    value = conv("input", (3, 64), 7, 2, relu=True)
    nodes.append(helper.make_node("MaxPool", [value], ["pool"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    value, width = "pool", 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            skip = value if block else conv(value, (width, 4 * inner), 1, stride, relu=False)
            inside = conv(value, (width, inner), 1, 1, relu=True)
            inside = conv(inside, (inner, inner), 3, stride, relu=True)
            inside, width = conv(inside, (inner, 4 * inner), 1, 1, relu=False), 4 * inner
            nodes.append(helper.make_node("Add", [inside, skip], [f"{inside}.sum"]))
            value = activate(f"{inside}.sum")
    weights.append(numpy_helper.from_array(random.standard_normal((1000, width), dtype=np.float32) / 45, "fc.w"))
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "fc.w"], ["output"], transB=1))
    ports = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, size, size]),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 1000]),
    ]
    graph = helper.make_graph(nodes, "resnet50", ports[:1], ports[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


if __name__ == "__main__":
    main()
