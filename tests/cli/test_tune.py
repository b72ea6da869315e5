"""The command `tune`: what it writes and prints, its exit codes, and --plan of the others."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from quantkit.calibration.plan_file import load_plan
from quantkit.calibration.table import load_table, save_table
from quantkit.cli.tune import _print
from quantkit.commands import tune
from quantkit.types import TensorRange
from tests.cli.conftest import CALIB, VAL, write_images

FEW = ("--num-samples", 48)
VALIDATE = ("--val", VAL, "--num-val-samples", 200)


def test_a_plan_is_written_and_taken(quantkit, digits, tmp_path):
    outcome = quantkit("tune", digits, "--data", CALIB, *VALIDATE, "--max-drop", 2, *FEW)
    assert outcome.code == 0, outcome.err
    assert "met: int8: Top-1 drop" in outcome.out
    assert "evaluation 1: 0 tensors in float" in outcome.err
    assert "multiply-adds" in outcome.out
    path = tmp_path / "digits.plan.json"
    assert json.loads(path.read_text())["verdict"] == "met"
    quiet = io.StringIO()
    _print(Console(file=quiet), load_plan(path), quiet=True)
    assert "multiply-adds" not in quiet.getvalue()
    assert "met: int8" in quiet.getvalue()
    words = (
        "--data",
        VAL,
        "--num-samples",
        60,
        "--plan",
        path,
        "--variants",
        "int8",
        "--latency-s",
        0,
        "--layer-samples",
        0,
    )
    assert quantkit("evaluate", digits, *words).code == 0
    assert outcome.err.endswith(f"next: quantkit quantize {digits} --plan {path}\n")
    assert quantkit("quantize", digits, "--plan", path).code == 0
    refused = quantkit("quantize", digits, "--table", tmp_path / "digits.calib.json", "--plan", path, "--target", "cpu")
    assert (refused.code, "--plan is for the target tensorrt" in refused.err) == (1, True)


def test_the_table_that_tune_writes_is_named(quantkit, digits, tmp_path):
    """And goes where -o says, as the plan does."""
    table = tmp_path / "elsewhere" / "digits.calib.json"
    outcome = quantkit("tune", digits, "--data", CALIB, *VALIDATE, "--max-drop", 50, *FEW, "-o", tmp_path / "elsewhere")
    assert f"Calibrating with --accuracy balanced and writing {table}; run" in " ".join(outcome.err.split())
    assert table.is_file()
    assert not table.with_name("digits.plan.json").parent.parent.joinpath(table.name).exists()
    plan = table.with_name("digits.plan.json")
    assert outcome.err.endswith(f"next: quantkit quantize {digits} --plan {plan}\n")
    assert f"calibration: {table}" in quantkit("quantize", digits, "--plan", plan, "-o", tmp_path).err


@pytest.mark.usefixtures("calibrated")
def test_a_missed_budget_has_exit_code_3_and_a_plan(quantkit, digits, tmp_path, monkeypatch):
    path = tmp_path / "digits.calib.json"
    table = load_table(path)
    name = list(table.tensors)[2]
    save_table(replace(table, tensors={**table.tensors, name: TensorRange(900.0, -900.0, 900.0)}), path)
    monkeypatch.setattr(tune, "find_smallest_set", lambda ranking, work, is_met: is_met(()) or None)
    outcome = quantkit("tune", digits, "--data", CALIB, *VALIDATE, *FEW)
    assert outcome.code == 3
    assert "missed: int8: Top-1 drop" in outcome.out
    assert "budget missed: int8" in outcome.err
    plan = json.loads((tmp_path / "digits.plan.json").read_text())
    assert (plan["verdict"], plan["float_tensors"]) == ("missed", {})
    again = quantkit("tune", digits, "--data", CALIB, *VALIDATE, *FEW, "--json")
    assert json.loads(again.out)["point"] == plan["point"]
    assert "from an earlier run" in again.err


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--val", "nowhere"], 1, "nowhere"),
        (["--val", VAL, "--task", "none"], 1, "--task none has no score"),
        (["--val", VAL, "--max-drop", "lots"], 2, "lots"),
        (["--val", VAL, "--num-val-samples", "0"], 2, "--num-val-samples 0"),
    ],
)
@pytest.mark.usefixtures("calibrated")
def test_wrong_options_are_one_line(quantkit, digits, tmp_path, words, code, named):
    outcome = quantkit("tune", digits, "--data", CALIB, *FEW, *words)
    assert (outcome.code, named in outcome.err, "Traceback" in outcome.err) == (code, True, False)
    assert not (tmp_path / "digits.plan.json").exists()


@pytest.mark.usefixtures("calibrated")
def test_tensors_in_float_are_counted_with_those_of_the_table(quantkit, digits, tmp_path):
    table = load_table(tmp_path / "digits.calib.json")
    ruined, kept = "relu", "image"
    tensors = {**table.tensors, ruined: TensorRange(900.0, -900.0, 900.0)}
    save_table(replace(table, float_tensors={kept: "why"}, tensors=tensors), tmp_path / "t.json")
    words = ("--table", tmp_path / "t.json", "--max-drop", "1pt", "--num-samples", 16)
    outcome = quantkit("tune", digits, "--data", CALIB, *VALIDATE, *words)
    assert "evaluation 1: 1 tensor in float (1 by calibration): " in outcome.err
    assert "evaluation 2: 2 tensors in float (1 by calibration): " in outcome.err
    assert "in float in every choice: 1 tensor by calibration" in outcome.out
    assert [point.num_float for point in load_plan(tmp_path / "digits.plan.json").front][:2] == [1, 2]
    ready = f"next: quantkit quantize {digits} --plan {tmp_path / 'digits.plan.json'} --table {tmp_path / 't.json'}\n"
    assert outcome.err.endswith(ready)


def test_validation_data_without_labels_is_refused(quantkit, digits, tmp_path):
    images = write_images(tmp_path / "images", 8, mode="L")
    outcome = quantkit("tune", digits, "--data", CALIB, "--val", images, *FEW)
    assert outcome.code == 1
    assert "no labels" in outcome.err


@pytest.mark.parametrize("command", ["quantize", "evaluate", "build"])
@pytest.mark.usefixtures("calibrated")
def test_a_plan_that_is_none_is_one_line(quantkit, digits, tmp_path, command):
    table = tmp_path / "digits.calib.json"
    words = {"evaluate": ["--data", VAL], "build": ["--precision", "int8"]}.get(command, [])
    outcome = quantkit(command, digits, "--table", table, "--plan", table, *words)
    assert (outcome.code, "is not a quantization plan" in outcome.err) == (1, True)
