"""Plans on disk and what they do to a table."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from quantkit.calibration.plan_file import apply_plan, load_plan, open_planned_table, save_plan
from quantkit.calibration.table import table_checksum
from quantkit.errors import CalibrationError, StaleTableError
from quantkit.types import CalibrationTable, TensorRange
from quantkit.types.plan import PlanPoint, QuantizationPlan

TABLE = CalibrationTable(
    tensors={name: TensorRange(1.0, -1.0, 1.0) for name in ("a", "b")},
    model_hash="m",
    dataset_fingerprint="d",
    num_samples=4,
    settings={"method": "mse"},
    float_tensors={"b": "calibration says so"},
)
POINT = PlanPoint(1, 0.9, 0.8, 0.001, (-0.001, 0.003))
PLAN = QuantizationPlan(
    model_name="net.onnx",
    model_hash="m",
    table_checksum=table_checksum(TABLE),
    float_tensors={"a": "for the score"},
    float_nodes=("conv",),
    max_drop="0.5pt",
    verdict="met",
    explanation="int8 meets it",
    score_name="top1",
    is_fraction=True,
    loss_unit="pt",
    point=POINT,
    front=(replace(POINT, num_float=0, interval=None), POINT),
    dataset_fingerprint="v",
    num_samples=100,
)


def test_a_plan_is_read_as_it_was_written(tmp_path):
    assert load_plan(save_plan(PLAN, tmp_path / "p.json")) == PLAN


def test_a_plan_adds_to_what_the_table_leaves_in_float(tmp_path):
    for plan in (PLAN, save_plan(PLAN, tmp_path / "p.json")):
        assert apply_plan(TABLE, plan).float_tensors == {**TABLE.float_tensors, **PLAN.float_tensors}
    assert apply_plan(TABLE, None) is TABLE
    assert open_planned_table(None, None) is None


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"model_hash": "other"}, StaleTableError, r"model hash: other → "),
        ({"table_checksum": "other"}, StaleTableError, r"table checksum: other → "),
        ({"float_tensors": {"z": "why"}}, CalibrationError, "no tensor 'z'"),
    ],
)
def test_a_plan_of_something_else_is_refused(change, error, named):
    with pytest.raises(error, match=named):
        apply_plan(TABLE, replace(PLAN, **change))


def test_a_plan_without_a_table_is_refused():
    with pytest.raises(CalibrationError, match="--plan needs the calibration table"):
        open_planned_table(None, PLAN)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda d: d.update(format="x"), "not a quantization plan"),
        (lambda d: d.update(format_version=2), "upgrade quantkit"),
        (lambda d: d.update(format_version="1"), "format version '1'"),
        (lambda d: d.pop("float_tensors"), "float_tensors"),
        (lambda d: d.update(float_tensors=["a"]), "float_tensors"),
        (lambda d: d.update(verdict="perhaps"), "verdict"),
    ],
)
def test_a_broken_plan_is_one_line(tmp_path, edit, named):
    path = save_plan(PLAN, tmp_path / "p.json")
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(CalibrationError, match=named) as caught:
        load_plan(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_are_no_plan_are_named(tmp_path):
    with pytest.raises(CalibrationError, match="cannot read plan"):
        load_plan(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"format": ')
    with pytest.raises(CalibrationError, match="cut short"):
        load_plan(tmp_path / "cut.json")
