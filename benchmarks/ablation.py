"""What each technique of the default is worth: top-1 and KL of INT8 with it and without it, and what it costs.

python benchmarks/ablation.py --calib CALIB --test TEST --output FOLDER [--jobs N] [--variants A,B] [--gpu N] MODEL ...

CALIB and TEST are image folders with one subfolder per class. Images are stretched to the input size and normalized by
ImageNet's mean and std. Each model and variant is a process of its own with two threads; what it found is a JSON file
in FOLDER, and what lies there already is not computed again. Prints a Markdown table of all of it. KL is the mean
divergence of the class scores from FP32's on the test images, in nats, with Q/DQ computed in float. With --gpu the
test images run on that GPU; calibration stays on the processors.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import quantkit
from quantkit import ImageOptions
from quantkit.backends.onnxruntime import OnnxRuntimeRunner, using_gpu
from quantkit.datasets.batching import make_batches
from quantkit.datasets.open import open_samples
from quantkit.graph.float_model import FloatModel
from quantkit.refinement import refine

IMAGES = ImageOptions(preset="imagenet", resize="stretch")
THREADS = 2

_NOTHING: dict[str, Any] = {}
_Refining = refine.Refining  # the steps that are left out are its methods

VARIANTS: dict[str, tuple[dict[str, Any], Callable[[], None]]] = {
    "minmax": ({"method": "minmax"}, lambda: None),
    "entropy": ({"method": "entropy"}, lambda: None),
    "mse": ({"method": "mse"}, lambda: None),
    "fast": ({"accuracy": "fast"}, lambda: None),
    "default": (_NOTHING, lambda: None),
    "best": ({"accuracy": "best"}, lambda: None),
    "no trials of ranges": (_NOTHING, lambda: _keep_ranges()),
    "no shifts and scales": (_NOTHING, lambda: _replace("transform", lambda self, trials, choices: choices)),
    "no share for weights": (_NOTHING, lambda: setattr(refine, "_ALPHAS", ())),
    "no balance": (_NOTHING, lambda: setattr(refine, "balance", lambda graph, sites, transforms, *_, **__: transforms)),
    "nothing in float": (_NOTHING, lambda: _replace("leave_in_float", lambda self, choices: None)),
    "no comparison": (_NOTHING, lambda: _replace("compare_methods", lambda self, statistics, fixed: None)),
    "rounding to nearest": ({"rounding": "nearest"}, lambda: None),
}
"""Options of `calibrate`, and what is taken out of the refinement."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--calib", required=True, type=Path)
    parser.add_argument("--test", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--num-samples", type=int, default=1024, help="for calibration")
    parser.add_argument("--jobs", type=int, default=max((os.cpu_count() or 2) // THREADS, 1), help="processes at once")
    parser.add_argument("--gpu", type=int, help="that computes the test images")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.models[0], arguments.variants, arguments)
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    jobs = [(model, variant) for variant in ("fp32", *arguments.variants.split(",")) for model in arguments.models]
    todo = [job for job in jobs if not result_path(arguments.output, *job).exists()]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda job: start(*job, arguments), todo))
    print_table(arguments)


def result_path(folder: Path, model: Path, variant: str) -> Path:
    """Where the result of a job lies."""
    return folder / f"{model.stem}.{variant.replace(' ', '_')}.json"


