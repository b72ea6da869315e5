"""Accuracy from a Ray cluster: the report of one machine, for every task, whatever workers do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import quantkit
from quantkit.cli import main
from quantkit.commands import cluster, cluster_evaluation
from quantkit.commands.cluster_evaluation import EvaluationShard, judge_shard
from quantkit.commands.evaluate import evaluate
from quantkit.errors import BackendError, ChangedDataError, DatasetError, ModelError
from quantkit.evaluation.engines import OpenEngine
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.reporting.json import report_json

from ..cli.conftest import CALIB, VAL
from ..cli.conftest import DIGITS as MODEL
from ..detector import make_detector, make_images
from ..ray_nodes import started_nodes
from ..segmenter import write_metric, write_scenes, write_segmenter


def table_of(model: Path, data: Path, **options) -> quantkit.CalibrationTable:
    """Of ranges that are too small, so that answers change."""
    found = quantkit.calibrate(model, data, num_samples=64, accuracy="fast", progress=False, **options)
    return replace(found, tensors={name: replace(r, amax=r.amax / 3) for name, r in found.tensors.items()})


def report_of(model: Path, data: Path, task: TaskOptions, **options) -> str:
    """The report as JSON, without times and the state of the machine."""
    options = {"progress": False, "latency_s": 0, "layer_samples": 8, "batch_size": 7, **options}
    return report_json(replace(evaluate(model, data, task=task, **options), created="", environment={}))


def digits(folder: Path) -> tuple:
    return MODEL, VAL, TaskOptions(), {"table": table_of(MODEL, CALIB), "num_samples": 100}


def digits_without_labels(folder: Path) -> tuple:
    for path in sorted(VAL.rglob("*.png"))[:60]:
        shutil.copy(path, folder / f"{path.parent.name}_{path.name}")
    return MODEL, folder, TaskOptions(), {"table": table_of(MODEL, CALIB)}


def outputs_alone(folder: Path) -> tuple:
    return MODEL, VAL, TaskOptions("none"), {"table": table_of(MODEL, CALIB), "num_samples": 40}


def vectors(folder: Path) -> tuple:
    return MODEL, VAL, TaskOptions("embed"), {"table": table_of(MODEL, CALIB), "num_samples": 60}


def objects(folder: Path) -> tuple:
    images, labels = make_images(folder, count=40)
    model = make_detector(folder / "detector.onnx")
    table = table_of(model, images, preprocess="yolo")
    return model, images, TaskOptions("detect", labels=labels, detections="yolov8"), {"table": table}


def scenes(folder: Path, **task) -> tuple:
    images, masks = write_scenes(folder, count=40)
    model = write_segmenter(folder / "segmenter.onnx")
    options = TaskOptions("segment", labels=masks) if not task else TaskOptions("custom", **task)
    return model, images, options, {"table": table_of(model, images, preprocess="unit")}


def own_metric(folder: Path) -> tuple:
    code = write_metric(folder / "red.py", folder / "masks")
    return scenes(folder, postprocess=f"{code}:red_share", metric=f"{code}:RedError")


TASKS = [digits, digits_without_labels, outputs_alone, vectors, objects, scenes, own_metric]


@pytest.mark.parametrize("make", TASKS, ids=[make.__name__ for make in TASKS])
def test_the_report_is_that_of_one_machine(make: Callable[[Path], tuple], inline, tmp_path):
    model, data, task, options = make(tmp_path)
    there = report_of(model, data, task, ray="auto", **options)
    assert there == report_of(model, data, task, **options)


def test_files_of_the_users_code_are_compared(inline, monkeypatch, tmp_path):
    model, data, task, options = own_metric(tmp_path)
    seen = set()

    def judge(shard: EvaluationShard) -> object:
        seen.update(shard.code)
        return judge_shard(shard)

    monkeypatch.setattr(cluster_evaluation, "judge_shard", judge)
    report_of(model, data, task, ray="auto", **options, variants=["fp32"])
    assert seen == {spec.rpartition(":")[0] for spec in (task.postprocess, task.metric)}


def with_damage(folder: Path, count: int) -> Path:
    """A copy of some digits, of which the first cannot be read."""
    shutil.copytree(VAL, folder)
    for path in sorted(folder.rglob("*.png"))[:count]:
        path.write_bytes(b"no image")
    return folder


def test_unreadable_samples_are_left_out_as_on_one_machine(inline, tmp_path):
    data, task = with_damage(tmp_path / "data", 12), TaskOptions()
    options = {"table": table_of(MODEL, CALIB), "min_readable": 0.1, "batch_size": 1, "num_samples": 100}
    assert report_of(MODEL, data, task, ray="auto", **options) == report_of(MODEL, data, task, **options)
    with pytest.raises(DatasetError, match="cannot be read, so that less than --min-readable 1"):
        report_of(MODEL, data, task, ray="auto", **{**options, "min_readable": 1.0})


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"variants": {}}, ModelError, "fp32 is another model than that of the command"),
        (
            {"facts": {"labels_fingerprint": "0"}},
            ChangedDataError,
            "the labels of .* are others than those of the command",
        ),
        ({"contents": (("a", "b"),)}, ChangedDataError, "val holds other samples than those of the command"),
    ],
)
def test_a_node_that_sees_anything_else_than_the_command_says_so(other, error, message, inline, monkeypatch):
    monkeypatch.setattr(cluster_evaluation, "judge_shard", lambda shard: judge_shard(replace(shard, **other)))
    with pytest.raises(error, match=message):
        report_of(MODEL, VAL, TaskOptions(), ray="auto", num_samples=20)


def test_a_wish_to_stop_keeps_what_tasks_have_judged(inline, tmp_path):
    model, data, task, options = digits(tmp_path)
    after_one_part, after_its_batches = iter([False]), iter([False] * 4)
    there = report_of(model, data, task, ray="auto", **options, should_stop=lambda: next(after_one_part, True))
    assert json.loads(there)["evaluations"][0]["num_samples"] == 35
    assert there == report_of(model, data, task, **options, should_stop=lambda: next(after_its_batches, True))


def test_a_wish_to_stop_before_anything_is_judged_ends_the_command(inline):
    with pytest.raises(KeyboardInterrupt):
        report_of(MODEL, VAL, TaskOptions(), ray="auto", num_samples=20, should_stop=lambda: True)


def test_an_engine_needs_nodes_with_a_gpu(inline, monkeypatch):
    engine = OpenEngine(MODEL, None, "tensorrt", None, "gpu")
    monkeypatch.setattr("quantkit.commands.variants.open_engines", lambda *_, **__: ({}, {"trt": engine}))
    with pytest.raises(BackendError, match="the engine trt needs a GPU, but no node of the Ray cluster has one"):
        report_of(MODEL, VAL, TaskOptions(), ray="auto", num_samples=20)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_cluster_that_is_not_there_is_named_before_anything_runs(dry, tmp_path, capsys):
    pytest.importorskip("ray")
    with pytest.raises(SystemExit):
        main(["evaluate", str(MODEL), "--data", str(VAL), "-o", str(tmp_path), "--ray", "127.0.0.1:1", *dry])
    assert "quantkit: error: --ray 127.0.0.1:1: no Ray cluster" in capsys.readouterr().err


class Dying:
    """`judge_shard` whose worker is killed once."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __call__(self, shard: EvaluationShard) -> object:
        if shard.first and not os.path.exists(self.mark):
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return judge_shard(shard)


