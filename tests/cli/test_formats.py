"""What the commands say and write of other formats than INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ..commands.test_formats import make_network
from ..commands.test_states import decided


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return make_network(tmp_path)


def test_the_model_is_named_after_its_format(quantkit, network):
    table = network.with_name("net.calib.json")
    outcome = quantkit("quantize", network, "--table", table, "--format", "fp8")
    assert outcome.code == 0, outcome.err
    assert "operators in FP8        4 of 4" in outcome.out
    assert network.with_name("net.fp8.onnx").is_file()


def test_calibrating_for_fp8_writes_no_cache(quantkit, network, tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    data = network.with_name("data.npy")
    outcome = quantkit("calibrate", network, "--data", data, "--accuracy", "fast", "--format", "fp8", "-o", folder)
    assert outcome.code == 0, outcome.err
    assert "net.calib is not written: a calibration cache is for implicit INT8" in outcome.out + outcome.err
    assert sorted(path.name for path in folder.iterdir()) == ["net.calib.fp8.weights", "net.calib.json", "net.fp8.onnx"]


def test_a_constant_decides_what_is_rounded_for_an_evaluation(quantkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    decided(tmp_path / "net.onnx")
    np.save("x.npy", np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32))
    words = ("--data", "x.npy", "--calibrate-data", "x.npy", "--constant", "sr=16000", "--variants", "fp8")
    outcome = quantkit("evaluate", "net.onnx", *words, "--task", "none", "--latency-s", "0", "--layer-samples", "0")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "net.calib.fp8.weights").is_file()


def test_samples_are_refused_where_weights_are_rounded_to_nearest(quantkit, network):
    kept = sorted(network.parent.iterdir())
    words = ("--table", network.with_name("net.calib.json"), "--format", "fp8", "--data", network.with_name("data.npy"))
    outcome = quantkit("quantize", network, *words, "--rounding", "nearest")
    assert outcome.code == 1
    assert outcome.err.startswith("quantkit: error: --rounding nearest rounds no weight on samples: leave out --data")
    assert sorted(network.parent.iterdir()) == kept