def start(model: Path, variant: str, arguments: argparse.Namespace) -> None:
    """Runs a job in a process of its own."""
    command = [sys.executable, __file__, str(model), "--one", "--variants", variant]
    for name in ("calib", "test", "output", "num_samples"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    command += [] if arguments.gpu is None else ["--gpu", str(arguments.gpu)]
    log = result_path(arguments.output, model, variant).with_suffix(".log")
    threads = {name: str(THREADS) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with log.open("w") as stream:
        subprocess.run(command, stdout=stream, stderr=stream, env=os.environ | threads, check=False)


def run_one(model: Path, variant: str, arguments: argparse.Namespace) -> None:
    """Calibrates and runs one variant over the test images; the scores lie beside the result."""
    OnnxRuntimeRunner.__init__.__kwdefaults__["threads"] = THREADS
    opened = FloatModel(model)
    result: dict[str, Any] = {"model": model.stem, "variant": variant}
    with tempfile.TemporaryDirectory() as folder:
        path = model
        if variant != "fp32":
            options, prepare = VARIANTS[variant]
            prepare()
            wall, busy = time.monotonic(), time.process_time()
            chosen = {"preprocess": IMAGES, "num_samples": arguments.num_samples, "device": "cpu", **options}
            table = quantkit.calibrate(model, arguments.calib, **chosen)
            result |= {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - busy}
            made = quantkit.quantize(model, table, Path(folder) / "int8.onnx")
            result |= {"int8": made.num_quantized, "weighted": made.num_weighted, "quality": dict(table.quality)}
            path = made.path
        data = open_samples(opened.inputs, arguments.test, IMAGES, None, num_samples=None, seed=0, order="given")
        scores = []
        with using_gpu(arguments.gpu), OnnxRuntimeRunner(path, fuse_qdq=False) as runner:
            for batch in make_batches(data, 64, strict=True, workers=THREADS, skipped={}):
                scores.append(next(iter(runner.run(batch.inputs).values())))
    target = result_path(arguments.output, model, variant)
    np.save(target.with_suffix(".npy"), np.concatenate(scores).reshape(len(data), -1))
    np.save(target.with_suffix(".labels.npy"), _labels(data))
    target.write_text(json.dumps(result))


def print_table(arguments: argparse.Namespace) -> None:
    """A row for each model and variant that is done."""
    columns = ("model", "variant", "top-1 (%)", "vs FP32, points", "KL", "INT8", "s", "CPU s")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for model in arguments.models:
        base = result_path(arguments.output, model, "fp32")
        if not base.exists():
            continue
        reference, labels = np.load(base.with_suffix(".npy")), np.load(base.with_suffix(".labels.npy"))
        top1 = 100 * np.mean(reference.argmax(1) == labels)
        print(f"| {model.stem} | FP32 | {top1:.2f} | | | | | |")
        for variant in arguments.variants.split(","):
            path = result_path(arguments.output, model, variant)
            if not path.exists():
                print(f"| {model.stem} | {variant} | failed: {path.with_suffix('.log')} | | | | | |")
                continue
            result, scores = json.loads(path.read_text()), np.load(path.with_suffix(".npy"))
            found = 100 * np.mean(scores.argmax(1) == labels)
            row = (
                f"{found:.2f} | {found - top1:+.2f} | {divergence(reference, scores):.4f} | "
                f"{result['int8']} of {result['weighted']} | {result['wall_s']:.0f} | {result['cpu_s']:.0f}"
            )
            print(f"| {model.stem} | {variant} | {row} |")


def divergence(reference: np.ndarray, scores: np.ndarray) -> float:
    """Mean KL divergence in nats of the softmax of `scores` [N, C] from that of `reference`."""
    one, other = (a - np.logaddexp.reduce(a, axis=1, keepdims=True) for a in (reference.astype(np.float64), scores))
    return float(np.mean(np.sum(np.exp(one) * (one - other), axis=1)))


def _labels(data: Any) -> np.ndarray:
    names = sorted({Path(sample).parent.name for sample in data.ids})
    return np.array([names.index(Path(sample).parent.name) for sample in data.ids])


def _replace(method: str, by: Callable[..., Any]) -> None:
    setattr(_Refining, method, by)


def _keep_ranges() -> None:
    """The ranges of the statistics alone; what each does to the output is still measured."""
    found = _Refining.choose_ranges

    def choose(self: Any, trials: Any, statistics: Any, fixed: Any) -> Any:
        options, self.options = self.options, refine.replace(self.options, method="mse")
        try:
            return found(self, trials, statistics, fixed)
        finally:
            self.options = options

    _replace("choose_ranges", choose)


if __name__ == "__main__":
    main()
