import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from quantkit.graph.layer_constants import constant_array
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.numerics import dequantize_array, fake_quantize, quantize_array, weight_params
from quantkit.refinement.recipes import round_layer
from quantkit.refinement.rounding import _robust_weights, _squared_errors, round_weights
from quantkit.refinement.samples import SampleBatches
from quantkit.types import TensorRange

from ..graph.builder import Builder
from ..graph.quantizing import load


@pytest.mark.parametrize(("channels", "width"), [(8, 72), (256, 2304)])
def test_narrow_layers_are_rounded_by_one_thread(channels, width, monkeypatch):
    """BLAS cuts small products among threads that wait for one another; what was set before is set again."""
    g = Builder()
    graph = prepare(load(g.model(g.conv(g.input("x", channels, 4, 4), channels, 4))), name="model")
    x = np.random.default_rng(0).normal(size=(8, channels, 4, 4)).astype(np.float32)
    samples = SampleBatches(tuple({"x": part} for part in np.array_split(x, 4)))
    ranges = {"x": TensorRange(amax=4.0, minimum=-4, maximum=4)}
    at_work = []

    def round_noting_threads(*args, **options):
        at_work.append(count_threads())
        return round_layer(*args, **options)

    monkeypatch.setattr("quantkit.refinement.rounding.round_layer", round_noting_threads)
    with threadpool_limits(2, user_api="blas"):
        round_weights(graph, plan_tensorrt(graph), ranges, samples)
        at_work.append(count_threads())
    assert at_work == [{1} if width == 72 else {2}, {2}]


def count_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("num_batches", [1, 2, 3, 4, 8])
def test_some_samples_judge_rounding_however_they_are_batched(num_batches):
    g = Builder()
    proto = g.model(g.conv(g.input("x", 8, 6, 6), 8, 16))
    graph = prepare(load(proto), name="model")
    # Channels that are nearly the same, so that errors of their weights can cancel.
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 1, 6, 6)) + 0.1 * random.normal(size=(64, 8, 6, 6))
    batches = tuple({"x": part} for part in np.array_split(x.astype(np.float32), num_batches))
    amax = float(np.abs(x).max())
    ranges = {"x": TensorRange(amax=amax, minimum=-amax, maximum=amax)}
    refinement, (layer,) = round_weights(graph, plan_tensorrt(graph), ranges, SampleBatches(batches))
    assert "error feedback" in layer.choice
    assert layer.error < 0.8 * layer.nearest_error
    (rounded,) = refinement.weights.values()
    assert (np.abs(rounded.codes).reshape(16, -1).max(axis=1) == 127).all()


def test_what_a_range_clips_in_few_tokens_is_not_taken_back_from_all_of_them():
    """As in transformers, of whose tokens one in twenty has a value a hundred times as large as the others."""
    g = Builder()
    proto = g.model(g.op("Add", g.op("MatMul", g.input("x", "tokens", 32), g.weight(32, 24)), g.weight(24)))
    graph = prepare(load(proto), name="model")
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 20, 32)) * np.exp(random.normal(size=32))
    x[:, 0, 5] = 500
    x = x.astype(np.float32)
    ranges = {"x": TensorRange(amax=8.0, minimum=-8, maximum=500)}
    batches = tuple({"x": part} for part in np.array_split(x, 8))
    plan = plan_tensorrt(graph)
    refinement, (layer,) = round_weights(graph, plan, ranges, SampleBatches(batches))
    (edge,) = plan.weights
    weight, (rounded,) = constant_array(graph, edge.tensor), refinement.weights.values()
    others = x[:, 1:].reshape(-1, 32)
    quantized = fake_quantize(others, 8 / 127)
    bias = sum(refinement.biases.values(), np.zeros(24, np.float32))
    nearest = dequantize_array(quantize_array(weight, weight_params(weight, 1)), weight_params(weight, 1))

    def error(output):
        return np.mean((output - others @ weight) ** 2)

    assert "error feedback" in layer.choice
    assert error(quantized @ (rounded.codes * rounded.scale) + bias) < error(quantized @ nearest)


def test_a_column_counts_less_the_larger_its_error_is():
    weights = _robust_weights(np.array([0, 1, 1, 1, 4, 1e4, np.inf, np.nan], np.float32))
    assert weights.mean() == pytest.approx(1)
    assert weights[0] == pytest.approx(2 * weights[1])
    assert weights[4] == pytest.approx(weights[0] / 5)
    assert weights[5] < 1e-3
    assert (weights[6:] == 0).all()
    assert (_robust_weights(np.zeros(3, np.float32)) == 1).all()
    assert _robust_weights(np.zeros(0, np.float32)).size == 0


def test_squared_errors_are_those_of_the_output(monkeypatch):
    monkeypatch.setattr("quantkit.refinement.rounding._ROWS", 3)
    random = np.random.default_rng(0)
    matrix, difference = random.normal(size=(2, 5, 4)), random.normal(size=(2, 4, 7))
    np.testing.assert_allclose(
        _squared_errors(matrix, difference), ((matrix @ difference) ** 2).sum(axis=(0, 1)), rtol=1e-5
    )


def test_positions_that_are_not_finite_do_not_count():
    g = Builder()
    proto = g.model(g.op("MatMul", g.input("x", 20, 8), g.weight(8, 6)))
    graph = prepare(load(proto), name="model")
    random = np.random.default_rng(0)
    x = (random.normal(size=(64, 20, 1)) + 0.1 * random.normal(size=(64, 20, 8))).astype(np.float32)
    x[:, 3] = np.inf
    ranges = {"x": TensorRange(amax=4.0, minimum=-4, maximum=4)}
    batches = tuple({"x": part} for part in np.array_split(x, 8))
    _, (layer,) = round_weights(graph, plan_tensorrt(graph), ranges, SampleBatches(batches))
    assert np.isfinite(layer.error)
    assert "error feedback" in layer.choice
