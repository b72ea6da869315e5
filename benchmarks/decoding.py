"""Times decoding and preparing photographs: quantkit, Pillow alone, and torch's DataLoader where torch is installed.

python benchmarks/decoding.py FOLDER [--cores 1 2 16] [--images 1000] [--rounds 3] [--output FOLDER]

Images are resized to 256 on their shorter side, cropped to 224 and normalized. "pillow" opens, decodes and resizes in
as many processes as there are cores, and does nothing else: the limit. Each measurement is a process of its own that is
bound to so many cores; variants in turn; files are in the system's cache. Writes decoding.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from quantkit.datasets import decoder_processes
from quantkit.datasets.batching import iterate_batches
from quantkit.datasets.image_files import ImageFiles
from quantkit.types import Preprocessing

BATCH = 64
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=[name for name in VARIANTS if name != "torch" or has_torch()])
    parser.add_argument("--output", type=Path, default=Path())
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments)
        return
    result: dict[str, object] = {"images": arguments.images, "cpus": len(os.sched_getaffinity(0))}
    for cores in arguments.cores:
        rates: dict[str, list[float]] = {name: [] for name in arguments.variants}
        for _ in range(arguments.rounds):
            for name in rates:
                rates[name].append(run(name, cores, arguments))
        medians = {name: statistics.median(found) for name, found in rates.items()}
        result[f"{cores} cores"] = {
            name: {"images_per_s": round(rate, 1), "of_pillow": round(rate / medians.get("pillow", math.nan), 3)}
            for name, rate in medians.items()
        }
        print(cores, "cores:", json.dumps(result[f"{cores} cores"]), flush=True)
    (arguments.output / "decoding.json").write_text(json.dumps(result, indent=1))


def has_torch() -> bool:
    return subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode == 0


def run(name: str, cores: int, arguments: argparse.Namespace) -> float:
    command = [sys.executable, __file__, str(arguments.folder), "--one", name, "--cores", str(cores)]
    command += ["--images", str(arguments.images)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(arguments: argparse.Namespace) -> None:
    """Prints the rate of one variant, in images a second."""
    cores = arguments.cores[0]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    files = sorted(p for p in arguments.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    paths = [files[i % len(files)] for i in range(arguments.images)]
    for path in files:
        path.read_bytes()
    print(len(paths) / VARIANTS[arguments.one](paths, cores))


def decode(path: Path) -> Image.Image:
    with Image.open(path) as image:
        color = image.convert("RGB")
    scale = 256 / min(color.size)
    return color.resize((round(color.width * scale), round(color.height * scale)), Image.Resampling.BILINEAR)


def decode_all(paths: Sequence[Path]) -> int:
    return sum(decode(path).width > 0 for path in paths)


def pillow(paths: Sequence[Path], cores: int) -> float:
    with get_context("fork").Pool(cores) as pool:
        pool.map(decode_all, [paths[:1]] * cores)
        begun = time.perf_counter()
        pool.map(decode_all, [paths[i : i + 8] for i in range(0, len(paths), 8)], chunksize=1)
        return time.perf_counter() - begun


def pillow_threads(paths: Sequence[Path], cores: int) -> float:
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(decode, paths[:cores]))
        begun = time.perf_counter()
        list(pool.map(decode_all, [paths[i : i + 8] for i in range(0, len(paths), 8)]))
        return time.perf_counter() - begun


def quantkit(paths: Sequence[Path], cores: int) -> float:
    preparing = Preprocessing((224, 224), resize="crop", shorter_side=256, mean=MEAN, std=STD)
    names = [f"{i}" for i in range(len(paths))]
    return after_first(iterate_batches(ImageFiles("image list", paths, names, None, (), "x", preparing), BATCH), paths)


def after_first(batches: Iterable[object], paths: Sequence[Path]) -> float:
    """Seconds for all images at the rate after the first batch, before which threads and processes start."""
    waiting = iter(batches)
    next(waiting)
    begun = time.perf_counter()
    for _ in waiting:
        pass
    return (time.perf_counter() - begun) * len(paths) / (len(paths) - BATCH)


def quantkit_threads(paths: Sequence[Path], cores: int) -> float:
    decoder_processes._MOST_THREADS = cores
    return quantkit(paths, cores)


class _Photographs:
    """What a torch data set is: an image prepared as quantkit prepares it, with Pillow and torch."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> object:
        import torch

        image = decode(self.paths[index])
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = torch.from_numpy(np.array(image.crop((left, top, left + 224, top + 224))))
        values = pixels.permute(2, 0, 1).to(torch.float32)
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
        return ((values - mean) / std).contiguous()


def torch_loader(paths: Sequence[Path], cores: int) -> float:
    from torch.utils.data import DataLoader

    return after_first(DataLoader(_Photographs(paths), BATCH, num_workers=cores), paths)  # type: ignore[arg-type]


VARIANTS: dict[str, Callable[[Sequence[Path], int], float]] = {
    "pillow": pillow,
    "pillow threads": pillow_threads,
    "quantkit": quantkit,
    "quantkit threads": quantkit_threads,
    "torch": torch_loader,
}


if __name__ == "__main__":
    main()
