r"""Checks `build --precision best` on a real GPU: engines are CUDA kernels whose length follows from what was asked.

python -m benchmarks.gpu_best [--bindings FOLDER --stubs FOLDER] [--seconds 1] [--output REPORT.md] [--fake-cuda]

NVIDIA's real bindings build over the fake libnvinfer of tests/fake_trt, whose engine names the products that read
INT8. Behind TensorRT's Python interface such an engine is one kernel, as long as its products take together. So the
fastest engine is known, and what is measured is everything else: builds, runners, events, turns, intervals, choice.
Run it from the root of the repository. Requirements: those of benchmarks/gpu_runner.py, and onnx; the two folders of
bindings and stubs as in benchmarks/calibrator_stream.py. Prints a Markdown table; exits with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantkit.commands.build_best import build_best
from quantkit.graph.float_model import FloatModel
from quantkit.types import CalibrationTable, TensorRange
from quantkit.types.options import TimedBuildOptions
from tests.fake_trt.library import load
from tests.fake_trt.releases import RELEASES, build_stubs, obtain_bindings

PRODUCTS = 6
WIDTH = 64
FP16_US = 100.0
"""Of each product, beside 100 us for the rest of the model."""

TOLERANCE = 0.03
"""Of a measured speed-up: a kernel takes some microseconds to start."""


@dataclass(frozen=True)
class Case:
    """How long products take in INT8, and what is to be chosen."""

    name: str
    int8_us: float
    expected: str
    slow: Mapping[str, float] = field(default_factory=dict)

    def microseconds(self, engine: Mapping[str, Any]) -> float:
        """Of a query of an engine."""
        quantized = set(engine["int8_products"])
        times = (self.slow.get(n, self.int8_us) if n in quantized else FP16_US for n in engine["products"])
        return FP16_US + sum(times)


CASES = (
    Case("INT8 is faster everywhere", 60.0, "int8"),
    Case("INT8 is 1% faster", 98.83, "fp16"),
    Case("INT8 is slower", 120.0, "fp16"),
    Case("two products are slower in INT8", 60.0, "int8-mixed", {"product_1": 180.0, "product_4": 150.0}),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="timed per engine")
    parser.add_argument("--release", default="10.16", choices=list(RELEASES))
    parser.add_argument("--bindings", type=Path, help="unpacked wheel of the bindings")
    parser.add_argument("--stubs", type=Path, help="folder of the stub libraries")
    parser.add_argument("--output", type=Path, help="file for the Markdown, too")
    parser.add_argument("--fake-cuda", action="store_true", help="no GPU: to try the script")
    arguments = parser.parse_args()
    release = RELEASES[arguments.release]
    load(arguments.stubs or build_stubs(release), arguments.bindings or obtain_bindings(release))
    current: list[Case] = []
    describe = install_fake(current) if arguments.fake_cuda else install_cuda(current)
    lines = [
        "| case | engine | speed-up, known | measured | 95% interval | chosen | |",
        "|:--|:--|--:|--:|:--|:--|:--|",
    ]
    passed = True
    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
        model = write_model(Path(folder) / "net.onnx")
        for case in CASES:
            current[:] = [case]
            rows, is_right = check(case, model, Path(folder), arguments.seconds)
            lines += rows
            passed &= is_right
    text = f"{describe}\n\n" + "\n".join(lines)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n", encoding="utf-8")
    return 0 if passed else 1


def check(case: Case, model: Path, folder: Path, seconds: float) -> tuple[list[str], bool]:
    """One choice: rows of the table, and whether all is as it has to be."""
    best = build_best(
        model,
        search=TimedBuildOptions(max_builds=PRODUCTS + 3, latency_s=seconds),
        table=make_table(model),
        output=folder / "net.best.engine",
        library="tensorrt",
        force=True,
        progress=False,
    )
    products = {f"product_{i}" for i in range(PRODUCTS)}
    left = {"fp16": products, "int8": set()} | {f"int8-{i + 1}": {f"product_{i}"} for i in range(PRODUCTS)}
    left["int8-mixed"] = set(case.slow)
    reference = case.microseconds({"products": products, "int8_products": ()})
    rows, passed = [], best.chosen == case.expected
    for trial in best.trials:
        engine = {"products": products, "int8_products": products - left[trial.name]}
        known = reference / case.microseconds(engine)
        is_right = abs(trial.speedup / known - 1) < TOLERANCE
        interval = "–" if trial.interval is None else f"{trial.interval[0]:.3f} to {trial.interval[1]:.3f}"
        chosen = "chosen" if trial.name == best.chosen else ""
        word = "ok" if is_right else "**fails**"
        rows.append(
            f"| {case.name} | {trial.name} | {known:.3f} | {trial.speedup:.3f} | {interval} | {chosen} | {word} |"
        )
        passed &= is_right
    if best.chosen != case.expected:
        rows.append(f"| {case.name} | | | | | {best.chosen}, not {case.expected} | **fails** |")
    made = json.loads((folder / "net.best.engine").read_bytes())
    return rows, passed and set(made["int8_products"]) == products - left[best.chosen]


def write_model(path: Path) -> Path:
    """X → product_0 → ReLU → product_1 ... → y, [n, WIDTH] each."""
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    for i in range(PRODUCTS):
        weights.append(numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH)).astype(np.float32), f"w{i}"))
        result = "y" if i == PRODUCTS - 1 else f"r{i}"
        nodes.append(helper.make_node("MatMul", [name, f"w{i}"], [f"p{i}"], name=f"product_{i}"))
        nodes.append(helper.make_node("Relu", [f"p{i}"], [result], name=f"relu_{i}"))
        name = result
    shape = ["n", WIDTH]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def make_table(model: Path) -> CalibrationTable:
    """Ranges from -1 to 1: no value is ever computed from them."""
    names = ["x", *(f"r{i}" for i in range(PRODUCTS - 1))]
    ranges = {name: TensorRange(1.0, -1.0, 1.0) for name in names}
    return CalibrationTable(ranges, FloatModel.open(model).hash, "", 1, {"method": "minmax"})


def install_cuda(current: list[Case]) -> str:
    """Engines that run on this machine's GPU. Returns what GPU that is."""
    from benchmarks import gpu_runner as gpu

    gpu.WIDTH = WIDTH
    context = gpu.PrimaryContext()
    gpu.cuda.Stream = gpu.KnownStream
    with context:
        kernels = gpu.Kernels()

    class Runtime(gpu.Runtime):
        def deserialize_cuda_engine(self, content: bytes) -> gpu.Engine:
            us = current[0].microseconds(json.loads(content))
            return gpu.Engine(self, gpu.Plan(spin_us=round(us), weight_bytes=1 << 20))

    module = types.ModuleType("tensorrt")
    module.__dict__.update(vars(sys.modules["tensorrt"]))
    module.__dict__.update(
        Runtime=lambda logger: Runtime(kernels, logger),
        TensorIOMode=gpu.TensorIOMode,
        TensorLocation=gpu.TensorLocation,
        TensorFormat=gpu.TensorFormat,
    )
    sys.modules["tensorrt"] = module
    return gpu.describe(context)


def install_fake(current: list[Case]) -> str:
    """Engines of a GPU that is none."""
    from tests.backends.tensorrt import timed

    timed.install(lambda engine: current[0].microseconds(engine) / 1e3)
    return "no GPU"


if __name__ == "__main__":
    sys.exit(main())