@pytest.fixture(scope="module")
def nodes() -> Iterator[object]:
    with started_nodes(2) as found:
        yield found


@pytest.mark.slow
def test_two_nodes_and_a_worker_that_dies_make_the_report_of_one_machine(nodes, tmp_path, monkeypatch):
    mark = tmp_path / "died"
    monkeypatch.setattr(cluster_evaluation, "judge_shard", Dying(mark))
    model, data, task, options = digits(tmp_path)
    there = report_of(model, data, task, ray=nodes.address, **options)
    assert mark.exists()
    assert there == report_of(model, data, task, **options)


@pytest.mark.slow
def test_nodes_are_let_go_of_after_a_wish_to_stop(nodes, tmp_path, monkeypatch):
    ended: list[int] = []
    monkeypatch.setattr(cluster_evaluation, "judge_shard", Lasting())
    monkeypatch.setattr(cluster, "show_progress", lambda *_: nullcontext(SimpleNamespace(update=ended.append)))
    model, data, task, options = digits(tmp_path)
    found = report_of(model, data, task, ray=nodes.address, **options, should_stop=lambda: bool(ended))
    assert json.loads(found)["evaluations"][0]["num_samples"] == sum(ended) == 56


class Lasting:
    """`judge_shard` that does not end, but of the first samples."""

    def __call__(self, shard: EvaluationShard) -> object:
        while shard.first:
            time.sleep(1)
        return judge_shard(shard)


@pytest.mark.slow
def test_four_nodes_make_the_report_of_one_machine(nodes, tmp_path):
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    model, data, task, options = own_metric(tmp_path)
    there = report_of(model, data, task, ray=nodes.address, **options)
    assert there == report_of(model, data, task, **options)
