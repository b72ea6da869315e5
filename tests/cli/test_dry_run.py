"""`--dry-run`: says what would be read, run and written, with an estimate, and writes nothing."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest

from quantkit.calibration.table import load_table, save_table
from quantkit.commands import evaluation_data
from quantkit.pass_cost import PassCost
from tests.cli.conftest import CALIB, VAL

LINES = {
    "calibrate": f"--data {CALIB}",
    "quantize": "--table digits.calib.json",
    "build": "--precision int8 --table digits.calib.json",
    "evaluate": f"--data {VAL} --table digits.calib.json --latency-s 2 --batch-sizes 1,8 --variants int8",
    "sensitivity": f"--data {CALIB} -o pages",
    "tune": f"--data {CALIB} --val {VAL}",
}
WRITES = {
    "calibrate": ["digits.calib.json", "digits.calib.weights", "digits.calib", "digits.int8.onnx"],
    "quantize": ["digits.int8.onnx"],
    "build": ["digits.int8.engine", "digits.int8.engine.json"],
    "evaluate": ["digits.report/report.json", "digits.report/report.md", "digits.report/report.html"],
    "sensitivity": ["pages/sensitivity.html", "pages/sensitivity.json"],
    "tune": ["digits.plan.json", "digits.plan.runs/*.json"],
}


@pytest.fixture
def calibrated(quantkit, digits, monkeypatch):
    monkeypatch.chdir(digits.parent)
    words = ("--data", CALIB, "--num-samples", "4", "--accuracy", "fast", "-q")
    assert quantkit("calibrate", "digits.onnx", *words).code == 0


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def rtx_where(request):
    """Builds are checked with the library that builds."""
    if request.node.callspec.params["name"] == "build":
        pytest.importorskip("tensorrt_rtx")


@pytest.mark.usefixtures("calibrated", "rtx_where")
@pytest.mark.parametrize("name", LINES)
def test_nothing_is_written_and_what_would_be_is_said(quantkit, tmp_path, name):
    before = snapshot(tmp_path)
    words = (name, "digits.onnx", *shlex.split(LINES[name]), "--dry-run")
    found = json.loads(quantkit(*words, "--json").out)
    outcome = quantkit(*words)
    assert outcome.code == 0, outcome.err
    assert snapshot(tmp_path) == before
    assert list(found["writes"]) == WRITES[name]
    for path, state in found["writes"].items():
        assert state == ("replaces the one that is there" if (tmp_path / path).exists() else "new")
        assert f"{path} ({state})" in outcome.out
    assert "digits.onnx: 1.23 MB" in found["reads"][0]
    assert found["runs"]
    assert found["grounds"]
    assert outcome.out.rstrip().endswith("dry run: nothing was written")


def test_engines_are_named_as_they_would_be(quantkit, digits):
    pytest.importorskip("tensorrt_rtx")
    model = digits.rename(digits.with_name("digits.fp16.onnx"))
    for output in (digits.parent, digits.parent / "engines"):
        words = () if output == digits.parent else ("-o", output)
        told = json.loads(quantkit("build", model, "--precision", "fp16", *words, "--dry-run", "--json").out)
        assert next(iter(told["writes"])) == str(output / "digits.fp16.engine")


@pytest.mark.usefixtures("calibrated")
def test_timing_is_counted_exactly(quantkit):
    words = ("evaluate", "digits.onnx", *shlex.split(LINES["evaluate"]), "--dry-run", "--json")
    low, high = json.loads(quantkit(*words).out)["seconds"]
    assert 2 * 2 * 2.0 < low < high  # variants x batch sizes x seconds, and the rest


@pytest.mark.usefixtures("calibrated")
def test_mistakes_are_said_as_in_a_run(quantkit):
    assert quantkit("calibrate", "digits.onnx", "--data", "nowhere", "--dry-run").code == 1
    assert quantkit("evaluate", "digits.onnx", "--data", VAL, "--variants", "int9", "--dry-run").code == 1


@pytest.mark.usefixtures("calibrated")
def test_a_method_is_checked(quantkit):
    outcome = quantkit(*f"calibrate digits.onnx --data {CALIB} --method percentile --percentile 200 --dry-run".split())
    assert (outcome.code, outcome.err.count("--percentile 200")) == (1, 1)


@pytest.mark.usefixtures("calibrated")
def test_what_quantize_would_refuse_is_refused(quantkit):
    words = ("quantize", "digits.onnx", "--table", "digits.calib.json", "--dry-run")
    for wrong, said in (
        ("--format fp8 --data nowhere", "nowhere does not exist"),
        ("--format int4", "no MatMul or Gemm whose weight can be INT4"),
        ("--exclude nonode", "'nonode' matches no node"),
        ("--plan nope.json", "nope.json"),
    ):
        outcome = quantkit(*words, *wrong.split())
        assert outcome.code == 1
        assert said in outcome.err


@pytest.mark.usefixtures("calibrated")
def test_what_weights_are_rounded_on_is_read_and_kept(quantkit):
    words = ("--table", "digits.calib.json", "--format", "fp8", "--data", VAL, "--dry-run", "--json")
    found = json.loads(quantkit("quantize", "digits.onnx", *words).out)
    assert str(VAL) in found["reads"][2]
    assert "fp8 are rounded" in found["runs"][0]
    assert list(found["writes"]) == ["digits.fp8.onnx", "digits.calib.fp8.weights"]


@pytest.mark.usefixtures("calibrated")
def test_what_build_would_refuse_is_refused(quantkit):
    pytest.importorskip("tensorrt_rtx")
    for wrong, said in (
        ("--precision int8 --table nope.json", "nope.json"),
        ("--precision int4", "no MatMul or Gemm whose weight can be INT4"),
        ("--precision fp8 --target sm86", "sm86 does not compute in fp8"),
        ("--precision int8 --target sm12", "--target sm12"),
        ("--precision int8 --max-builds 3", "--precision best"),
    ):
        outcome = quantkit("build", "digits.onnx", *wrong.split(), "--dry-run")
        assert outcome.code == 1
        assert said in outcome.err


@pytest.mark.usefixtures("calibrated")
def test_what_tune_reads_and_keeps_is_said(quantkit, tmp_path):
    words = ("tune", "digits.onnx", "--data", CALIB, "--val", VAL, "--dry-run", "--json")
    assert "table: digits.calib.json" in json.loads(quantkit(*words).out)["reads"]
    (tmp_path / "digits.calib.json").unlink()
    found = json.loads(quantkit(*words).out)
    kept = ["digits.calib.json", "digits.calib.weights", "digits.plan.runs/*.json"]
    assert list(found["writes"]) == ["digits.plan.json", *kept]
    assert found["runs"][0] == "a calibration with --accuracy balanced"


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize(
    "words", [f"sensitivity digits.onnx --data {CALIB}", f"tune digits.onnx --data {CALIB} --val {VAL}"]
)
def test_a_table_that_is_missing_is_refused(quantkit, words):
    outcome = quantkit(*words.split(), "--table", "nope.json", "--dry-run")
    assert outcome.code == 1
    assert "nope.json" in outcome.err


@pytest.mark.usefixtures("calibrated")
def test_a_calibration_for_an_evaluation_is_said(quantkit):
    words = ("evaluate", "digits.onnx", "--data", VAL, "--calibrate-data", CALIB, "--table", "x.calib.json")
    found = json.loads(quantkit(*words, "--dry-run", "--json").out)
    assert found["runs"][0] == "a calibration with --accuracy balanced, unless x.calib.json is up to date"
    assert "int8" in found["runs"][1]
    assert list(found["writes"])[:2] == ["x.calib.json", "x.calib.weights"]
    assert any(line.startswith(f"calibration: {CALIB}") for line in found["reads"])
    outcome = quantkit(*words, "--variants", "fp32,int4", "--dry-run")
    assert (outcome.code, "can be INT4" in outcome.err) == (1, True)


def test_the_estimate_grows_with_samples_tensors_and_effort():
    cost = PassCost(run_s=0.002, decode_s=0.001, activation_bytes=10_000_000, num_tensors=20, model_bytes=5_000_000)
    fast, more = cost.calibration_s(100, "fast"), cost.calibration_s(200, "fast")
    assert more - fast == pytest.approx(100 * (0.001 + 3 * 0.002))
    extra = cost.calibration_s(100, "balanced") - fast
    assert extra == pytest.approx(20 * 0.002 * (280 + 0.7 * 100))
    assert cost.calibration_s(4096, "best") > cost.calibration_s(4096, "balanced")
    assert cost.memory(8) - cost.memory(4) == 4 * 10_000_000
    assert cost.memory(100_000) < cost.memory(100_000, "balanced") < 3 << 30  # bounded by the budgets


@pytest.mark.usefixtures("calibrated")
def test_fp8_lists_no_cache_and_warns_of_damaged_weights(quantkit, tmp_path):
    words = (
        "calibrate",
        "digits.onnx",
        "--data",
        CALIB,
        "--format",
        "fp8",
        "--accuracy",
        "fast",
        "--dry-run",
        "--json",
    )
    written = ["digits.calib.json", "digits.calib.fp8.weights", "digits.fp8.onnx"]
    assert list(json.loads(quantkit(*words).out)["writes"]) == written
    nearest = json.loads(quantkit(*words, "--rounding", "nearest").out)["writes"]
    assert list(nearest) == [written[0], written[2]]
    (tmp_path / "digits.calib.fp8.weights").write_bytes(b"quantkit weights 1\n")
    outcome = quantkit("quantize", "digits.onnx", "--table", "digits.calib.json", "--format", "fp8", "--dry-run")
    assert "digits.calib.fp8.weights is damaged: weights will be rounded to nearest" in outcome.out + outcome.err


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_missing_labels_are_said_before_anything_is_calibrated(quantkit, tmp_path, dry):
    np.save(tmp_path / "unlabeled.npy", np.zeros((4, 1, 8, 8), np.float32))
    (tmp_path / "digits.calib.json").unlink()
    words = ("digits.onnx", "--task", "classify", *dry)
    outcome = quantkit("evaluate", *words, "--data", "unlabeled.npy", "--calibrate-data", CALIB, "--max-drop", "1%")
    assert (outcome.code, "--max-drop: unlabeled.npy has no labels" in outcome.err) == (1, True)
    outcome = quantkit("tune", *words, "--data", CALIB, "--val", "unlabeled.npy")
    assert (outcome.code, "--val: unlabeled.npy has no labels" in outcome.err) == (1, True)
    assert not (tmp_path / "digits.calib.json").exists()


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--plan", "nope.json"), "nope.json"),
        (("--variant", "x=nope.onnx"), "nope.onnx: no such model file"),
        (("--engine", "e=nope.engine"), "--engine e: cannot read nope.engine: no such file"),
        (("--device", "cuda:99"), "cuda"),
        (("--task", "image"), "no output is an image"),
    ],
)
def test_what_an_evaluation_lacks_is_said_before_anything_is_calibrated(quantkit, tmp_path, words, said, dry):
    (tmp_path / "digits.calib.json").unlink()
    outcome = quantkit("evaluate", "digits.onnx", "--data", VAL, "--calibrate-data", CALIB, *words, *dry)
    assert (outcome.code, said in outcome.err.lower()) == (1, True)
    assert not (tmp_path / "digits.calib.json").exists()


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_outputs_that_the_task_cannot_judge_are_said_before_tune_calibrates(quantkit, tmp_path, dry):
    (tmp_path / "digits.calib.json").unlink()
    outcome = quantkit("tune", "digits.onnx", "--data", CALIB, "--val", VAL, "--task", "image", *dry)
    assert (outcome.code, "no output is an image" in outcome.err) == (1, True)
    assert not (tmp_path / "digits.calib.json").exists()


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize(
    "words", [f"evaluate --data {VAL} --calibrate-data {CALIB} --latency-s 0", f"tune --data {CALIB} --val {VAL}"]
)
def test_samples_to_evaluate_on_are_opened_once(quantkit, tmp_path, monkeypatch, words):
    opened = []

    def open_samples(model, data, *arguments, original=evaluation_data.open_samples, **options):
        opened.append(str(data))
        return original(model, data, *arguments, **options)

    monkeypatch.setattr(evaluation_data, "open_samples", open_samples)
    (tmp_path / "digits.calib.json").unlink()
    outcome = quantkit(*words.split(), "digits.onnx", "-q")
    assert outcome.code == 0, outcome.err
    assert opened == [str(VAL)]


@pytest.mark.usefixtures("calibrated")
def test_an_evaluation_calibrates_no_quantized_model(quantkit):
    words = ("--data", VAL, "--calibrate-data", CALIB, "--dry-run")
    outcome = quantkit("evaluate", "digits.int8.onnx", *words)
    assert (outcome.code, "already quantized" in outcome.err) == (1, True)


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize("name", [name for name in LINES if name != "build"])
def test_a_place_that_cannot_be_written_is_refused(quantkit, tmp_path, name):
    (tmp_path / "taken.json").write_text("{}")
    words = LINES[name].replace(" -o pages", "")
    outcome = quantkit(name, "digits.onnx", *shlex.split(words), "-o", "taken.json/x", "--dry-run")
    assert (outcome.code, outcome.out) == (1, "")
    assert "cannot write to taken.json" in outcome.err


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize("name", [name for name in LINES if name != "build"])
def test_libraries_of_operators_are_loaded(quantkit, name):
    words = (*shlex.split(LINES[name]), "--ort-extension", "gone.so", "--dry-run")
    outcome = quantkit(name, "digits.onnx", *words)
    assert (outcome.code, outcome.out) == (1, "")
    assert "--ort-extension gone.so: no such file" in outcome.err


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_calibrate_refuses_to_replace_its_model_before_it_runs(quantkit, tmp_path, dry):
    before = snapshot(tmp_path)
    outcome = quantkit("calibrate", "digits.onnx", "--data", "nowhere", "-o", "digits.onnx", *dry)
    assert (outcome.code, "Refusing to overwrite the input file digits.onnx" in outcome.err) == (1, True)
    assert snapshot(tmp_path) == before


@pytest.mark.usefixtures("calibrated")
def test_a_fast_calibration_is_told_as_it_runs(quantkit, tmp_path):
    words = f"calibrate digits.onnx --data {CALIB} --accuracy fast --dry-run --json".split()
    found = json.loads(quantkit(*words).out)
    assert "digits.calib.weights" not in found["writes"]
    ranges = json.loads((tmp_path / "digits.calib.json").read_text())["tensors"]
    assert f"of which {len(ranges)} tensors get a range" in found["runs"][0]


@pytest.mark.usefixtures("calibrated")
def test_kept_weights_that_are_damaged_are_said(quantkit, tmp_path):
    table = load_table(tmp_path / "digits.calib.json")
    save_table(replace(table, settings={**table.settings, "rounding": "feedback"}), tmp_path / "digits.calib.json")
    (tmp_path / "digits.calib.weights").write_bytes(b"torn")
    outcome = quantkit("quantize", "digits.onnx", "--table", "digits.calib.json", "--dry-run", "--json")
    assert (outcome.code, "digits.calib.weights" in outcome.out) == (0, False)
    assert "digits.calib.weights is damaged: weights are rounded to nearest" in outcome.err
