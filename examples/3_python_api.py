"""Calibrates, quantizes and evaluates the demo model from Python, with one call each.

Run: python examples/3_python_api.py [--out FOLDER]     Needs: quantkit only.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import quantkit
from quantkit.types import Report

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "examples" / "digits.onnx"
CALIB = ROOT / "calib_data" / "digits" / "calib"
VAL = ROOT / "calib_data" / "digits" / "val"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the INT8 model (default: a new temporary folder)")
    out = parser.parse_args().out or Path(tempfile.mkdtemp(prefix="quantkit-"))
    out.mkdir(parents=True, exist_ok=True)

    table = quantkit.calibrate(MODEL, CALIB)
    int8_model = quantkit.quantize(MODEL, table, out / "digits.int8.onnx")
    report = quantkit.evaluate(MODEL, VAL, table=table)

    print(f"{len(table.tensors)} tensors calibrated by {table.method} on {table.num_samples} images")
    print(f"{int8_model.path}: {int8_model.path.stat().st_size} bytes, the FP32 model {MODEL.stat().st_size}")
    show(report)


def show(report: Report) -> None:
    """Prints one line per variant: metrics with their differences from the baseline, and latency."""
    for evaluation in report.evaluations:
        cells = [f"{evaluation.name:10}"]
        for metric, value in evaluation.metrics.items():
            difference = report.difference(evaluation, metric)
            cells.append(f"{metric} {value:.4f}" + (f" ({difference:+.4f})" if difference else ""))
        if evaluation.latency is not None:
            cells.append(f"{evaluation.latency.median_ms:.3f} ms at batch {evaluation.latency.batch_size}")
        speedup = report.speedup(evaluation)
        if speedup is not None and evaluation is not report.baseline:
            cells.append(f"{speedup:.2f} x as fast")
        print("  ".join(cells))
    for warning in report.warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    main()
