"""Calibration on Ray nodes: how it scales on this machine, and what merging many parts would cost.

python benchmarks/ray_scaling.py MODEL.onnx --data IMAGES [--images 1000] [--nodes 1,2,4] [--parts 10000]

Nodes are Ray's own test cluster on this machine, one CPU each. Merging is simulated without Ray: the statistics of one
part are packed, unpacked and merged as nodes do it, and the tree of so many parts is made of these times.
"""

from __future__ import annotations

import argparse
import math
import os
import pickle
import time
from pathlib import Path

from ray.cluster_utils import Cluster

import quantkit
from quantkit import ImageOptions
from quantkit.calibration.statistics_file import load_statistics
from quantkit.commands.shard import Gathered, merge_gathered

IMAGES = ImageOptions(preset="imagenet", resize="stretch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--nodes", default="1,2")
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=Path("ray_scaling"))
    arguments = parser.parse_args()
    arguments.output.mkdir(exist_ok=True)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    tables = set()
    print("| nodes | seconds |\n|---|---|")
    for count in map(int, arguments.nodes.split(",")):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(count - 1):
            cluster.add_node(num_cpus=1)
        calibrate(arguments, cluster.address)  # workers have started and imported everything
        start = time.monotonic()
        tables.add(calibrate(arguments, cluster.address))
        print(f"| {count} | {time.monotonic() - start:.1f} |", flush=True)
        cluster.shutdown()
    start = time.monotonic()
    tables.add(calibrate(arguments, None))
    print(f"| without Ray | {time.monotonic() - start:.1f} |")
    print(f"{len(tables)} different tables")
    simulate_merges(arguments)


def calibrate(arguments: argparse.Namespace, address: str | None) -> bytes:
    """The table as it is written."""
    path = arguments.output / "model.calib.json"
    options = {"accuracy": "fast", "num_samples": arguments.images, "batch_size": 16, "progress": False}
    quantkit.calibrate(
        arguments.model,
        arguments.data,
        table_path=path,
        keep_statistics=True,
        force=True,
        preprocess=IMAGES,
        ray=address,
        **options,
    )
    return path.read_bytes()


def simulate_merges(arguments: argparse.Namespace) -> None:
    """What one merge costs, and the tree of all of them."""
    kept = load_statistics(arguments.output / "model.calib.stats")
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


if __name__ == "__main__":
    main()
