"""What runs behind a unit alone gives the damage of the whole model with that unit changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quantkit import calibrate
from quantkit.commands.quantized_graph import quantize_graph
from quantkit.graph.float_model import FloatModel
from quantkit.graph.measured_outputs import measured_outputs
from quantkit.graph.passes.channel_scale import scalable_tensors
from quantkit.graph.passes.prepare import weighted_nodes
from quantkit.graph.passes.shift import shiftable_tensors
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.quantize_tensorrt import insert_refined_qdq, plan_refined
from quantkit.refinement.quantized_run import run_model
from quantkit.refinement.sensitivity_analysis import plan_of_table, plan_units
from quantkit.refinement.unit_trials import UnitTrials
from quantkit.types import Refinement
from quantkit.types.options import QuantizeOptions

from ..graph import models

MODELS = ("residual_identity", "inverted_residual", "squeeze_excite", "dense_concat", "attention", "residual_mlp")

CASES = [
    *((name, "balanced") for name in MODELS),
    *((name, "fast") for name in ("squeeze_excite", "residual_mlp")),
    ("residual_mlp", "shifted"),
]
"""Balanced has all that fast has, and more. "shifted" is fast, with a tensor shifted whose Q a residual Add shares."""


@pytest.fixture(params=CASES, ids="-".join)
def case(request, tmp_path):
    """A model, its calibration, its units and two batches."""
    name, accuracy = request.param
    model = FloatModel(getattr(models, name)().SerializeToString())
    (spec,) = model.inputs
    random = np.random.default_rng(2)
    shape = [size if isinstance(size, int) else 24 for size in spec.shape]
    rows = random.standard_normal([24, *shape[1:]]).astype(np.float32)
    np.savez(tmp_path / "data.npz", **{spec.name: rows})
    effort = "fast" if accuracy == "shifted" else accuracy
    table = calibrate(model, tmp_path / "data.npz", accuracy=effort, progress=False)
    if accuracy == "shifted":
        table = with_shift(model, table)
    graph = model.prepared()
    plan = plan_of_table(model, table)
    batch = shape[0] if isinstance(spec.shape[0], int) else 8
    batches = [{spec.name: rows[i * batch : (i + 1) * batch]} for i in range(2)]
    return model, table, plan_units(plan, weighted_nodes(graph)), batches


def with_shift(model, table):
    """With a tensor shifted of which a residual Add shares the Q, and reads floats then."""
    graph = model.prepared()
    plan = plan_tensorrt(graph)
    shared = {edge.tensor for edge in plan.activations if edge.shared}
    name = next(name for name in shiftable_tensors(graph, plan) if name in shared)
    channels = scalable_tensors(graph, plan)[name].channels
    refinement = Refinement(shifts={name: np.full(channels, 0.1, np.float32)}, amax={name: table.tensors[name].amax})
    return replace(table, refinement=refinement)


def test_shortcut_equals_one_by_one(case):
    model, table, units, batches = case
    trials = UnitTrials(model, table, units, batches)
    assert trials.total == pytest.approx(one_by_one(trials, quantized(model, table), batches), rel=1e-4)
    for unit in units:
        found = trials.measure(unit)
        assert found.alone == pytest.approx(one_by_one(trials, alone(model, table, unit), batches), rel=1e-3, abs=1e-9)
        if unit.kind == "tensor":
            in_float = {**table.float_tensors, **dict.fromkeys(unit.tensors, "tried")}
            graph = quantized(model, replace(table, float_tensors=in_float))
            assert found.without == pytest.approx(one_by_one(trials, graph, batches), rel=1e-3, abs=1e-9)


def one_by_one(trials, graph, batches):
    outputs = [output.name for output in measured_outputs(graph)]
    return trials.damage.of(run_model(graph, batches, outputs=outputs))


def quantized(model, table):
    return quantize_graph(model, table, QuantizeOptions())[0]


def alone(model, table, unit):
    graph, refinement = model.prepared(), table.refinement or Refinement()
    plan = plan_refined(graph, table.tensors, refinement, in_float={**table.skipped, **table.float_tensors})
    activations, weights = (
        tuple(edge for edge in edges if (edge.node, edge.index) in unit.edges)
        for edges in (plan.qdq.activations, plan.qdq.weights)
    )
    chosen = replace(plan, qdq=replace(plan.qdq, activations=activations, weights=weights))
    return insert_refined_qdq(graph, chosen, refinement)
