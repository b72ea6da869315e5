r"""Streams images through the calibrator to a GPU: checks bytes and memory, and measures the gain from overlapping.

python -m benchmarks.calibrator_stream [--data IMAGES] [--images 2048] [--batch-size 32] [--compute-ms 20] [--json FILE]

Uses NVIDIA's real bindings and a real GPU, through pycuda. libnvinfer is the fake of tests/fake_trt: its build calls
the calibrator through the C++ vtable and simulates computation by waiting --compute-ms per batch. TensorRT is
therefore not needed, and only the calibrator is measured. Run it from the root of the repository. Requirements
besides numpy and Pillow: onnx and pycuda. On a machine without network, copy two folders that are made elsewhere, on
x86-64 Linux with gcc, for the Python version of that machine:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 -d wheels tensorrt-cu13-bindings==10.16.1.11
    unzip -q wheels/tensorrt_cu13_bindings-10.16.1.11-cp312-*.whl -d native/bindings
    python -c "from tests.fake_trt.releases import *; print(build_stubs(RELEASES['10.16']))"   # copy to native/stubs
    python -m benchmarks.calibrator_stream --bindings native/bindings --stubs native/stubs --json stream.json

"decode only" reads and preprocesses the images and discards them: the upper bound. "in turn" decodes in as many
threads, but waits while TensorRT computes. "overlapped" is quantkit's implementation, which decodes in processes where
there are many images and processors; the time that starting them takes counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from quantkit.backends.cuda.memory import DeviceFeed, PrimaryContext
from quantkit.backends.tensorrt.calibrators.padded_batches import PaddedBatches
from quantkit.backends.tensorrt.calibrators.streaming import Calibrator, make_calibrator
from quantkit.backends.tensorrt.library import Library, load_library
from quantkit.backends.tensorrt.logger import make_logger
from quantkit.datasets import iterate_batches, open_dataset
from quantkit.types import Batch, Dataset, Preprocessing, TensorSpec
from tests.fake_trt.library import Fake, load
from tests.fake_trt.releases import RELEASES, build_stubs, obtain_bindings

INPUT = "image"
SIZE = 224
QUEUED_COPIES = 500  # some milliseconds on a large GPU
PREPROCESSING = Preprocessing(
    size=(SIZE, SIZE),
    resize="crop",
    shorter_side=256,
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def main() -> None:
    arguments = parse_arguments()
    with ExitStack() as stack:
        if arguments.fake_cuda:
            install_fake_gpu()
        folder = arguments.data
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantkit-")))
            write_images(folder, arguments.images)
        release = RELEASES[arguments.release]
        fake = load(arguments.stubs or build_stubs(release), arguments.bindings or obtain_bindings(release))
        dataset = open_dataset(
            folder, [TensorSpec(INPUT, np.dtype(np.float32), ("N", 3, SIZE, SIZE))], preprocessing=PREPROCESSING
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            result = measure(fake, dataset, arguments)
    print(markdown(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if not all(result["checks"].values()):
        raise SystemExit("a check failed")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of images; without it, noise is written as JPEG")
    parser.add_argument("--images", type=int, default=2048, help="how many to write")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processors that decode")
    parser.add_argument("--compute-ms", type=float, default=20.0, help="TensorRT's pretended time on a batch")
    parser.add_argument("--runs", type=int, default=20, help="calibrations, for the memory")
    parser.add_argument("--repeat", type=int, default=3, help="timed calibrations of each kind; the median counts")
    parser.add_argument("--release", default="10.16", choices=[n for n, r in RELEASES.items() if r.major <= 10])
    parser.add_argument("--bindings", type=Path, help="unpacked wheel of the bindings")
    parser.add_argument("--stubs", type=Path, help="folder of the stub libraries")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--fake-cuda", action="store_true", help="no GPU: to try the script")
    return parser.parse_args()


def measure(fake: Fake, dataset: Dataset, arguments: argparse.Namespace) -> dict[str, Any]:
    setting = Setting(fake, load_library(), dataset, arguments)
    expected = [digest(batch.inputs[INPUT]) for batch in setting.batches()]
    with PrimaryContext() as context:
        memory = [context.memory_bytes()[0]]
        checks = {}
        for overlap in (True, False):
            seen = setting.read_back(context, overlap=overlap)
            checks[f"bytes on the device, {'overlapped' if overlap else 'in turn'}"] = seen == expected
            checks[f"reads that were only queued, {'overlapped' if overlap else 'in turn'}"] = (
                setting.read_later(context, overlap=overlap) == expected
            )
        checks["an interrupt in the data is raised after the build"] = setting.interrupted(context)
        memory.append(context.memory_bytes()[0])  # after the first allocations, which the driver may keep
        for _ in range(arguments.runs):
            setting.calibrate(context, overlap=True)
            memory.append(context.memory_bytes()[0])
        checks[f"free device memory is the same after each of {arguments.runs} runs"] = len(set(memory[1:])) == 1
        rates = {
            "decode only": setting.rate(lambda: sum(1 for _ in setting.batches())),
            "in turn": setting.rate(lambda: setting.calibrate(context, overlap=False)),
            "overlapped": setting.rate(lambda: setting.calibrate(context, overlap=True)),
        }
        name = context.driver.Device(0).name() if hasattr(context.driver.Device, "name") else "no GPU"
    return {
        "gpu": name,
        "library": setting.library.title,
        "python": platform.python_version(),
        "images": len(dataset),
        "batch_size": arguments.batch_size,
        "workers": arguments.workers,
        "compute_ms": arguments.compute_ms,
        "checks": checks,
        "images_per_s": rates,
        "compute_limit_images_per_s": 1e3 * arguments.batch_size / max(arguments.compute_ms, 1e-9),
        "free_device_bytes": memory,
        "feed_bytes": setting.feed_bytes,
        "unimplemented": sorted(set(map(tuple, fake.unimplemented))),
        "imports": sorted(third_party()),
    }


@dataclass
class Setting:
    """Settings and data that all calibrations share."""

    fake: Fake
    library: Library
    dataset: Dataset
    arguments: argparse.Namespace
    feed_bytes: int = 0
    _pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.arguments.workers)

    @property
    def specs(self) -> list[TensorSpec]:
        """Shape of the input in the calibration profile."""
        return [TensorSpec(INPUT, np.dtype(np.float32), (self.arguments.batch_size, 3, SIZE, SIZE))]

    def batches(self, make: Callable[[], Iterable[Batch]] | None = None) -> PaddedBatches:
        """The data set as the calibrator gets it."""
        make = make or (
            lambda: iterate_batches(self.dataset, self.arguments.batch_size, workers=self.arguments.workers)
        )
        return PaddedBatches(make, self.specs, num_samples=len(self.dataset))

    def in_turn(self) -> Generator[Batch, None, None]:
        """Batches that are decoded by as many threads, but only on request."""
        for start in range(0, len(self.dataset), self.arguments.batch_size):
            indices = range(start, min(start + self.arguments.batch_size, len(self.dataset)))
            samples = list(self._pool.map(self.dataset.__getitem__, indices))
            stacked = np.stack([sample.inputs[INPUT] for sample in samples])
            yield Batch(inputs={INPUT: stacked}, ids=tuple(sample.id for sample in samples))

    def calibrate(
        self, context: PrimaryContext, *, overlap: bool, on_batch: Callable[[list[int]], None] | None = None
    ) -> None:
        """One calibration through TensorRT's bindings."""
        wait_s = self.arguments.compute_ms / 1e3
        batches = self.batches(None if overlap else self.in_turn)
        self.fake.on_batch = lambda _, pointers: on_batch(pointers) if on_batch else time.sleep(wait_s)
        with DeviceFeed(self.specs, context=context, overlap=overlap) as feed:
            self.feed_bytes = feed.size_bytes
            calibrator = make_calibrator(self.library, batches, feed, batch_size=self.arguments.batch_size)
            build(self.library, calibrator, self.specs)
            calibrator.check()
        assert calibrator.consumed_batches == len(batches)
        assert calibrator.cache is not None

    def read_back(self, context: PrimaryContext, *, overlap: bool) -> list[str]:
        """Digest of what the GPU holds for each batch, read again after the copying thread had time to spoil it."""
        seen: list[str] = []

        def read(pointers: list[int]) -> None:
            host = np.empty(self.specs[0].shape, np.float32)
            found = set()
            for pause_s in (0.0, 0.002):
                time.sleep(pause_s)
                context.driver.memcpy_dtoh(host, pointers[0])
                found.add(digest(host))
            seen.append(found.pop() if len(found) == 1 else "changed while it was used")

        self.calibrate(context, overlap=overlap, on_batch=read)
        return seen

    def read_later(self, context: PrimaryContext, *, overlap: bool) -> list[str]:
        """Digest of each batch as copied by work that is only queued when the calibrator is asked for the next one."""
        driver, size = context.driver, int(np.prod(self.specs[0].shape)) * 4
        stream = driver.Stream(1)
        busy = [driver.mem_alloc(size) for _ in range(2)]
        copies: list[Any] = []

        def queue(pointers: list[int]) -> None:
            copies.append(driver.mem_alloc(size))
            for _ in range(1 if self.arguments.fake_cuda else QUEUED_COPIES):
                driver.memcpy_dtod_async(busy[0], int(busy[1]), size, stream)
            driver.memcpy_dtod_async(copies[-1], pointers[0], size, stream)

        self.calibrate(context, overlap=overlap, on_batch=queue)
        stream.synchronize()
        host = np.empty(self.specs[0].shape, np.float32)
        seen = []
        for copy in copies:
            driver.memcpy_dtoh(host, int(copy))
            seen.append(digest(host))
        for memory in (*busy, *copies):
            memory.free()
        return seen

    def interrupted(self, context: PrimaryContext) -> bool:
        """Whether an interrupt in the middle of the data is raised, and memory is freed."""

        def make() -> Generator[Batch, None, None]:
            for number, batch in enumerate(iterate_batches(self.dataset, self.arguments.batch_size)):
                if number == 2:
                    raise KeyboardInterrupt
                yield batch

        before = context.memory_bytes()[0]
        self.fake.on_batch = None
        try:
            with DeviceFeed(self.specs, context=context) as feed:
                calibrator = make_calibrator(
                    self.library, self.batches(make), feed, batch_size=self.arguments.batch_size
                )
                build(self.library, calibrator, self.specs)
                calibrator.check()
        except KeyboardInterrupt:
            return context.memory_bytes()[0] >= before and calibrator.cache is None
        return False

    def rate(self, run: Callable[[], object]) -> float:
        """Images per second, the median of several runs."""
        seconds = []
        for _ in range(self.arguments.repeat):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return len(self.dataset) / statistics.median(seconds)


