"""End to end of an evaluation beside the slower of its two halves: decoding, and the forward pass.

    python benchmarks/evaluation_loop.py [--photographs FOLDER] [--images 4000] [--rounds 3] [--variants 1]
        [--device cuda:0 | --forward-ms 28] [--output FOLDER]

"decode" makes batches of 64 photographs at 224 and does nothing else, as many cores as there are. "forward" runs one
batch again and again: a generated ResNet-50 on the GPU, FP32 as `evaluate` computes it, or, without --device, something
that sleeps as long as --forward-ms says, without Python's lock. "evaluate" does both, and judges 1,000 classes of each
variant. Without --photographs the batches are there already. Rates after the first batch, variants in turn.
Writes evaluation_loop.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from decoding import BATCH, MEAN, STD
from statistics_pass import write_resnet50

from quantkit.backends.onnxruntime import OnnxRuntimeRunner, using_gpu
from quantkit.datasets.batching import iterate_batches
from quantkit.datasets.image_files import ImageFiles
from quantkit.evaluation.run import evaluate
from quantkit.types import Array, Batch, Preprocessing, TensorSpec

SHAPE = (3, 224, 224)


class Sleeping:
    """Takes some time without using a processor, and answers at random."""

    inputs = (TensorSpec("input", np.dtype("float32"), ("N", *SHAPE)),)
    outputs = (TensorSpec("output", np.dtype("float32"), ("N", 1000)),)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._scores = np.random.default_rng(0).standard_normal((BATCH, 1000), np.float32)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Answers, late."""
        time.sleep(self.seconds)
        return {"output": self._scores[: len(inputs["input"])].copy()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", type=int, default=1)
    parser.add_argument("--device", help="cuda:0")
    parser.add_argument("--forward-ms", type=float, default=28.0)
    parser.add_argument("--output", type=Path, default=Path())
    arguments = parser.parse_args()
    with ExitStack() as stack:
        runners = {f"v{i}": open_runner(arguments, stack) for i in range(arguments.variants)}
        found: dict[str, list[float]] = {"forward": [], "evaluate": []}
        if arguments.photographs:
            found["decode"] = []
        for _ in range(arguments.rounds):
            found["forward"].append(rate(arguments, lambda batches: forward(runners, batches), ready=True))
            found["evaluate"].append(
                rate(arguments, lambda batches: evaluate(runners, batches, baseline="v0"), ready=False)
            )
            if arguments.photographs:
                found["decode"].append(rate(arguments, exhaust, ready=False))
    rates = {name: statistics.median(values) for name, values in found.items()}
    slower = min(rates[name] for name in rates if name != "evaluate")
    result: dict[str, Any] = {f"{name}_per_s": round(value) for name, value in rates.items()}
    result |= {"times_slower": round(slower / rates["evaluate"], 3), **vars(arguments)}
    print(json.dumps(result, indent=1, default=str))
    (arguments.output / "evaluation_loop.json").write_text(json.dumps(result, indent=1, default=str))


def open_runner(arguments: argparse.Namespace, stack: ExitStack) -> Any:
    if arguments.device is None:
        return Sleeping(arguments.forward_ms / 1000)
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    path = write_resnet50(Path(folder) / "resnet50.onnx", SHAPE[1])
    with using_gpu(int(arguments.device.partition(":")[2] or 0)):
        return stack.enter_context(OnnxRuntimeRunner(path, name="ResNet-50"))


def rate(arguments: argparse.Namespace, use: Callable[[Iterator[Batch]], object], *, ready: bool) -> float:
    """Images a second after the first batch, before which threads and processes start."""
    batches = decoded(arguments) if arguments.photographs and not ready else repeated(arguments.images)
    begun: list[float] = []

    def watched() -> Iterator[Batch]:
        for batch in batches:
            yield batch
            begun.append(time.perf_counter())

    use(watched())
    return (arguments.images - BATCH) / (time.perf_counter() - begun[0])


def forward(runners: Mapping[str, Any], batches: Iterable[Batch]) -> None:
    for batch in batches:
        for runner in runners.values():
            runner.run(batch.inputs)


def exhaust(batches: Iterable[Batch]) -> None:
    for _ in batches:
        pass


def repeated(images: int) -> Iterator[Batch]:
    values = np.zeros((BATCH, *SHAPE), np.float32)
    for start in range(0, images, BATCH):
        count = min(BATCH, images - start)
        ids = tuple(map(str, range(start, start + count)))
        yield Batch({"input": values[:count]}, ids, np.arange(count))


def decoded(arguments: argparse.Namespace) -> Iterator[Batch]:
    files = sorted(p for p in arguments.photographs.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    paths = [files[i % len(files)] for i in range(arguments.images)]
    names, labels = [str(i) for i in range(len(paths))], [i % 1000 for i in range(len(paths))]
    preparing = Preprocessing(SHAPE[1:], resize="crop", shorter_side=256, mean=MEAN, std=STD)
    data = ImageFiles("image list", paths, names, labels, (), "input", preparing)
    yield from iterate_batches(data, BATCH)


if __name__ == "__main__":
    main()
