"""The report of an evaluation as a whole: what it holds, batch sizes, interruption, commands that repeat it."""

from __future__ import annotations

import os
import shlex
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import quantkit
from quantkit.calibration.table import save_table, table_checksum
from quantkit.cli.interruption import stop_on_interrupt
from quantkit.commands import variants
from quantkit.commands.evaluate import evaluate
from quantkit.commands.evaluation_report import find_ranking
from quantkit.commands.reproduction import calibrate_command
from quantkit.errors import BackendError, EvaluationError, ModelError
from quantkit.evaluation.accurate_session import open_accurate
from quantkit.evaluation.limits import Limits, parse_drop
from quantkit.evaluation.tasks.task import TaskOptions
from quantkit.graph.float_model import FloatModel
from quantkit.graph.passes.fp16 import to_fp16
from quantkit.notices import Notice
from quantkit.reporting import load_report, write_report
from quantkit.reporting.sensitivity_page import write_sensitivity
from quantkit.types import TOP1, RankedUnit, SensitivityRanking
from quantkit.types.sensitivity import Sensitivity, UnitSensitivity

from ..cli.conftest import conv_model, write_images
from ..graph.builder import Builder

REPOSITORY = Path(__file__).parents[2]
DIGITS = REPOSITORY / "examples" / "digits.onnx"
CALIB = REPOSITORY / "calib_data" / "digits" / "calib"
VAL = REPOSITORY / "calib_data" / "digits" / "val"


@pytest.fixture(scope="module")
def table():
    return quantkit.calibrate(DIGITS, CALIB, num_samples=64, method="percentile", progress=False)


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """An INT8 model whose ranges are far too small: it makes mistakes to be seen."""
    table = quantkit.calibrate(DIGITS, CALIB, num_samples=64, method="entropy", progress=False)
    clipped = replace(table, tensors={n: replace(r, amax=r.amax / 3) for n, r in table.tensors.items()})
    path = tmp_path_factory.mktemp("coarse") / "coarse.onnx"
    quantkit.quantize(DIGITS, clipped, path)
    return path


def run(**options):
    quick = {"progress": False, "latency_s": 0, "layer_samples": 0, "num_samples": 60}
    return evaluate(DIGITS, VAL, **{**quick, **options})


def test_classes_add_up_to_the_whole(table):
    report = run(table=table)
    assert (report.task, report.score, report.is_partial) == ("classify", TOP1, False)
    assert [c.label for c in report.classes] == [f"class {digit}" for digit in range(10)]
    assert sum(c.count for c in report.classes) == report.baseline.num_samples
    for evaluation in report.evaluations:
        right = sum(c.count * c.scores[evaluation.name] for c in report.classes)
        assert right / report.baseline.num_samples == pytest.approx(evaluation.metrics["top1"])


def test_the_report_says_what_calibration_chose(table, tmp_path):
    names = list(table.tensors)
    chosen = {n: replace(r, method="mse") for n, r in table.tensors.items()}
    chosen[names[1]] = replace(chosen[names[1]], method="tensorrt")
    table = replace(table, tensors=chosen, float_tensors={names[0]: "more accurate in float"})
    path = save_table(table, tmp_path / "digits.calib.json")
    unit = UnitSensitivity(names[1], "tensor", (names[1],), (), 0.2, 0.1, 16, 0.5, 30.0, 0.0, 200)
    found = Sensitivity("digits.onnx", table.model_hash, table_checksum(table), "relative error", 0.3, 16, (unit,))
    write_sensitivity(found, tmp_path / "sensitivity.json")
    report = run(table=path, variants=["int8"], num_samples=20)
    assert report.range_methods == {"tensorrt": 1, "mse": len(names) - 2}
    assert report.float_tensors == {names[0]: "more accurate in float"}
    ranked = (RankedUnit(names[1], "tensor", 0.2, 0.1),)
    assert report.sensitivity == SensitivityRanking("relative error", 0.3, ranked)


