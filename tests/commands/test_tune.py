"""The search for a plan on the demo model, one tensor of which has a range that ruins the score."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import onnx
import pytest

import quantkit
from quantkit.calibration.plan_file import load_plan, save_plan
from quantkit.commands import kept_evaluations
from quantkit.commands import tune as module
from quantkit.commands.evaluate import evaluate
from quantkit.commands.kept_evaluations import KeptEvaluations
from quantkit.errors import EvaluationError, LimitError, OptionError, StaleTableError
from quantkit.evaluation.limits import parse_drop
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.graph.float_model import FloatModel
from quantkit.types import Refinement, TensorRange
from quantkit.types.options import TuneOptions

from ..cli.conftest import CALIB, DIGITS, VAL


@pytest.fixture(scope="module")
def table():
    """A calibration in which one range is far too wide: what is read there is rounded to nothing."""
    sound = quantkit.calibrate(DIGITS, CALIB, num_samples=64, accuracy="fast", progress=False)
    name = list(sound.tensors)[2]
    wide = sound.tensors[name].amax * 200
    return replace(sound, tensors={**sound.tensors, name: TensorRange(wide, -wide, wide)})


@pytest.fixture(scope="module")
def ruined(table):
    return max(table.tensors, key=lambda name: table.tensors[name].amax)


def tune(table, **options):
    return quantkit.tune(DIGITS, CALIB, VAL, **{"table": table, "num_samples": 48, "progress": False, **options})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What the search for the plan evaluated."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def plan(table, runs):
    return tune(table, max_drop="1pt", runs=runs)


def test_only_what_ruins_the_score_stays_in_float(plan, ruined):
    assert set(plan.float_tensors) == {ruined}
    assert plan.verdict == "met"
    assert plan.point.num_float == 1
    assert 0.5 < plan.point.quantized_work < 1
    assert plan.float_nodes
    assert plan.score_name == "top1"
    assert plan.loss_unit == "pt"


@pytest.fixture(scope="module")
def mixed(table):
    return tune(table, max_drop="1pt", formats=("int8", "fp8"))


def test_what_int8_ruins_is_taken_in_fp8_before_it_stays_in_float(mixed, plan, table, ruined, tmp_path):
    assert dict(mixed.formats) == {ruined: "fp8"}
    assert (dict(mixed.float_tensors), mixed.float_nodes) == ({}, ())
    assert mixed.verdict == "met"
    assert (mixed.point.num_float, mixed.point.num_other) == (0, 1)
    assert mixed.point.quantized_work == pytest.approx(1)
    assert plan.point.quantized_work < 0.999
    assert load_plan(save_plan(mixed, tmp_path / "digits.plan.json")) == mixed
    made = quantkit.quantize(DIGITS, table, tmp_path / "digits.int8.onnx", plan=tmp_path / "digits.plan.json")
    graph = onnx.load(made.path).graph
    stored = {i.name: onnx.TensorProto.DataType.Name(i.data_type) for i in graph.initializer}
    kinds = [stored[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert kinds.count("FLOAT8E4M3FN") == 1
    assert kinds.count("INT8") > 1
    report = evaluate(
        DIGITS, VAL, table=table, plan=mixed, variants=["int8"], latency_s=0, layer_samples=0, progress=False
    )
    assert report.evaluations[1].metrics["top1"] == pytest.approx(mixed.point.score)


@pytest.mark.parametrize(
    ("helped", "chosen"),
    [(("a", "c"), (("b",), ("a", "c"))), (("c",), (("a", "b"), ("c",))), ((), (("a", "b", "c"), ()))],
)
def test_only_what_has_kernels_for_fp8_is_tried_in_it(monkeypatch, helped, chosen):
    """FP8 keeps the budget for what it helps; "b" is read by a depthwise convolution, which stays in float."""
    search = module._Search(Mock(), parse_drop("1pt"), Mock())
    search.units = {name: Mock(nodes=(f"conv_{name}",), tensors=(f"tensor_{name}",)) for name in "abc"}
    search.float8_nodes = frozenset({"conv_a", "conv_c"})
    check = Mock(side_effect=lambda units, others=(): Mock(passed=set(others) <= set(helped)))
    monkeypatch.setattr(search, "check", check)
    assert search._without_float(("a", "b", "c")) == chosen
    assert all("b" in call.args[0] for call in check.call_args_list)
    reasons = search._float_tensors(("a", "b"))
    assert reasons == {
        "tensor_a": "for the score (sensitivity: place 1 of 3)",
        "tensor_b": "for the score (sensitivity: place 2 of 3; FP8 is not for what reads it)",
    }
    search.float8_nodes = frozenset()  # of --formats int8
    assert search._without_float(("a", "b", "c")) == (("a", "b", "c"), ())


def test_other_roundings_in_fp8_are_evaluated_anew(table, ruined, tmp_path, monkeypatch):
    def report(table, formats):
        task, options = TaskOptions(), TuneOptions(num_val_samples=8, runs=tmp_path, progress=False)
        return KeptEvaluations(FloatModel(DIGITS), table, VAL, task, options).report({}, formats)

    rounded = replace(table, roundings={"fp8": Refinement(biases={"conv": np.ones(1, np.float32)})})
    for formats in ({}, {ruined: "fp8"}):
        assert [report(table, formats)[1] for _ in range(2)] == [False, True]
    monkeypatch.setattr(kept_evaluations, "evaluate", Mock(side_effect=StopIteration))
    assert report(rounded, {})[1]
    with pytest.raises(StopIteration):
        report(rounded, {ruined: "fp8"})


def test_other_libraries_of_operators_are_evaluated_anew(table, tmp_path, monkeypatch):
    library = tmp_path / "operators.so"

    def report(content=None):
        options = TuneOptions(
            num_val_samples=8, runs=tmp_path, ort_extension=[library] if content else (), progress=False
        )
        library.write_text(str(content))
        return KeptEvaluations(FloatModel(DIGITS), table, VAL, TaskOptions(), options).report({})

    monkeypatch.setattr(kept_evaluations, "evaluate", Mock(return_value=report()[0]))
    assert [report(content)[1] for content in ("one", "one", "two")] == [False, True, False]


def test_formats_are_those_that_a_group_can_have():
    for formats in ((), ("fp8",), ("int8", "int4"), ("int8", "INT8")):
        with pytest.raises(OptionError, match="choose int8, or int8,fp8"):
            TuneOptions(formats=formats)
    for formats, tries_others in ((("INT8",), False), (("int8", "FP8"), True)):
        assert TuneOptions(formats=formats).tries_others == tries_others


def test_the_front_begins_with_everything_in_int8(plan):
    assert [point.num_float for point in plan.front] == sorted(point.num_float for point in plan.front)
    first = plan.front[0]
    assert (first.num_float, first.quantized_work) == (0, pytest.approx(1))
    assert first.loss > 0.1 > plan.point.loss
    assert plan.point in plan.front


def test_the_plan_gives_the_score_that_it_says(plan, table):
    report = evaluate(
        DIGITS, VAL, table=table, plan=plan, variants=["int8"], latency_s=0, layer_samples=0, progress=False
    )
    assert report.evaluations[1].metrics["top1"] == plan.point.score


def test_the_quantized_model_leaves_the_plan_in_float(plan, table, ruined, tmp_path):
    quantkit.quantize(DIGITS, table, tmp_path / "all.onnx")
    made = quantkit.quantize(DIGITS, table, tmp_path / "some.onnx", plan=plan)
    assert made.skipped[ruined] == plan.float_tensors[ruined]
    everything, some = (onnx.load(tmp_path / f"{name}.onnx").graph.node for name in ("all", "some"))
    assert any(n.op_type == "QuantizeLinear" and n.input[0] == ruined for n in everything)
    assert not any(n.op_type == "QuantizeLinear" and n.input[0] == ruined for n in some)


def test_a_plan_is_for_its_own_table(plan, table, tmp_path):
    other = replace(table, num_samples=table.num_samples + 1)
    with pytest.raises(StaleTableError, match="table checksum"):
        quantkit.quantize(DIGITS, other, tmp_path / "some.onnx", plan=plan)
    assert not (tmp_path / "some.onnx").exists()


def test_a_budget_that_nothing_meets_is_missed_or_unknown(table, monkeypatch):
    """With one choice left, the search ends with the best that it saw."""
    monkeypatch.setattr(module, "find_smallest_set", lambda ranking, work, is_met: None if not is_met(()) else ())
    assert tune(table, max_drop="1pt").verdict == "missed"


def test_few_images_cannot_tell(table):
    sound = replace(table, tensors={n: replace(r, amax=min(r.amax, 30.0)) for n, r in table.tensors.items()})
    assert tune(sound, num_val_samples=20, max_drop="0.5pt").verdict == "unknown"


def test_an_interrupted_search_goes_on(table, plan, runs, monkeypatch):
    monkeypatch.setattr(kept_evaluations, "evaluate", lambda *_, **__: pytest.fail("it was evaluated before"))
    assert tune(table, max_drop="1pt", runs=runs) == plan


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"task": "none"}, EvaluationError, "--task none"),
        ({"max_drop": "much"}, LimitError, "--max-drop"),
        ({"num_val_samples": 0}, OptionError, "--num-val-samples 0"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_runs(table, options, error, named, monkeypatch):
    monkeypatch.setattr(kept_evaluations, "evaluate", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(error, match=named):
        tune(table, **options)


def test_validation_data_without_labels_are_refused_before_anything_is_calibrated(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "make_table", lambda *_, **__: pytest.fail("it calibrated"))
    image = next(VAL.rglob("*.png"))
    (tmp_path / image.name).write_bytes(image.read_bytes())
    model = tmp_path / "digits.onnx"
    model.write_bytes(DIGITS.read_bytes())
    with pytest.raises(EvaluationError, match=r"--val: .* has no labels: sort the images"):
        quantkit.tune(model, CALIB, tmp_path, progress=False)
