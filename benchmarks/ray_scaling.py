"""Calibration and evaluation on Ray nodes: how they scale on this machine, and what merging many parts would cost.

    python benchmarks/ray_scaling.py --data PHOTOGRAPHS [--model MODEL.onnx] [--images 512] [--nodes 1,2,4] [--cpus 3]
        [--parts 10000] [--output FOLDER]

Nodes are Ray's own test cluster on this machine. Each is bound to CPUs of its own, --cpus of them; the command itself,
and the same command without Ray, to those of all its nodes together. Photographs are written as often as needed, no two
with the same bytes, in ten folders that are the classes. Without --model it is a ResNet-50 at 224 with random weights.
"tasks" are the seconds in which tasks run on the nodes, whose workers have started and imported everything; the rest of
the command opens model and data, hashes, and makes table or report. Tables and the figures of reports have to be equal.

Merging is simulated without Ray: the statistics of one part are packed, unpacked and merged as nodes do it, and the
tree of so many parts is made of these times. Writes ray_scaling.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import pickle
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from statistics_pass import write_resnet50

import quantkit
from quantkit import ImageOptions
from quantkit.backends.onnxruntime import using_threads
from quantkit.backends.ray_cluster import RayCluster
from quantkit.calibration.statistics_file import load_statistics
from quantkit.commands.shard import Gathered, merge_gathered

BATCH = 16
CLASSES = 10
IMAGES = ImageOptions(preset="imagenet")
COLUMNS = ("command", "nodes", "CPUs", "Ray, s", "tasks, s", "tasks, times one node", "without Ray, s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--nodes", default="1,2,4")
    parser.add_argument("--cpus", type=int, default=3)
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=Path())
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory(prefix="quantkit-ray-") as name:
        folder = Path(name)
        model = arguments.model or write_resnet50(folder / "resnet50.onnx", 224)
        write_photographs(arguments.data, folder / "images", arguments.images)
        result = {"model": model.name, "images": arguments.images, "cpus_a_node": arguments.cpus}
        result |= {"ray": ray.__version__, "python": platform.python_version()}
        for part in (scale(arguments, model, folder), simulate_merges(arguments, folder)):
            result |= part
            (arguments.output / "ray_scaling.json").write_text(json.dumps(result, indent=1))


def write_photographs(source: Path, target: Path, count: int) -> None:
    """Photographs in folders of classes; bytes behind the picture tell copies apart."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for index, path in enumerate(islice(cycle(files), count)):
        folder = target / f"class{index % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:06}.jpg").write_bytes(path.read_bytes() + f"{index:06}".encode())


