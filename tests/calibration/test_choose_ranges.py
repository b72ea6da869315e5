"""A method that ruins a tensor is named when it calibrates, not found out by a wrong answer later."""

from __future__ import annotations

import numpy as np
import pytest

import quantkit

from ..cli.conftest import conv_model


@pytest.fixture
def bright(tmp_path):
    """Inputs without a value near 0, on which TensorRT's search cuts off everything."""
    path = tmp_path / "bright.npy"
    np.save(path, np.random.default_rng(0).uniform(0.1, 0.9, (64, 3, 8, 8)).astype(np.float32))
    return path


def test_a_range_beyond_which_most_values_lie_is_told(tmp_path, bright):
    model, notices = conv_model(tmp_path / "net.onnx"), []
    table = quantkit.calibrate(
        model, bright, method="entropy", histogram="tensorrt", progress=False, notify=notices.append
    )
    assert table.tensors["x"].amax < 0.12
    (warning,) = [notice for notice in notices if notice.topic == "clipping"]
    assert warning.kind == "warning"
    assert warning.text.startswith("entropy")
    assert "x (100% beyond 0.1" in warning.text
    assert "--method" in warning.text


@pytest.mark.parametrize("method", ["entropy", "minmax", "mse", "percentile"])
def test_the_exact_histogram_does_not_fall_into_it(tmp_path, bright, method):
    model, notices = conv_model(tmp_path / "net.onnx"), []
    table = quantkit.calibrate(model, bright, method=method, progress=False, notify=notices.append)
    assert table.tensors["x"].amax > 0.5
    assert not [notice for notice in notices if notice.topic == "clipping"]