@pytest.mark.parametrize("content", ["[]", None])
def test_a_ranking_of_another_table_is_not_shown(table, tmp_path, content):
    """Nor is a file of that name that holds something else."""
    path = save_table(table, tmp_path / "digits.calib.json")
    found = Sensitivity("digits.onnx", table.model_hash, "another", "relative error", 0.3, 16, ())
    write_sensitivity(found, tmp_path / "sensitivity.json")
    if content is not None:
        (tmp_path / "sensitivity.json").write_text(content)
    told: list[Notice] = []
    assert find_ranking(path, told.append) is None
    assert "sensitivity.json" in told[0].text


@pytest.mark.parametrize("with_table", [True, False])
def test_fp16_does_not_overflow_and_names_what_stays_in_fp32(tmp_path, with_table):
    """By the table, or by a few of the samples."""
    g = Builder()
    large = g.op("Mul", g.linear(g.input("x", 16), 16, 16), g.constant(1e5), name="large")
    onnx.save(g.model(g.op("Mul", large, g.constant(1e-5))), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32))
    table = None
    if with_table:
        table = quantkit.calibrate(tmp_path / "net.onnx", tmp_path / "x.npy", method="minmax", progress=False)
    words = {"task": "none", "latency_s": 0, "layer_samples": 0, "progress": False, "variants": ["fp16"]}
    report = evaluate(tmp_path / "net.onnx", tmp_path / "x.npy", table=table, **words)
    half = report.evaluations[1]
    assert half.metrics["sqnr_db"] > 50
    assert any("large (" in note for note in half.notes)


def test_changes_are_the_disagreements_and_carry_pictures(coarse):
    report = run(models={"coarse": coarse}, num_samples=300)
    metrics = {e.name: e.metrics for e in report.evaluations}["coarse"]
    counts = report.num_changes["coarse"]
    assert counts["broken"] == metrics["broken"] > 0
    assert counts.get("fixed", 0) == metrics["fixed"]
    assert sum(counts.values()) == round((1 - metrics["agreement"]) * report.baseline.num_samples)
    broken = [c for c in report.changes if c.kind == "broken"]
    assert all(c.before.startswith(c.truth) for c in broken)
    assert all(c.sample.startswith(f"{c.truth.removeprefix('class ')}/") for c in broken)
    assert all(c.thumbnail.startswith("data:image/png;base64,") for c in report.changes)
    assert [c.severity for c in broken] == sorted((c.severity for c in broken), reverse=True)


def test_every_batch_size_is_timed_for_every_variant(tmp_path):
    model, images = conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "images", 6)
    table = quantkit.calibrate(model, images, accuracy="fast", progress=False)
    quick = {"variants": ["int8-cpu"], "latency_s": 0.02, "layer_samples": 0, "progress": False}
    report = evaluate(model, images, table=table, batch_sizes=(2, 1, 5), **quick)
    for evaluation in report.evaluations:
        assert [latency.batch_size for latency in evaluation.latencies] == [2, 1, 5]
        assert evaluation.latency.batch_size == 2
        assert report.speedup(evaluation, 5) == pytest.approx(
            report.latency_at(report.baseline, 5).median_ms / report.latency_at(evaluation, 5).median_ms
        )
    written = write_report(report, tmp_path)
    assert load_report(written["json"]) == report


def test_a_model_of_a_fixed_batch_is_timed_at_it_and_that_is_said(tmp_path):
    model = conv_model(tmp_path / "net.onnx", shape=(4, 3, 8, 8))
    images = write_images(tmp_path / "images", 6)
    report = evaluate(model, images, latency_s=0.02, batch_sizes=(1, 8), progress=False, layer_samples=0)
    assert {latency.batch_size for e in report.evaluations for latency in e.latencies} == {4}
    assert any("takes batches of 4 alone: not timed at 1, 8" in warning for warning in report.warnings)


