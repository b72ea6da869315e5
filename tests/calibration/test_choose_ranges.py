"""A method that ruins a tensor is named when it calibrates, not found out by a wrong answer later."""

from __future__ import annotations

import re

import numpy as np
import pytest

import quantkit
from quantkit.calibration.choose_ranges import choose_ranges
from quantkit.calibration.statistics import new_statistics, update
from quantkit.calibration.statistics_file import KeptStatistics, StatisticsOrigin

from ..cli.conftest import conv_model


@pytest.fixture
def bright(tmp_path):
    """Inputs without a value near 0, on which TensorRT's search cuts off everything."""
    path = tmp_path / "bright.npy"
    np.save(path, np.random.default_rng(0).uniform(0.1, 0.9, (64, 3, 8, 8)).astype(np.float32))
    return path


def test_a_range_that_ruins_a_tensor_is_told(tmp_path, bright):
    model, notices = conv_model(tmp_path / "net.onnx"), []
    table = quantkit.calibrate(
        model, bright, method="entropy", histogram="tensorrt", progress=False, notify=notices.append
    )
    assert table.tensors["x"].amax < 0.12
    (warning,) = [notice for notice in notices if notice.topic == "clipping"]
    assert warning.kind == "warning"
    assert warning.text.startswith("entropy")
    assert re.search(r"x \(SQNR 1\.\d dB with 0\.1\d*, 4\d\.\d dB with 0\.8", warning.text)
    assert "--method" in warning.text


@pytest.mark.parametrize("method", ["auto", "entropy", "minmax", "mse", "percentile"])
def test_the_exact_histogram_does_not_fall_into_it(tmp_path, bright, method):
    model, notices = conv_model(tmp_path / "net.onnx"), []
    table = quantkit.calibrate(model, bright, method=method, progress=False, notify=notices.append)
    assert table.tensors["x"].amax > 0.5
    assert not [notice for notice in notices if notice.topic == "clipping"]


RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.standard_normal(100_000)
SPIKED = {
    "letterbox": np.where(RANDOM.random(100_000) < 0.44, 114 / 255, RANDOM.uniform(0, 1, 100_000)),
    "padded tokens": np.where(RANDOM.random(100_000) < 0.7, 0.05, NORMAL),
}
COMMON = {
    "ReLU": np.maximum(NORMAL, 0),
    "GELU": 0.5 * NORMAL * (1 + np.tanh(0.79788 * (NORMAL + 0.044715 * NORMAL**3))),
    "SiLU": NORMAL / (1 + np.exp(-NORMAL)),
    "wide ReLU": np.maximum(NORMAL, 0) * np.exp(0.7 * RANDOM.standard_normal(100_000)),
}


def warnings_of(method, values):
    statistics, notices = new_statistics(), []
    update(statistics, values.astype(np.float32))
    origin = StatisticsOrigin("", "m.onnx", (("a", "b"),), None, {}, {})
    kept = KeptStatistics(origin, {"t": statistics}, num_read=1, num_samples=1, unreadable={}, batch_size=1)
    choose_ranges(kept, method, {}, progress=False, notify=notices.append)
    return [notice.text for notice in notices]


@pytest.mark.parametrize("name", SPIKED)
def test_a_range_cut_at_a_spike_is_told_in_decibels(name):
    (text,) = warnings_of("entropy", SPIKED[name])
    lost, best = (float(number) for number in re.findall(r"([\d.]+) dB with", text))
    assert lost < 12
    assert best > 35
    assert not any(warnings_of(method, SPIKED[name]) for method in ("auto", "minmax", "mse"))


@pytest.mark.parametrize("name", COMMON)
def test_ranges_of_common_activations_are_not_complained_about(name):
    assert not any(warnings_of(m, COMMON[name]) for m in ("auto", "entropy", "minmax", "mse", "percentile"))
