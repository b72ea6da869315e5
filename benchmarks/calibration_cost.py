"""Cost of calibration: CPU time compared with the FP32 forward pass over the same batches, and peak memory.

python benchmarks/calibration_cost.py --data IMAGES MODEL [MODEL ...] [--counts 100,1000] [--method entropy]

Each number is measured on a separate child process by the operating system (user + system time of all threads, maximum
resident set size). "forward" decodes and preprocesses the same images and runs the unmodified model; "import" only
imports the modules that calibration needs. Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

IMPORTS = (
    "import quantkit.commands.calibrate, quantkit.graph.quantize_cpu, quantkit.backends.onnxruntime as b, onnxruntime\n"
)
OPEN = """
import sys
from quantkit import ImageOptions
model, data, count, method = sys.argv[1:5]
images = ImageOptions(preset="imagenet", resize="stretch")
"""
CALIBRATE = (
    IMPORTS
    + OPEN
    + """
import quantkit
quantkit.calibrate(model, data, method=method, num_samples=int(count), preprocess=images, progress=False)
"""
)
FORWARD = (
    IMPORTS
    + OPEN
    + """
from pathlib import Path
from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import input_specs
from quantkit.datasets.batching import make_batches
from quantkit.datasets.open import open_samples
inputs = input_specs(FloatModel(model).graph)
dataset = open_samples(inputs, data, images, None, num_samples=int(count), seed=0, order="shuffled")
with OnnxRuntimeRunner(Path(model), spinning=False) as runner:
    for batch in make_batches(dataset, 32, strict=True, workers=None, skipped={}):
        runner.run(batch.inputs)
"""
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--counts", default="100,1000")
    parser.add_argument("--method", default="entropy")
    parser.add_argument("--repeat", type=int, default=3, help="the median of so many runs")
    arguments = parser.parse_args()
    print("| model | images | import, CPU s | forward, CPU s | calibrate, CPU s | forward, MiB | calibrate, MiB |")
    print("|---|---|---|---|---|---|---|")
    for model in arguments.models:
        for count in arguments.counts.split(","):
            words = [str(model), str(arguments.data), count, arguments.method]
            runs = {
                label: [run(code, words) for _ in range(arguments.repeat)]
                for label, code in (("import", IMPORTS), ("forward", FORWARD), ("calibrate", CALIBRATE))
            }
            seconds = {label: median(s for s, _ in pairs) for label, pairs in runs.items()}
            mebibytes = {label: median(m for _, m in pairs) for label, pairs in runs.items()}
            print(
                f"| {model.stem} | {count} | {seconds['import']:.2f} | {seconds['forward']:.2f} | "
                f"{seconds['calibrate']:.2f} | {mebibytes['forward']:.0f} | {mebibytes['calibrate']:.0f} |",
                flush=True,
            )


def run(code: str, words: list[str]) -> tuple[float, float]:
    """CPU seconds and peak MiB of one child process."""
    process = subprocess.Popen([sys.executable, "-c", code, *words])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("a measured process failed")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit


def median(values: object) -> float:
    ordered = sorted(values)  # type: ignore[call-overload]
    return float(ordered[len(ordered) // 2])


if __name__ == "__main__":
    main()
