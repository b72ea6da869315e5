"""Time to calibrate's first batch, by parts, and of the search for ranges of 200 tensors.

    python benchmarks/start.py MODEL.onnx --data IMAGES [--samples 100] [--rounds 5] [--output FOLDER]

CPU and wall seconds of fresh processes, medians. "imports" are those of the command line, "load" reads the model and
prepares it, "data" lists and hashes the samples, "session" is ONNX Runtime's, "first batch" decodes and runs it. The
search is on histograms of random tensors, half of them after a ReLU. Compile quantkit's modules first
(python -m compileall quantkit), as an installation does. Writes start.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUM_TENSORS = 200
METHODS = ("entropy", "mse", "percentile", "minmax")


class ReachedError(BaseException):
    """The first batch has run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path())
    parser.add_argument("--one", choices=("start", "search"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps({"start": start, "search": search}[arguments.one](arguments)))
        return
    command = [sys.executable, __file__, str(arguments.model), "--data", str(arguments.data)]
    command += ["--samples", str(arguments.samples)]
    result: dict[str, Any] = {"model": arguments.model.name, "samples": arguments.samples}
    for kind in ("start", "search"):
        found = [
            json.loads(subprocess.run([*command, "--one", kind], check=True, capture_output=True, text=True).stdout)
            for _ in range(arguments.rounds)
        ]
        result[kind] = {
            part: {clock: round(statistics.median(one[part][clock] for one in found), 3) for clock in ("cpu_s", "s")}
            for part in found[0]
        }
    print(json.dumps(result, indent=1))
    (arguments.output / "start.json").write_text(json.dumps(result, indent=1))


class Clock:
    """Seconds from one mark to the next."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = {}
        self._before = time.perf_counter(), time.process_time()

    def mark(self, part: str) -> None:
        """Ends a part; of one that comes again, all times count."""
        now = time.perf_counter(), time.process_time()
        known = self.parts.setdefault(part, {"s": 0.0, "cpu_s": 0.0})
        known["s"] += now[0] - self._before[0]
        known["cpu_s"] += now[1] - self._before[1]
        self._before = now


def start(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of a calibration that ends after its first batch."""
    clock = Clock()
    importlib.import_module("quantkit.cli.calibrate")
    from quantkit.backends.onnxruntime import OnnxRuntimeRunner
    from quantkit.commands import calibrate

    clock.mark("imports")

    def marked(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            result = function(*words, **options)
            clock.mark(part)
            return result

        return call

    def run(runner: OnnxRuntimeRunner, inputs: Any, original: Any = OnnxRuntimeRunner.run) -> Any:
        found = original(runner, inputs)
        clock.mark("first batch")
        if len(next(iter(inputs.values()))) > 1:  # before it, one sample says how large a batch may be
            raise ReachedError
        return found

    calibrate.observed_tensors = marked(calibrate.observed_tensors, "load")  # type: ignore[attr-defined]
    calibrate._open_dataset = marked(calibrate._open_dataset, "data")
    OnnxRuntimeRunner.__init__ = marked(OnnxRuntimeRunner.__init__, "session")  # type: ignore[method-assign]
    OnnxRuntimeRunner.run = run  # type: ignore[method-assign]
    try:
        calibrate.calibrate(arguments.model, arguments.data, method="entropy", num_samples=arguments.samples)
    except ReachedError:
        total = {clock_name: sum(part[clock_name] for part in clock.parts.values()) for clock_name in ("s", "cpu_s")}
        return {**clock.parts, "all": total}
    raise SystemExit("one sample is no batch: give more")


def search(_: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of each method, over as many tensors."""
    import numpy as np

    from quantkit.calibration.methods import METHODS as KNOWN
    from quantkit.calibration.methods import bind_method
    from quantkit.calibration.statistics import new_statistics, update

    random = np.random.default_rng(0)
    tensors = []
    for i in range(NUM_TENSORS):
        values = random.standard_normal(100_000, np.float32) * random.uniform(0.1, 10)
        tensors.append(new_statistics("exact"))
        update(tensors[-1], np.maximum(values, 0) if i % 2 else values)
    clock = Clock()
    for method in METHODS:
        assert method in KNOWN
        choose = bind_method(method, {})
        clock.mark("preparation")
        for tensor in tensors:
            choose(tensor)
        clock.mark(method)
    return {method: clock.parts[method] for method in METHODS}


if __name__ == "__main__":
    main()
