"""FP8 and INT4 beside INT8: accuracy and size of models in every format, from one calibration.

python benchmarks/formats.py MODEL.onnx ... --calib DATA --data DATA [--num-samples 2000] [--task classify]

Each model is calibrated for INT8 as `quantkit calibrate` does it by default, unless MODEL.calib.json is there. FP8 and
INT4 are made from that table: INT4 rounded to nearest, and with error feedback on the calibration data.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from quantkit.caches.files import CalibrationFiles
from quantkit.calibration.table import load_table
from quantkit.commands.calibrate import calibrate
from quantkit.commands.evaluate import evaluate
from quantkit.commands.quantize import quantize
from quantkit.graph.float_model import FloatModel

FORMATS = {
    "fp8": ("fp8", False),
    "int4-nearest": ("int4", False),
    "int4-feedback": ("int4", True),
}
"""Name of a variant → format, and whether it sees the calibration data."""


def compare(path: Path, options: argparse.Namespace) -> list[str]:
    """Rows of a table: variant, score, difference, SQNR, size."""
    model, files = FloatModel(path), CalibrationFiles.of_model(path)
    if not files.table.is_file():
        calibrate(model, options.calib, table_path=files.table, accuracy=options.accuracy, progress=False)
    table = load_table(files.table)
    made = {}
    for name, (form, sees_data) in FORMATS.items():
        output = path.with_name(f"{path.stem}.{name}.onnx")
        try:
            quantize(model, table, output, format=form, data=options.calib if sees_data else None)
        except Exception as error:
            print(f"{path.stem} {name}: {error}", file=sys.stderr)
            continue
        made[name] = output
    report = evaluate(
        model,
        options.data,
        task=options.task,
        table=table,
        models=made,
        variants=["fp32", "fp16", "int8"],
        num_samples=options.num_samples,
        latency_s=0,
        layer_samples=0,
        progress=False,
    )
    rows = []
    for found in report.evaluations:
        score = next((value for key, value in found.metrics.items() if key in ("top1_accuracy", "top1")), float("nan"))
        sqnr = found.metrics.get("sqnr_db", float("nan"))
        agreement = found.metrics.get("agreement", float("nan"))
        share = found.size_bytes / model.size_bytes
        rows.append(f"| {path.stem} | {found.name} | {score:.4f} | {agreement:.4f} | {sqnr:.1f} | {share:.3f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--calib", required=True, help="calibration data")
    parser.add_argument("--data", required=True, help="data to score on")
    parser.add_argument("--num-samples", type=int, default=2000)
    parser.add_argument("--task", default="classify")
    parser.add_argument("--accuracy", default=None, help="of the calibration: fast, balanced or best")
    options = parser.parse_args()
    print("| model | format | top-1 | agreement | SQNR dB | size of FP32 |\n|---|---|---|---|---|---|")
    for path in options.models:
        print("\n".join(compare(path, options)), flush=True)


if __name__ == "__main__":
    main()
