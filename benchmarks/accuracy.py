"""Top-1 accuracy of INT8 and FP32 for each calibration method and target, on the same test images.

python benchmarks/accuracy.py --calib CALIB --test TEST MODEL [MODEL ...] [--methods auto,entropy] [--num-samples N]

CALIB and TEST are image folders with one subfolder per class. Images are stretched to the input size and normalized by
ImageNet's mean and std. Prints a Markdown table with a row per model and variant; the interval is the 95% interval of
the paired difference. KL is the mean divergence of the class scores from FP32's, in nats, with Q/DQ computed in float;
INT8 the number of weighted operators in INT8; seconds and CPU seconds those of the calibration.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import quantkit
from quantkit import ImageOptions
from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.datasets.batching import make_batches
from quantkit.datasets.open import open_samples
from quantkit.graph.float_model import FloatModel
from quantkit.graph.measured_outputs import measured_outputs
from quantkit.refinement.damage import OutputDamage
from quantkit.types.options import CalibrationOptions

IMAGES = ImageOptions(preset="imagenet", resize="stretch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--calib", required=True, type=Path)
    parser.add_argument("--test", required=True, type=Path)
    parser.add_argument("--methods", default="auto,entropy,minmax,percentile,mse")
    parser.add_argument("--accuracy", choices=["fast", "balanced", "best"], help="of calibrate; default: the method's")
    parser.add_argument("--num-samples", type=int, default=CalibrationOptions.num_samples, help="for calibration")
    parser.add_argument("--num-test", type=int, help="test images (default: all)")
    parser.add_argument("--cpu", action="store_true", help="also measure the models for ONNX Runtime on x86")
    arguments = parser.parse_args()
    columns = ("model", "variant", "top-1 (%)", "vs FP32, points", "95% interval", "agreement (%)", "SQNR dB", "KL")
    print("| " + " | ".join((*columns, "INT8", "s", "CPU s")) + " |")
    print("|---" * (len(columns) + 3) + "|")
    for model in arguments.models:
        measure(model, arguments)


def measure(model: Path, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        variants, costs = {}, {}
        for method in arguments.methods.split(","):
            start, busy = time.monotonic(), time.process_time()
            table = quantkit.calibrate(
                model,
                arguments.calib,
                method=method,
                accuracy=arguments.accuracy,
                num_samples=arguments.num_samples,
                preprocess=IMAGES,
            )
            seconds = [f"{time.monotonic() - start:.0f}", f"{time.process_time() - busy:.0f}"]
            made = quantkit.quantize(model, table, Path(folder) / f"{method}.onnx")
            variants[method] = made.path
            costs[method] = [f"{made.num_quantized} of {made.num_weighted}", *seconds]
            if arguments.cpu:
                path = Path(folder) / f"{method}-cpu.onnx"
                variants[f"{method} cpu"] = quantkit.quantize(model, table, path, target="cpu").path
        report = quantkit.evaluate(
            model,
            arguments.test,
            variants=["fp32"],
            models=variants,
            num_samples=arguments.num_test,
            preprocess=IMAGES,
            latency_s=0,
        )
        divergences = measure_divergences(model, variants, arguments)
    for evaluation in report.evaluations:
        m = evaluation.metrics
        row = [model.stem, evaluation.name, f"{100 * m['top1']:.2f}"]
        if evaluation is not report.baseline:
            low, high = m["top1_difference_low"], m["top1_difference_high"]
            row += [
                f"{100 * (m['top1'] - report.baseline.metrics['top1']):+.2f}",
                f"{100 * low:+.2f} .. {100 * high:+.2f}",
                f"{100 * m['agreement']:.2f}",
                f"{m['sqnr_db']:.1f}",
                f"{divergences[evaluation.name]:.4f}",
                *costs.get(evaluation.name, ["", "", ""]),
            ]
        else:
            row += [""] * 8
        print("| " + " | ".join(row) + " |", flush=True)


def measure_divergences(model: Path, variants: dict[str, Path], arguments: argparse.Namespace) -> dict[str, float]:
    """Mean KL divergence of each variant's class scores from the float model's."""
    opened = FloatModel(model)
    outputs = measured_outputs(opened.prepared())
    data = open_samples(
        opened.inputs, arguments.test, IMAGES, None, num_samples=arguments.num_test, seed=0, order="shuffled"
    )
    sums, count = dict.fromkeys(variants, 0.0), 0
    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(OnnxRuntimeRunner(path, fuse_qdq=False))
            for name, path in {"fp32": model, **variants}.items()
        }
        for batch in make_batches(data, 64, strict=False, workers=None, skipped={}):
            damage = OutputDamage(outputs, [runners["fp32"].run(batch.inputs)])
            for name in variants:
                sums[name] += damage.mean_divergence([runners[name].run(batch.inputs)]) * len(batch)
            count += len(batch)
    return {name: total / count for name, total in sums.items()}


if __name__ == "__main__":
    main()
