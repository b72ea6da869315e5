"""What one changed tensor does, by running what lies behind it: the same as by running the whole model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quantkit.graph.measured_outputs import measured_outputs
from quantkit.graph.pieces import GraphPieces
from quantkit.graph.quantize_tensorrt import RefinedPlan
from quantkit.numerics import QuantParams, fake_quantize
from quantkit.refinement.damage import OutputDamage
from quantkit.refinement.observation import channel_values, observe
from quantkit.refinement.quantized_run import run_model, run_quantized
from quantkit.refinement.range_choice import quantized_units
from quantkit.refinement.trials import Trials, pieces_behind
from quantkit.types import Refinement, TensorRange

from ..arrays import assert_close
from .nets import Net, small_net, token_net

NETS = {"images": small_net, "tokens": token_net}


@pytest.fixture(scope="module", params=NETS)
def subject(request: pytest.FixtureRequest) -> Net:
    return NETS[request.param]()


def trials_of(net: Net) -> Trials:
    graph = net.model.prepared()
    units = quantized_units(net.plan)
    pieces = GraphPieces(graph)
    behind = pieces_behind(pieces, units)
    return Trials(pieces, behind, measured_outputs(graph), units, net.samples.batches, name="net")


def whole_damage(net: Net, tensor: str, amax: float) -> float:
    """By brute force: Q/DQ at the readers of one tensor, and the whole model run."""
    plan = net.plan
    edges = tuple(edge for edge in plan.activations if edge.tensor == tensor)
    alone = replace(plan, activations=edges, weights=(), groups=())
    ranges = {tensor: TensorRange(amax, -amax, amax)}
    outputs = measured_outputs(net.model.prepared())
    names = [output.name for output in outputs]
    reference = run_model(net.model.prepared(), net.samples.batches, outputs=names)
    quantized = (net.model.prepared(), RefinedPlan(alone, ranges, {}), Refinement())
    got = run_quantized(quantized, net.samples.batches, outputs=names, with_weights=False)
    return OutputDamage(outputs, reference).of(got)


def test_a_trial_does_what_the_whole_model_does(subject: Net) -> None:
    trials = trials_of(subject)
    for tensor, seen in subject.ranges().items():
        for share in (1.0, 0.3):
            amax = share * seen.amax
            scale = float(QuantParams.from_amax(amax).scale)
            with trials.of(tensor) as trial:
                found = trial.damage(scale)
            assert found == pytest.approx(whole_damage(subject, tensor, amax), rel=0.05, abs=1e-9), tensor


def test_the_error_of_a_tensor_is_that_of_its_values(subject: Net) -> None:
    trials = trials_of(subject)
    tensor = subject.plan.activations[-1].tensor
    values = np.concatenate([np.asarray(batch[tensor]).ravel() for batch in trials.values]).astype(np.float64)
    with trials.of(tensor) as trial:
        found = trial.squared_error(0.05)
    step = np.float32(0.05)
    expected = np.clip(np.rint(values.astype(np.float32) / step), -128, 127) * step
    assert found == pytest.approx(np.mean((expected - values) ** 2), rel=1e-4)


def test_steps_and_offsets_for_each_channel(subject: Net) -> None:
    """Fine steps do next to nothing; an offset that is taken back again does nothing by itself."""
    trials = trials_of(subject)
    tensor = next(t for t in subject.ranges() if t not in subject.samples.batches[0])
    shape = np.asarray(trials.values[0][tensor]).shape
    axis = 1 if len(shape) == 4 else -1
    fitting = [1] * len(shape)
    fitting[axis] = shape[axis]
    amax = subject.ranges()[tensor].amax
    with trials.of(tensor) as trial:
        coarse = trial.damage(amax / 127)
        step = np.full(fitting, amax / 127, np.float32)
        assert trial.damage(step) == pytest.approx(coarse, rel=0.05)
        assert trial.damage(step, np.zeros(fitting, np.float32)) == pytest.approx(coarse, rel=0.05)
        shifted = trial.damage(step, np.full(fitting, 3 * amax / 127, np.float32))
        assert shifted == pytest.approx(coarse, rel=0.05)  # by whole steps: the same grid, if nothing is clipped
        assert trial.damage(step, np.full(fitting, 9 * amax, np.float32)) > coarse


def test_no_change_does_nothing(subject: Net) -> None:
    trials = trials_of(subject)
    assert trials.damage.of(trials.values) == 0


def test_inner_tensors_are_those_of_the_model(subject: Net) -> None:
    pieces = GraphPieces(subject.model.prepared())
    names = tuple(pieces.producers)[::2]
    for mine, theirs in zip(observe(pieces, names, subject.samples.batches), subject.inner(names), strict=True):
        for name in names:
            assert_close(mine[name], theirs[name], rel=1e-4, abs=1e-5)
        assert set(mine) == {*names, *subject.samples.batches[0]}


def test_what_the_model_does_not_have_is_left_out(subject: Net) -> None:
    pieces = GraphPieces(subject.model.prepared())
    (first, *_) = observe(pieces, ["x", "nothing"], subject.samples.batches)
    assert set(first) == {"x"}


def test_values_of_channels(subject: Net) -> None:
    pieces = GraphPieces(subject.model.prepared())
    tensor = next(t for t in subject.ranges() if t in pieces.producers)
    all_values = np.concatenate([np.asarray(v[tensor]) for v in subject.inner((tensor,))])
    axis = 1 - all_values.ndim if all_values.ndim == 4 else -1
    found = channel_values(pieces, {tensor: axis}, subject.samples.batches)[tensor]
    rows = np.moveaxis(all_values, axis, 0).reshape(all_values.shape[axis], -1)
    assert found.low == pytest.approx(rows.min(axis=1), rel=1e-5, abs=1e-6)
    assert found.high == pytest.approx(rows.max(axis=1), rel=1e-5, abs=1e-6)
    assert found.variance == pytest.approx(rows.var(axis=1, dtype=np.float64), rel=1e-4, abs=1e-6)


def test_fake_quantization_is_what_q_dq_do() -> None:
    """ONNX: round half to even of x / scale, to [-128, 127]."""
    x = np.array([-2, -0.05, 0.05, 0.15, 0.25, 2], np.float32)
    assert fake_quantize(x, 0.1).tolist() == (np.array([-20, 0, 0, 2, 2, 20], np.float32) * np.float32(0.1)).tolist()
    assert fake_quantize(x, 0.001).tolist()[0] == pytest.approx(-0.128)
    half = fake_quantize(x.astype(np.float16), 0.1)
    assert half.dtype == np.float16