@pytest.mark.parametrize("sizes", [(), (0,), (1, 1)])
def test_batch_sizes_that_make_no_sense_are_refused_before_anything_runs(sizes):
    with pytest.raises(EvaluationError, match="--batch-sizes"):
        run(batch_sizes=sizes)


def test_no_task_compares_outputs_alone():
    report = run(task="none")
    assert (report.task, report.score, report.classes) == ("none", None, ())
    assert "top1" not in report.baseline.metrics
    fp16 = report.evaluations[1]
    assert fp16.metrics["agreement"] == 1.0
    assert fp16.metrics["sqnr_db"] > 40
    assert report.dataset["num_classes"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "detect"}, "--task detect needs --labels"),
        ({"task": "detect", "labels": "x.json"}, "--task detect needs --detections or --decoder: .*yolov8"),
        ({"task": "segment"}, "--task segment needs --labels.*masks"),
        ({"task": "custom"}, r"--task custom needs --metric: file\.py:Class"),
        ({"labels": "x.json"}, "--labels has no meaning for --task classify.*detect or --task image or --task segment"),
        ({"task": "segment", "labels": "m", "max_detections": 3}, "--max-detections has no meaning.*--task detect"),
        ({"task": "paint"}, "--task: there is no 'paint': choose one of classify, custom, detect, .*segment"),
    ],
)
def test_options_that_do_not_fit_the_task_are_named(options, words):
    with pytest.raises(EvaluationError, match=words):
        TaskOptions(**options)