def scale(arguments: argparse.Namespace, model: Path, folder: Path) -> dict[str, Any]:
    """Seconds of both commands, on nodes and without them."""
    commands = {"calibrate": calibrate, "evaluate": evaluate}
    all_cpus, rows = sorted(os.sched_getaffinity(0)), []
    written: dict[str, set[bytes]] = {name: set() for name in commands}
    one_node: dict[str, float] = {}
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for count in map(int, arguments.nodes.split(",")):
        cpus = all_cpus[: count * arguments.cpus]
        for name, command in commands.items():
            with bound_nodes(cpus, count), bound_to(cpus), timed_tasks() as tasks:
                start = time.monotonic()
                written[name].add(command(model, folder, "auto", len(cpus)))
                seconds = time.monotonic() - start
            with bound_to(cpus), using_threads(len(cpus)):
                start = time.monotonic()
                written[name].add(command(model, folder, None, len(cpus)))
                alone = time.monotonic() - start
            one_node.setdefault(name, tasks[0])
            row = (name, count, len(cpus), seconds, tasks[0], one_node[name] / tasks[0], alone)
            rows.append(dict(zip(COLUMNS, row, strict=True)))
            print("| " + " | ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row) + " |", flush=True)
    different = {name: len(found) for name, found in written.items()}
    print(f"different tables: {different['calibrate']}, different reports: {different['evaluate']}")
    return {"rows": rows, "different": different}


def calibrate(model: Path, folder: Path, address: str | None, workers: int) -> bytes:
    """The table as it is written."""
    path = folder / "images.calib.json"
    quantkit.calibrate(
        model,
        folder / "images",
        accuracy="fast",
        num_samples=sum(1 for _ in (folder / "images").rglob("*.jpg")),
        batch_size=BATCH,
        progress=False,
        table_path=path,
        keep_statistics=True,
        force=True,
        preprocess=IMAGES,
        ray=address,
        device="cpu",
        workers=workers,
    )
    return path.read_bytes()


def evaluate(model: Path, folder: Path, address: str | None, workers: int) -> bytes:
    """The report's figures of the variants."""
    report = quantkit.evaluate(
        model,
        folder / "images",
        table=folder / "images.calib.json",
        variants=("fp32", "int8"),
        batch_size=BATCH,
        latency_s=0.0,
        layer_samples=0,
        thumbnails=False,
        progress=False,
        preprocess=IMAGES,
        ray=address,
        device="cpu",
        workers=workers,
        threads=0 if address else workers,
    )
    return pickle.dumps([(one.name, sorted(one.metrics.items())) for one in report.evaluations])


@contextmanager
def bound_nodes(cpus: Sequence[int], count: int) -> Iterator[None]:
    """Connects to a cluster whose nodes, and all processes that they start, have equal shares of the CPUs."""
    each = len(cpus) // count
    cluster = Cluster()
    for index in range(count):
        with bound_to(cpus[index * each : (index + 1) * each]):
            cluster.add_node(num_cpus=each, include_dashboard=False)
    ray.init(cluster.address, logging_level="ERROR", log_to_driver=False)
    warm = ray.remote(num_cpus=each, scheduling_strategy="SPREAD")(import_everything)
    assert len(set(ray.get([warm.remote() for _ in range(count)]))) == count, "a node got two of the tasks"
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def import_everything() -> str:
    """On a worker: what tasks need. The node that it ran on."""
    importlib.import_module("quantkit.commands.cluster_evaluation")
    importlib.import_module("onnxruntime")
    time.sleep(3)  # so that no node takes two of them
    return str(ray.get_runtime_context().get_node_id())


@contextmanager
def bound_to(cpus: Sequence[int]) -> Iterator[None]:
    """This thread, and what it starts, uses these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def timed_tasks() -> Iterator[list[float]]:
    """Seconds that tasks ran, of each use of the cluster."""
    seconds: list[float] = []
    original = RayCluster.map_merge

    def timed(*words: Any, **named: Any) -> Any:
        start = time.monotonic()
        found = original(*words, **named)
        seconds.append(time.monotonic() - start)
        return found

    RayCluster.map_merge = timed
    try:
        yield seconds
    finally:
        RayCluster.map_merge = original


def simulate_merges(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What one merge costs, and the tree of all of them."""
    kept = load_statistics(folder / "images.calib.stats")
    part = Gathered(kept.tensors, kept.num_samples)
    packed = pickle.dumps(part, protocol=5)
    start, rounds = time.process_time(), 20
    for _ in range(rounds):
        pickle.dumps(merge_gathered(pickle.loads(packed), pickle.loads(packed)), protocol=5)
    each, parts = (time.process_time() - start) / rounds, arguments.parts
    depth = math.ceil(math.log2(parts))
    print(
        f"{len(part.tensors)} tensors: {len(packed) / 1e6:.1f} MB a part, {1e3 * each:.0f} ms a merge; {parts:,} "
        f"parts: {depth} levels, {depth * each:.1f} s on as many processors, {parts * each:.0f} CPU s in all, "
        f"{parts * len(packed) / 1e9:.0f} GB between nodes at most"
    )
    return {"tensors": len(part.tensors), "part_mb": len(packed) / 1e6, "merge_ms": 1e3 * each, "parts": parts}


if __name__ == "__main__":
    main()
