"""The whole refinement on small nets: never worse than the best method, and what INT8 ruins stays in float."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quantkit.calibration.methods import METHODS, bind_method
from quantkit.graph.measured_outputs import measured_outputs
from quantkit.graph.quantize_tensorrt import insert_refined_qdq, plan_refined
from quantkit.notices import Notice
from quantkit.refinement import refine
from quantkit.refinement.damage import OutputDamage
from quantkit.refinement.quantized_run import run_model
from quantkit.refinement.range_choice import RangeChoice, _choose, choose_by_output
from quantkit.refinement.refine import RefinedCalibration, refine_calibration
from quantkit.refinement.transforms import Transform, find_sites, with_transforms
from quantkit.types import Refinement, TensorRange
from quantkit.types.options import CalibrationOptions

from ..graph.builder import Builder
from .nets import Net, images, net, small_net, token_net


def refined(subject: Net, said: list[Notice] | None = None, **options) -> RefinedCalibration:
    found = CalibrationOptions(progress=False, **options)
    statistics = subject.statistics()
    choose = bind_method(found.method, {})
    ranges = {n: TensorRange(choose(s), s.minimum, s.maximum) for n, s in statistics.items()}
    notify = (lambda notice: None) if said is None else said.append
    return refine_calibration(
        subject.model, subject.samples, statistics, ranges, found, fixed=frozenset(), notify=notify
    )


def damage(subject: Net, found: RefinedCalibration) -> float:
    """Of the INT8 model, on all samples."""
    graph = subject.model.prepared()
    outputs = measured_outputs(graph)
    names = [output.name for output in outputs]
    reference = run_model(subject.model.prepared(), subject.samples.batches, outputs=names)
    plan = plan_refined(graph, found.ranges, found.refinement, in_float=found.float_tensors)
    insert_refined_qdq(graph, plan, found.refinement)
    return OutputDamage(outputs, reference).of(run_model(graph, subject.samples.batches, outputs=names))


BALANCED = CalibrationOptions(progress=False)

ENOUGH = 0.001
"""Damage at which nothing more is searched: a KL divergence in nats, and less than the share of error that is."""


def heavy_tails() -> Net:
    """Values of which a few are large: methods differ much."""
    g = Builder()
    x = g.op("Relu", g.gemm(g.input("x", 16), 16, 24))
    values = np.random.default_rng(1).standard_t(1.5, (64, 16)).astype(np.float32)
    return net(g.model(g.gemm(x, 24, 6)), {"x": values})


def depthwise_net() -> Net:
    """Channels of very different range in front of a depthwise convolution, where a scale for each of them helps."""
    g, random = Builder(), np.random.default_rng(0)
    size = np.array([20.0, 1.0, 0.1, 5.0], np.float32)[:, None, None]
    x = g.op("Relu", g.input("x", 4, 6, 6))
    weight = random.normal(size=(4, 1, 3, 3)).astype(np.float32) / size[:, :, :, None]
    y = g.op("Relu", g.op("Conv", x, g.constant(weight), pads=[1, 1, 1, 1], group=4))
    values = random.normal(size=(64, 4, 6, 6)).astype(np.float32) * size
    return net(g.model(g.gemm(g.op("Flatten", y), 144, 6)), {"x": values})


NETS = {"images": small_net, "tokens": token_net, "heavy tails": heavy_tails}


@pytest.mark.parametrize("name", NETS)
def test_auto_is_not_worse_than_the_best_method(name: str) -> None:
    subject = NETS[name]()
    found = damage(subject, refined(subject, accuracy="balanced"))
    singles = {m: damage(subject, refined(subject, method=m)) for m in sorted(METHODS.keys() - {"auto"})}
    assert found <= max(1.1 * min(singles.values()), ENOUGH), singles


def ruined() -> Net:
    """A product that lives from the small values beside a huge one, on a small side branch."""
    g = Builder()
    x = g.input("x", 32)
    main = g.gemm(g.op("Relu", g.gemm(x, 32, 256)), 256, 64)
    weight = np.ones((8, 64))
    weight[0] = 0
    thin = g.op("MatMul", x, g.constant(np.eye(32)[:, :8] * [1000, *[1] * 7]), name="split")
    side = g.op("MatMul", thin, g.constant(weight), name="side")
    return net(g.model(g.op("Add", g.op("Mul", main, g.constant(0.05)), side)), {"x": images(64, 32)})


def test_scales_help_weights_where_activations_need_none() -> None:
    """As in re-parameterised networks: a row whose largest weight is on a channel that holds next to nothing."""
    g, random = Builder(), np.random.default_rng(0)
    size, identity = np.ones((16, 1, 1), np.float32), np.ones(16)
    size[:2], identity[:2] = 1e-5, 100
    weight = np.diag(identity) + random.normal(size=(16, 16)) / 4
    x = g.op("Relu", g.input("x", 16, 3, 3))
    values = random.normal(size=(64, 16, 3, 3)).astype(np.float32) * size
    subject = net(g.model(g.op("Conv", x, g.constant(weight[:, :, None, None]))), {"x": values})
    found = refined(subject)
    assert found.refinement.channel_scales[x][:2].min() > 8
    plain = replace(found, refinement=refined(subject, accuracy="fast").refinement)
    assert damage(subject, found) < 0.1 * damage(subject, plain)


def test_what_int8_ruins_stays_in_float_and_is_named() -> None:
    said: list[Notice] = []
    subject = ruined()
    found = refined(subject, said, accuracy="balanced")
    assert "split_out" in {*found.float_tensors, *found.refinement.amax}
    everything = replace(found, float_tensors={}, refinement=Refinement())
    assert damage(subject, found) < 0.5 * damage(subject, everything)
    assert all("alone in INT8" in reason for reason in found.float_tensors.values())
    assert any(notice.topic == "ranges" for notice in said)


def test_every_figure_says_what_it_is_measured_on() -> None:
    said: list[Notice] = []
    refined(ruined(), said, accuracy="balanced")
    first, *rest = (notice.text for notice in said)
    assert first == (
        "samples: 40 to try choices on, 16 to judge them by (estimated relative error of the output from FP32's), "
        "8 held out to measure the result on"
    )
    assert rest
    assert all(re.search(r" \(16 samples, weights (in float|estimated|quantized)\)", text) for text in rest)


@pytest.mark.parametrize(("count", "held_out"), [(4, " held out"), (3, "")])
def test_samples_that_serve_twice_are_not_called_held_out(count: int, held_out: str) -> None:
    subject = ruined()
    subject = replace(subject, samples=replace(subject.samples, batches=subject.samples.batches[:count]))
    said: list[Notice] = []
    refined(subject, said, accuracy="balanced")
    assert said[0].text.endswith(f", 8{held_out} to measure the result on")


def test_a_second_time_gives_the_same() -> None:
    first, second = (refined(small_net(), accuracy="balanced") for _ in range(2))
    assert first.ranges == second.ranges
    assert first.float_tensors == second.float_tensors
    assert first.quality == second.quality


def test_fast_leaves_ranges_alone_and_tells_what_they_are_worth() -> None:
    subject = small_net()
    found = refined(subject, method="minmax")
    assert {name: r.amax for name, r in found.ranges.items()} == {n: r.amax for n, r in subject.ranges().items()}
    assert not found.refinement
    assert found.float_tensors == {}
    assert found.quality["num_samples"] == subject.samples.num_samples


def test_a_named_method_keeps_its_ranges_while_weights_are_rounded() -> None:
    subject = small_net()
    found = refined(subject, method="minmax", accuracy="balanced")
    assert {name: r.amax for name, r in found.ranges.items()} == {n: r.amax for n, r in subject.ranges().items()}
    assert damage(subject, found) <= damage(subject, refined(subject, method="minmax")) * 1.05


def test_what_is_excluded_later_does_not_upset_what_was_refined() -> None:
    """Rounded weights hold only behind the scales that they were rounded for."""
    subject = small_net()
    found = refined(subject, accuracy="balanced")
    outputs = measured_outputs(subject.model.prepared())
    names = [output.name for output in outputs]
    reference = run_model(subject.model.prepared(), subject.samples.batches, outputs=names)
    whole = damage(subject, found)
    for node in [edge.node for edge in subject.plan.weights]:
        graph = subject.model.prepared()
        plan = plan_refined(graph, found.ranges, found.refinement, exclude=[node], in_float=found.float_tensors)
        insert_refined_qdq(graph, plan, found.refinement)
        left = OutputDamage(outputs, reference).of(run_model(graph, subject.samples.batches, outputs=names))
        assert left < 3 * whole + 1e-4, node


def test_ranges_that_only_look_good_alone_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the damage is: the widest of the methods that do about as well in company stands for all."""

    def too_narrow(*arguments: object, **options: bool) -> dict[str, RangeChoice]:
        found = choose_by_output(*arguments, **options)  # type: ignore[arg-type]
        return {unit: replace(choice, amax=choice.amax * 0.7, method="mse x 0.7") for unit, choice in found.items()}

    monkeypatch.setattr(refine, "choose_by_output", too_narrow)
    subject = small_net(64)
    found = refined(subject, rounding="nearest")
    assert {r.method for r in found.ranges.values()} <= METHODS.keys()
    assert damage(subject, found) <= 1.3 * damage(subject, refined(subject, method="minmax", accuracy="fast"))