def build(library: Library, calibrator: Calibrator, specs: list[TensorSpec]) -> None:
    """Attributes of TensorRT that a build with a calibrator uses."""
    trt = library.module
    logger = make_logger(library)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(make_model(specs[0])):
        raise SystemExit("the parser refuses the model")
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.INT8)
    config.int8_calibrator = calibrator
    profile = builder.create_optimization_profile()
    shape = specs[0].shape
    profile.set_shape(INPUT, shape, shape, shape)
    config.add_optimization_profile(profile)
    config.set_calibration_profile(profile)
    builder.build_serialized_network(network, config)
    logger.check()


def make_model(spec: TensorSpec) -> bytes:
    """An ONNX model with the given input; its computation is irrelevant."""
    from onnx import TensorProto, helper

    shape = ["N", *spec.shape[1:]]
    value, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in (INPUT, "out"))
    graph = helper.make_graph([helper.make_node("Relu", [INPUT], ["out"], name="relu")], "g", [value], [result])
    return bytes(helper.make_model(graph).SerializeToString())


def write_images(folder: Path, number: int) -> None:
    """JPEG files of 500 x 375 pixels: smooth noise, about as large and as hard to decode as photographs."""
    rng = np.random.default_rng(0)
    for i in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        pixels = np.clip(pixels + rng.integers(-12, 13, pixels.shape, np.int16), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:05d}.jpg", quality=90)


