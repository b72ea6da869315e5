"""Top-1 accuracy of INT8 and FP32 for each calibration method and target, on the same test images.

python benchmarks/accuracy.py --calib CALIB --test TEST MODEL [MODEL ...] [--methods entropy,mse] [--num-samples N]

CALIB and TEST are image folders with one subfolder per class. Images are stretched to the input size and normalized by
ImageNet's mean and std. Prints a Markdown table with a row per model and variant; the interval is the 95% interval of
the paired difference.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import quantkit
from quantkit import ImageOptions

IMAGES = ImageOptions(preset="imagenet", resize="stretch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--calib", required=True, type=Path)
    parser.add_argument("--test", required=True, type=Path)
    parser.add_argument("--methods", default="entropy,minmax,percentile,mse")
    parser.add_argument("--num-samples", type=int, default=1000, help="for calibration")
    parser.add_argument("--num-test", type=int, help="test images (default: all)")
    parser.add_argument("--cpu", action="store_true", help="also measure the models for ONNX Runtime on x86")
    arguments = parser.parse_args()
    print("| model | variant | top-1 (%) | vs FP32, points | 95% interval | agreement (%) | SQNR dB |")
    print("|---|---|---|---|---|---|---|")
    for model in arguments.models:
        measure(model, arguments)


def measure(model: Path, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        variants = {}
        for method in arguments.methods.split(","):
            table = quantkit.calibrate(
                model, arguments.calib, method=method, num_samples=arguments.num_samples, preprocess=IMAGES
            )
            variants[method] = quantkit.quantize(model, table, Path(folder) / f"{method}.onnx").path
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
    for evaluation in report.evaluations:
        m = evaluation.metrics
        row = [model.stem, evaluation.name, f"{100 * m['top1']:.2f}"]
        if evaluation is not report.baseline:
            low, high = m["top1_difference_low"], m["top1_difference_high"]
            row += [
                f"{100 * (m['top1'] - report.baseline.metrics['top1']):+.2f}",
                f"{100 * low:+.2f} .. {100 * high:+.2f}",
            ]
            row += [f"{100 * m['agreement']:.2f}", f"{m['sqnr_db']:.1f}"]
        else:
            row += ["", "", "", ""]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
