"""What is left in float besides, run behind it alone, gives what the model made anew with it gives."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.graph.float_model import FloatModel
from quantkit.graph.measured_outputs import measured_outputs
from quantkit.graph.pieces import GraphPieces
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.quantize_tensorrt import plan_refined
from quantkit.refinement import float_trials
from quantkit.refinement.float_trials import FloatTrials, edges_in_float
from quantkit.refinement.observation import observe
from quantkit.refinement.quantized_run import run_quantized, with_qdq
from quantkit.refinement.range_choice import quantized_units
from quantkit.types import Refinement, TensorRange

from ..graph import models


@pytest.mark.parametrize(
    "name", ["residual_identity", "inverted_residual", "residual_mlp", "dense_concat", "attention"]
)
@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_more_in_float_is_the_model_made_anew(name, with_weights, budget, monkeypatch):
    monkeypatch.setattr(float_trials, "REFINEMENT_BUDGET_BYTES", budget)
    model = FloatModel(getattr(models, name)().SerializeToString())
    (spec,) = model.inputs
    shape = [size if isinstance(size, int) else 4 for size in spec.shape]
    batches = [{spec.name: np.random.default_rng(i).standard_normal(shape).astype(np.float32)} for i in range(2)]
    graph = model.prepared()
    plan = plan_tensorrt(graph)
    tensors = list(dict.fromkeys(edge.tensor for edge in plan.activations))
    (values, _) = observe(GraphPieces(graph), tensors, batches)
    amax = {tensor: float(np.abs(values[tensor]).max()) for tensor in tensors}
    ranges = {
        edge.tensor: TensorRange(max(amax[other.tensor] for other in edges))
        for edges in quantized_units(plan).values()
        for edge in edges
    }
    outputs = [output.name for output in measured_outputs(graph)]

    def quantized(in_float):
        graph = model.prepared()
        return graph, plan_refined(graph, ranges, Refinement(), in_float=in_float), Refinement()

    left = {tensors[0]: "before"}
    trials = FloatTrials(quantized(left)[0], with_qdq(quantized(left), with_weights=with_weights), batches, outputs)
    sets = [{**left, tensor: "more"} for tensor in tensors[1:]]
    found = trials.run([edges_in_float(plan, floats) for floats in sets])
    wanted = [run_quantized(quantized(floats), batches, outputs=outputs, with_weights=with_weights) for floats in sets]
    for of_trial, whole in zip(found, wanted, strict=True):
        for got, expected in zip(of_trial, whole, strict=True):
            # A kernel in another company may round a value between two codes the other way.
            same = [np.isclose(got[output], expected[output], rtol=1e-4, atol=1e-5).mean() for output in outputs]
            assert min(same) > 0.99
    assert len({result[0][outputs[0]].tobytes() for result in found}) > 1