def test_nothing_is_better_than_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine.Refining, "damage", lambda self, **changes: 0.0)
    said: list[Notice] = []
    refined(small_net(64), said, rounding="nearest")
    assert not [notice.text for notice in said if "are better" in notice.text]


def test_a_range_that_no_method_gives_has_to_be_clearly_better() -> None:
    ranges = {"minmax": 2.0, "mse": 1.0, "mse x 0.7": 0.7}
    assert _choose(ranges, {"minmax": 1.0, "mse": 1.2, "mse x 0.7": 0.9}).method == "minmax"
    assert _choose(ranges, {"minmax": 1.0, "mse": 1.2, "mse x 0.7": 0.7}).method == "mse x 0.7"
    assert _choose(ranges, {"mse x 0.7": 0.7}).method == "mse x 0.7"


@pytest.mark.parametrize(("factors", "is_kept"), [([1, 20, 200, 4], True), ([1, 1, 0.01, 1], False)])
def test_what_was_measured_of_transforms_is_known(
    factors: list[float], is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = depthwise_net()
    run = refine.Refining(subject.model, subject.samples, subject.ranges(), BALANCED, notify=lambda notice: None)
    before = run.damage(with_weights=False)
    (name,) = (name for name, site in find_sites(run.graph, run.plan, run.choosing).scalable.items() if site.axis == -3)
    amax = run.ranges[name].amax
    run.keep_if_better({name: Transform(None, np.array(factors, np.float32), amax)}, with_weights=False)
    assert bool(run.refinement.amax) == is_kept
    monkeypatch.delattr(refine, "run_quantized")  # whatever runs again fails
    assert (run.damage(with_weights=False) < before) == is_kept


def test_weights_are_not_run_where_activations_alone_are_too_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = small_net(64)
    run = refine.Refining(subject.model, subject.samples, subject.ranges(), BALANCED, notify=lambda notice: None)
    monkeypatch.setattr(run, "damage", lambda *, with_weights: 3.0 if with_weights else 1.0)
    assert run._expected_damage(True, enough=1.0) == 1.0
    assert run._expected_damage(True, enough=1.1) == pytest.approx(1.5)
    assert run._expected_damage(False) == 1.0


@pytest.mark.parametrize(("left", "is_tried"), [(0.5, False), (0.7, True)])
def test_methods_are_tried_without_transforms_where_these_do_little(
    left: float, is_tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = depthwise_net()
    run = refine.Refining(subject.model, subject.samples, subject.ranges(), BALANCED, notify=lambda notice: None)
    (name,) = (name for name, site in find_sites(run.graph, run.plan, run.choosing).scalable.items() if site.axis == -3)
    run.adopt(refinement=with_transforms(run.refinement, {name: Transform(None, np.ones(4, np.float32), 1.0)}))
    monkeypatch.setattr(run, "_left_by_transforms", left)
    tried = []

    def damage(*, with_weights: bool, **changes: Any) -> float:
        tried.append(changes.get("refinement", run.refinement))
        return 1.0

    monkeypatch.setattr(run, "damage", damage)
    run.compare_methods(subject.statistics(), frozenset())
    assert len(tried) > 2
    assert any(not refinement.amax for refinement in tried) == is_tried
