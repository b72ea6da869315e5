"""What a large model costs `quantkit calibrate`: two checkouts side by side.

    python benchmarks/large_model.py BEFORE AFTER [--runs 3]

Writes a model of 335 MB (20 MatMuls of 2048 x 2048 with Relus between them) and 32 samples into a temporary folder, and
calibrates it with each checkout in turn, `--runs` times, as a user would. Prints JSON: wall time and CPU time of each
run in seconds, and the largest resident memory of its process tree in MB (2^20 bytes), sampled every 10 ms; for each
checkout the medians. The tables of both have to be the same, versions apart. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, WIDTH, SAMPLES = 20, 2048, 32
PAGES_PER_MB = (1 << 20) / os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Measures, and prints what was measured."""
    parser = argparse.ArgumentParser(description="Cost of calibrating a large model, two checkouts side by side.")
    parser.add_argument("checkouts", nargs=2, type=Path, metavar="CHECKOUT", help="folders that hold quantkit/")
    parser.add_argument("--runs", type=int, default=3, help="of each checkout (default: 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quantkit-large-") as name:
        folder = Path(name)
        size = write_inputs(folder)
        runs: dict[Path, list[dict[str, float]]] = {checkout: [] for checkout in options.checkouts}
        for _ in range(options.runs):
            for checkout in options.checkouts:
                runs[checkout].append(measure(checkout, folder))
        tables = [read_table(folder, checkout) for checkout in options.checkouts]
    found = [
        {
            "checkout": checkout.resolve().name,
            "median": {key: statistics.median(run[key] for run in runs[checkout]) for key in runs[checkout][0]},
            "runs": runs[checkout],
        }
        for checkout in options.checkouts
    ]
    print(json.dumps({"model_mb": round(size / 1e6), "same_table": tables[0] == tables[1], "found": found}, indent=2))
    return 0 if tables[0] == tables[1] else 1


def write_inputs(folder: Path) -> int:
    """Writes model and samples; returns the bytes of the model."""
    random = np.random.default_rng(0)
    nodes, weights, value = [], [], "input"
    for layer in range(LAYERS):
        weight = random.standard_normal((WIDTH, WIDTH), dtype=np.float32) * np.float32((2 / WIDTH) ** 0.5)
        weights.append(numpy_helper.from_array(weight, f"weight_{layer}"))
        product = f"product_{layer}"
        nodes.append(helper.make_node("MatMul", [value, f"weight_{layer}"], [product], name=f"matmul_{layer}"))
        nodes.append(helper.make_node("Relu", [product], [f"relu_{layer}"], name=f"relu_{layer}"))
        value = f"relu_{layer}"
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in ("input", value)]
    graph = helper.make_graph(nodes, "large", ports[:1], ports[1:], weights)
    path = folder / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    np.save(folder / "data.npy", random.standard_normal((SAMPLES, WIDTH), dtype=np.float32))
    return path.stat().st_size


def measure(checkout: Path, folder: Path) -> dict[str, float]:
    """One calibration by a process of its own."""
    words = ["calibrate", "large.onnx", "--data", "data.npy", "-o", output_of(checkout), "--calibrator", "quantkit"]
    words += ["--method", "entropy"]  # the default of both, once
    (folder / output_of(checkout)).mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "quantkit", *words, "--force", "-q"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, resident_mb(process.pid))
            time.sleep(0.01)
    wall = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{checkout}: calibrate ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_mb": round(peak)}


def output_of(checkout: Path) -> str:
    """Name of the folder for what a checkout makes."""
    return checkout.resolve().name


def read_table(folder: Path, checkout: Path) -> dict[str, object]:
    """The table that a checkout made, without versions."""
    table = json.loads((folder / output_of(checkout) / "large.calib.json").read_text(encoding="utf-8"))
    return {key: value for key, value in table.items() if key not in ("versions", "checksum")}


def resident_mb(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    total, waiting = 0.0, [pid]
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        try:
            total += int((process / "statm").read_text().split()[1]) / PAGES_PER_MB
            for task in (process / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, IndexError):  # it has ended
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
