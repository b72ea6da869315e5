from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli.conftest import DIGITS

_SHORT = ("--duration", "0", "--warm-up-ms", "0", "--iterations", "5")


def save_sum(path, *shape):
    """A model whose input has dimensions that nobody says."""
    node = helper.make_node("ReduceSum", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", None)))
    graph = helper.make_graph([node], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_models_are_timed_without_data_and_compared_with_the_first(quantkit, digits, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(DIGITS.read_bytes())
    outcome = quantkit("bench", digits, other, *_SHORT, "--batch-size", "2", "--percentile", "50,99.9")
    assert outcome.code == 0, outcome.err
    first, heads, _, *rows = [line.split() for line in outcome.out.splitlines() if line.strip()]
    assert first == ["random", "inputs:", "image", "2x1x8x8"]
    assert heads[:5] == ["Model", "Median", "ms", "p50", "p99.9"]
    assert [row[0] for row in rows] == ["digits.onnx", "other.onnx"]
    assert rows[0][4] == "–"
    assert rows[1][4].endswith("x")


def test_json_and_times_hold_every_call(quantkit, digits, tmp_path):
    outcome = quantkit("bench", digits, *_SHORT, "--json", "--export-times", tmp_path / "times.json")
    found, times = json.loads(outcome.out), json.loads((tmp_path / "times.json").read_text())
    model = found["models"]["digits.onnx"]
    assert model["iterations"] == len(times["digits.onnx"]) >= 5
    assert model["median_ms"] == pytest.approx(float(np.median(times["digits.onnx"])))
    assert list(model["percentiles"]) == ["90.0", "95.0", "99.0"]
    assert "wrote" in outcome.err


def test_a_shape_that_nobody_says_is_asked_for(quantkit, tmp_path):
    path = save_sum(tmp_path / "sum.onnx", "n", 3, "h")
    assert "input 'x' is ?x3x?: say its shape with --shapes x:1x..." in quantkit("bench", path, *_SHORT).err
    outcome = quantkit("bench", path, *_SHORT, "--shapes", "x:2x3x5")
    assert "random inputs: x 2x3x5" in outcome.out
    assert "has no input 'z': choose one of" in quantkit("bench", path, *_SHORT, "--shapes", "z:1").err


@pytest.mark.parametrize(
    ("options", "code"), [(("--iterations", "0"), 1), (("--duration", "-1"), 1), (("--percentile", "0"), 2)]
)
def test_absurd_options_are_refused(quantkit, digits, options, code):
    outcome = quantkit("bench", digits, *options)
    assert outcome.code == code
    assert len(outcome.err.splitlines()) == 1
