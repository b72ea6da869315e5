"""What one batch size costs the others: nothing."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.datasets.open import open_samples
from quantkit.errors import BackendError
from quantkit.evaluation.latency.sweep import time_batches
from quantkit.types.options import EvaluationOptions, ImageOptions

from ...graph.builder import Builder


@pytest.mark.parametrize("error", [MemoryError("Failed to allocate memory"), BackendError("cannot run the model")])
def test_a_batch_that_is_too_large_leaves_the_times_of_the_others(tmp_path, monkeypatch, error):
    g = Builder()
    run = OnnxRuntimeRunner.run

    def limited(runner, inputs):
        if len(inputs["x"]) > 2:
            raise error
        return run(runner, inputs)

    monkeypatch.setattr(OnnxRuntimeRunner, "run", limited)
    model = g.model(g.linear(g.input("x", 4), 4, 2)).SerializeToString()
    np.save(tmp_path / "x.npy", np.zeros((3, 4), np.float32))
    options = EvaluationOptions(batch_sizes=(1, 8, 2), latency_s=0.01, threads=1, progress=False)
    with OnnxRuntimeRunner(model) as runner:
        data = open_samples(
            runner.inputs, tmp_path / "x.npy", ImageOptions(), None, num_samples=None, seed=0, order="given"
        )
        timing = time_batches({"fp32": runner}, data, options, should_stop=lambda: False)
    assert [latency.batch_size for latency in timing.latencies["fp32"]] == [1, 2]
    assert timing.warnings == (f"batch size 8 could not be timed: {error}",)