def digest(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def markdown(result: dict[str, Any]) -> str:
    rates, memory = result["images_per_s"], result["free_device_bytes"]
    lines = [
        f"# Calibrator stream: {result['gpu']}, {result['library']} bindings, Python {result['python']}",
        "",
        f"{result['images']} images of {SIZE} x {SIZE}, batches of {result['batch_size']}, {result['workers']} "
        f"processors that decode; TensorRT pretends to compute {result['compute_ms']:g} ms on a batch "
        f"({result['compute_limit_images_per_s']:.0f} images/s at most).",
        "",
        "| | images/s | of decode only |",
        "|---|---|---|",
        *(f"| {name} | {rate:.0f} | {rate / rates['decode only']:.2f} |" for name, rate in rates.items()),
        "",
        *(f"- {'yes' if passed else 'NO'}: {check}" for check, passed in result["checks"].items()),
        f"- device memory of the feed: {result['feed_bytes']} bytes; free before anything: {memory[0]}, after the "
        f"first calibrations: {memory[1]}, after the last: {memory[-1]}",
        f"- imported beside the standard library: {', '.join(result['imports'])}",
    ]
    return "\n".join(lines)


def third_party() -> set[str]:
    """Imported top-level packages except the standard library and quantkit."""
    names = {name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)}
    return {n for n in names if n not in sys.stdlib_module_names and not n.startswith("_")} - {"benchmarks", "tests"}


def install_fake_gpu() -> None:
    from tests.backends import gpu

    class Patch:
        """Sets and leaves it so."""

        def setitem(self, items: Any, key: str, value: object) -> None:
            items[key] = value

        def setattr(self, owner: object, name: str, value: object) -> None:
            setattr(owner, name, value)

    gpu.install(gpu.Gpu(capacity=1 << 32), Patch())


if __name__ == "__main__":
    main()
