import numpy as np
import pytest

from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.refinement.rounding import round_weights
from quantkit.refinement.samples import SampleBatches
from quantkit.types import TensorRange

from ..graph.builder import Builder
from ..graph.quantizing import load


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
    refinement, (layer,) = round_weights(graph, plan_tensorrt(graph), ranges, SampleBatches(batches), progress=False)
    assert "error feedback" in layer.choice
    assert layer.error < 0.8 * layer.nearest_error
    (rounded,) = refinement.weights.values()
    assert (np.abs(rounded.codes).reshape(16, -1).max(axis=1) == 127).all()
