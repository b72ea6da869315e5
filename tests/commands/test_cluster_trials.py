"""Rankings and searches on a Ray cluster: those of one machine, to the last digit."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

import quantkit
from quantkit.commands import cluster, cluster_trials
from quantkit.commands.cluster_trials import TrialShard, try_shard
from quantkit.commands.sensitivity import sensitivity
from quantkit.commands.tune import tune
from quantkit.errors import ChangedDataError, ModelError, QuantKitError
from quantkit.types.plan import QuantizationPlan
from quantkit.types.sensitivity import Sensitivity

from ..cli.conftest import CALIB, VAL
from ..cli.conftest import DIGITS as MODEL
from ..ray_nodes import started_nodes


@pytest.fixture(scope="module")
def table() -> quantkit.CalibrationTable:
    """Of ranges that are too small, so that there is something to choose."""
    found = quantkit.calibrate(MODEL, CALIB, num_samples=64, accuracy="fast", progress=False)
    return replace(found, tensors={name: replace(r, amax=r.amax / 3) for name, r in found.tensors.items()})


def ranking(table: quantkit.CalibrationTable, **options) -> Sensitivity:
    return sensitivity(MODEL, CALIB, table=table, num_samples=64, progress=False, **options)


def plan(table: quantkit.CalibrationTable, **options) -> QuantizationPlan:
    few = {"num_samples": 32, "num_val_samples": 60, "max_drop": "0.5pt", "batch_size": 16, "progress": False}
    return tune(MODEL, CALIB, VAL, table=table, **few, **options)


def test_the_ranking_is_that_of_one_machine(inline, table):
    assert ranking(table, ray="auto") == ranking(table)


def test_the_plan_is_that_of_one_machine(inline, table):
    found = plan(table, ray="auto")
    assert found == plan(table)
    assert found.float_tensors


@pytest.mark.parametrize("names", [("none.onnx", "val"), ("digits.onnx", "none")])
def test_nothing_is_connected_to_before_model_and_data_are_read(names, monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "connect", lambda address, use_gpus: pytest.fail("it connected"))
    model, val = MODEL.with_name(names[0]), VAL.with_name(names[1])
    with pytest.raises(QuantKitError, match="none"):
        tune(model, CALIB, val, ray="auto", progress=False)


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"model_hash": "0" * 64}, ModelError, "is another model than that of the command"),
        ({"contents": (("a", "b"),)}, ChangedDataError, "holds other samples than those of the command"),
    ],
)
def test_a_node_that_sees_anything_else_than_the_command_says_so(other, error, message, inline, table, monkeypatch):
    monkeypatch.setattr(cluster_trials, "try_shard", lambda shard: try_shard(replace(shard, **other)))
    with pytest.raises(error, match=message):
        ranking(table, ray="auto")


class Dying:
    """`try_shard` whose worker is killed once."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __call__(self, shard: TrialShard) -> object:
        if not os.path.exists(self.mark):
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return try_shard(shard)


@pytest.mark.slow
def test_two_nodes_and_a_worker_that_dies_make_the_ranking_of_one_machine(table, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_trials, "try_shard", Dying(tmp_path / "died"))
    with started_nodes(2) as nodes:
        there = ranking(table, ray=nodes.address)
    assert (tmp_path / "died").exists()
    assert there == ranking(table)