@pytest.fixture
def python_handler():
    """SIGINT as Python starts with it: a shell may have started the tests with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def strike_at(monkeypatch, number):
    """Ctrl-C while batch `number` is being read."""
    from quantkit.commands import evaluate as evaluation

    def make_batches(*arguments, original=evaluation.make_batches, **options):
        for i, batch in enumerate(original(*arguments, **options)):
            if i == number:
                signal.raise_signal(signal.SIGINT)
            yield batch

    monkeypatch.setattr(evaluation, "make_batches", make_batches)


@pytest.mark.usefixtures("python_handler")
def test_ctrl_c_leaves_a_partial_report(table, tmp_path, monkeypatch):
    strike_at(monkeypatch, 2)
    notices = []
    with stop_on_interrupt() as should_stop:
        options = {"should_stop": should_stop, "batch_size": 10, "latency_s": 5, "layer_samples": 64}
        report = run(table=table, notify=notices.append, **options)
    assert report.is_partial
    assert report.planned_samples > report.dataset["num_samples"] == 30
    assert all(e.num_samples == 30 and e.latency is None for e in report.evaluations)
    assert sum(c.count for c in report.classes) == 30
    assert report.tensors == ()
    assert any("latency was not measured" in warning for warning in report.warnings)
    assert any("layer-wise error was not analyzed" in warning for warning in report.warnings)
    assert any(notice.topic == "interrupted" and "30 of" in notice.text for notice in notices)
    assert load_report(write_report(report, tmp_path)["json"]) == report


@pytest.mark.usefixtures("python_handler")
def test_ctrl_c_is_an_exception_where_nobody_asked_for_a_report(monkeypatch):
    strike_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        run(batch_size=10)


@pytest.mark.usefixtures("python_handler")
def test_ctrl_c_while_timing_keeps_the_accuracy(monkeypatch):
    from quantkit.evaluation.latency import sweep as timing

    def time_variants(*arguments, on_progress, **options):
        signal.raise_signal(signal.SIGINT)
        on_progress(0.5)
        raise AssertionError("it goes on")

    monkeypatch.setattr(timing, "time_variants", time_variants)
    with stop_on_interrupt() as should_stop:
        report = run(should_stop=should_stop, latency_s=5, layer_samples=8)
    assert not report.is_partial
    assert any("layer-wise error was not analyzed" in warning for warning in report.warnings)
    assert report.baseline.latency is None
    assert any("timing was interrupted at batch size 1" in warning for warning in report.warnings)


@pytest.mark.usefixtures("python_handler")
def test_the_second_ctrl_c_is_one_as_always(capfd):
    with stop_on_interrupt() as should_stop:
        assert not should_stop()
        signal.raise_signal(signal.SIGINT)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "Press Ctrl-C again to abort." in capfd.readouterr().err


def test_a_handler_of_the_callers_own_stays():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_interrupt() as should_stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not should_stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_command_in_the_report_makes_the_same_table_again(table, tmp_path):
    """What the report says to type gives the ranges bit for bit."""
    from quantkit.calibration.table import load_table
    from quantkit.cli import main

    words = shlex.split(calibrate_command(table, str(DIGITS)))
    assert words[:4] == ["quantkit", "calibrate", "--data", "DATA"]
    with pytest.raises(SystemExit) as stop:
        main([*words[1:3], str(CALIB), *words[4:], "-o", str(tmp_path), "--quiet"])
    assert not stop.value.code
    again = load_table(tmp_path / "digits.calib.json")
    assert again.tensors == table.tensors
    assert (again.preprocessing, again.settings) == (table.preprocessing, table.settings)


def test_a_table_that_no_command_makes_has_none(table):
    assert calibrate_command(replace(table, dataset_fingerprint=""), "m.onnx") is None
    assert calibrate_command(replace(table, settings={"method": "unknown"}), "m.onnx") is None


def test_what_was_typed_is_in_the_report(table):
    report = run(table=table, command="quantkit evaluate --data val m.onnx")
    assert report.commands[-1] == "quantkit evaluate --data val m.onnx"
    assert report.commands[0].startswith("quantkit calibrate --data DATA")


def test_arrays_have_no_pictures(tmp_path, coarse):
    path = tmp_path / "val.npz"
    shape = (200, 1, 28, 28)
    rng = np.random.default_rng(0)
    import onnx

    dims = onnx.load(DIGITS).graph.input[0].type.tensor_type.shape.dim
    shape = (200, *(d.dim_value for d in dims[1:]))
    np.savez(path, **{onnx.load(DIGITS).graph.input[0].name: rng.random(shape, dtype=np.float32)})
    report = evaluate(DIGITS, path, models={"coarse": coarse}, latency_s=0, layer_samples=0, progress=False)
    assert report.score is None
    assert report.num_changes["coarse"]["changed"] > 0
    assert {c.thumbnail for c in report.changes} == {""}


def test_what_quantization_does_inside_is_in_the_report(table, tmp_path):
    report = run(table=table, layer_samples=16)
    assert {t.variant for t in report.tensors} == {"int8", "int8-cpu"}
    assert {layer.variant for layer in report.layers} == {"int8", "int8-cpu"}
    assert all(t.amax == pytest.approx(table.tensors[t.tensor].amax) for t in report.tensors if t.variant == "int8")
    assert all(sum(t.histogram) > 0 and len(t.histogram) <= 64 for t in report.tensors)
    assert load_report(write_report(report, tmp_path)["json"]).tensors == report.tensors


def test_an_excluded_layer_is_listed_with_its_reason(table):
    (node,) = {
        layer.node for layer in run(table=table, layer_samples=1, num_samples=2).layers if layer.op_type == "Gemm"
    }
    report = run(table=table, exclude=[node], layer_samples=1, num_samples=2)
    left = {(layer.variant, layer.node): layer.reason for layer in report.layers if not layer.is_int8}
    assert left.keys() == {("int8", node), ("int8-cpu", node)}
    assert all("excluded" in reason for reason in left.values())


def test_nothing_is_looked_into_where_nobody_asks(table):
    report = run(table=table)
    assert (report.tensors, report.layers) == ((), ())


def test_a_finished_model_of_another_table_is_said(table, coarse, tmp_path):
    same = tmp_path / "same.onnx"
    quantkit.quantize(DIGITS, table, same)
    report = run(table=table, models={"same": same, "other": coarse}, variants=[])
    notes = {e.name: e.notes for e in report.evaluations}
    assert not any("table checksum" in note for note in notes["same"])
    assert any("made from different inputs: table checksum" in note for note in notes["other"])
    alone = run(models={"other": coarse}, variants=[])
    assert any("not beside it" in note for note in alone.evaluations[1].notes)


def test_the_target_of_a_finished_model_is_that_of_its_form_whatever_its_name(coarse):
    report = run(models={"mine": coarse, "fp8": DIGITS}, variants=[], num_samples=8)
    assert [(e.name, e.target) for e in report.evaluations] == [("fp32", None), ("mine", "tensorrt"), ("fp8", None)]


def test_a_stop_within_the_layers_leaves_none_of_them_half(table, monkeypatch):
    from quantkit.commands import evaluate as evaluation

    stopped = []

    def analyze_layers(*arguments, original=evaluation.analyze_layers, **options):
        stopped.append(True)
        return original(*arguments, **options)

    monkeypatch.setattr(evaluation, "analyze_layers", analyze_layers)
    report = run(table=table, layer_samples=64, should_stop=lambda: bool(stopped))
    assert report.tensors == ()
    assert {layer.variant for layer in report.layers} == {"int8", "int8-cpu"}
    assert any("layer-wise error was not analyzed" in warning for warning in report.warnings)


def test_a_stop_after_the_last_sample_is_no_partial_report():
    report = run(batch_size=597, num_samples=None, should_stop=lambda: True)
    assert report.baseline.num_samples == 597
    assert not report.is_partial


def test_a_mistyped_exclusion_is_an_error(table):
    with pytest.raises(ModelError, match="--exclude 'nothere' matches no node"):
        run(table=table, exclude=["nothere"])


def test_a_number_of_threads_that_cannot_be_is_refused_first():
    with pytest.raises(EvaluationError, match="--threads -1"):
        run(threads=-1)


def test_a_variant_that_cannot_be_run_is_a_line_of_the_report(monkeypatch):
    def refuse(model, *, name, threads):
        if "fp16" in name:
            raise BackendError("no kernel")
        return open_accurate(model, name=name, threads=threads)

    monkeypatch.setattr(variants, "open_accurate", refuse)
    report = run(num_samples=4)
    assert [e.name for e in report.evaluations] == ["fp32"]
    assert "fp16 is left out: no kernel" in report.warnings
    with pytest.raises(BackendError, match="no kernel"):
        run(variants=["fp16"], num_samples=4)


@pytest.mark.parametrize("options", [{"max_drop": parse_drop("1pt")}, {"gates": ("mlperf-99",)}])
def test_a_score_limit_on_unlabeled_data_ends_before_anything_runs(table, tmp_path, monkeypatch, options):
    monkeypatch.setattr("quantkit.commands.evaluate.open_variants", lambda *_: pytest.fail("something ran"))
    write_images(tmp_path, 3, mode="L")
    with pytest.raises(EvaluationError, match=r"has no labels: sort the images into a folder .* --min-agreement"):
        evaluate(DIGITS, tmp_path, table=table, limits=Limits(**options), progress=False)


def test_a_model_of_fp16_is_called_what_it_is(tmp_path):
    half = tmp_path / "half.onnx"
    onnx.save(ir.to_proto(to_fp16(FloatModel(DIGITS).graph)), half)
    report = evaluate(half, VAL, num_samples=20, latency_s=0, layer_samples=0, progress=False)
    assert [(e.name, e.precision) for e in report.evaluations] == [("fp16", "fp16")]
    with pytest.raises(EvaluationError, match="there is no 'fp32' for a model of FP16"):
        evaluate(half, VAL, variants=["fp32"], progress=False)
