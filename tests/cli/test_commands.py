"""The commands as a user types them, on the demo model and data."""

import json
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from quantkit.caches.formats.tensorrt_cache import parse_cache
from quantkit.calibration.refinement_file import load_refinement
from quantkit.calibration.table import load_table, save_table
from quantkit.cli import evaluate as evaluate_module
from quantkit.errors import OutputError
from quantkit.refinement.quality import describe_quality
from tests.cli.conftest import CALIB, VAL, conv_model, write_images


def test_calibrate_writes_and_lists_four_files(quantkit, digits, tmp_path):
    outcome = quantkit("calibrate", "--data", CALIB, digits)
    assert outcome.code == 0, outcome.err
    names = ["digits.calib", "digits.calib.json", "digits.calib.weights", "digits.int8.onnx"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, "digits.onnx"])
    for name in names:
        assert f"wrote {tmp_path / name}" in outcome.out
    assert "data: 300 samples" in outcome.err
    assert "10 classes, 30 each" in outcome.err
    assert "pixel * 1/255" in outcome.err
    table = json.loads((tmp_path / "digits.calib.json").read_text())
    cache = parse_cache((tmp_path / "digits.calib").read_text())
    assert table["dataset"]["num_samples"] == 300
    assert set(table["tensors"]) <= set(cache.scale_bits)
    weights = load_refinement(tmp_path / "digits.calib.weights", table=table["checksum"])
    assert not weights.weights  # rounding to nearest costs this model nothing
    assert f"INT8 output             {describe_quality(table['quality'])}" in outcome.out
    model = onnx.load(tmp_path / "digits.int8.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert sum(n.op_type == "QuantizeLinear" for n in model.graph.node) >= 9


def test_output_folder_is_created(quantkit, digits, tmp_path):
    outcome = quantkit(
        "calibrate", "--method", "entropy", "--data", CALIB, digits, "--num-samples", "32", "-o", tmp_path / "a" / "b"
    )
    assert outcome.code == 0
    assert len(list((tmp_path / "a" / "b").iterdir())) == 3


def test_an_interruption_names_what_was_written(quantkit, digits, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    words = ("calibrate", "--method", "minmax", "--num-samples", "8", "--data", CALIB, digits)
    monkeypatch.setattr("quantkit.cli.calibrate.write_tensorrt_cache", interrupt)
    stopped = quantkit(*words)
    assert stopped.code == 130
    after = f"Interrupted after writing {tmp_path / 'digits.calib.json'}; other files were not modified."
    assert stopped.err.splitlines()[-1] == f"quantkit: error: {after}"
    again = quantkit(*words)
    assert again.err.splitlines()[-1] == "quantkit: error: Interrupted; existing files were not modified."


def test_a_full_disk_says_what_is_complete(quantkit, digits, tmp_path, monkeypatch):
    """The table needs its data no second time: it stays, and the next run takes it."""

    def refuse(_, path):
        raise OutputError(f"cannot write {path}: No space left on device")

    words = ("calibrate", "--method", "minmax", "--num-samples", "8", "--data", CALIB, digits)
    with monkeypatch.context() as patch:
        patch.setattr("quantkit.commands.quantize.save_model", refuse)
        stopped = quantkit(*words)
    kept = f"{tmp_path / 'digits.calib.json'}, {tmp_path / 'digits.calib'}"
    said = f"cannot write {tmp_path / 'digits.int8.onnx'}: No space left on device; kept, complete and reusable: {kept}"
    assert (stopped.code, stopped.err.splitlines()[-1]) == (1, f"quantkit: error: {said}")
    again = quantkit(*words)
    assert (again.code, "Reusing" in again.err) == (0, True)


def test_an_interrupted_evaluation_says_what_it_wrote(quantkit, calibrated, tmp_path, monkeypatch):
    evaluate, asked = evaluate_module.evaluate_variants, []

    def interrupted(*given, **options):
        report = evaluate(*given, **options)
        asked.append(True)
        return report

    monkeypatch.setattr(evaluate_module, "evaluate_variants", interrupted)
    monkeypatch.setattr(evaluate_module, "stop_on_interrupt", lambda: nullcontext(lambda: bool(asked)))
    stopped = quantkit("evaluate", "--data", VAL, calibrated, "-o", tmp_path / "out", "--latency-s", "0")
    lines = [line for line in stopped.err.splitlines() if line.startswith("quantkit: error:")]
    assert stopped.code == 130
    assert len(lines) == 1
    assert f"Interrupted after writing {tmp_path / 'out' / 'report.json'}, " in lines[0]


def test_second_run_reuses_the_table(quantkit, digits, tmp_path):
    words = ("calibrate", "--data", CALIB, digits, "--accuracy", "fast")
    quantkit(*words)
    table = tmp_path / "digits.calib.json"
    before = table.read_bytes(), table.stat().st_mtime_ns
    outcome = quantkit(*words)
    assert "Reusing" in outcome.err
    assert f"kept  {table}" in outcome.out
    assert (table.read_bytes(), table.stat().st_mtime_ns) == before
    forced = quantkit(*words, "--force")
    assert "Reusing" not in forced.err
    assert f"wrote {table}" in forced.out
    assert table.read_bytes() == before[0]
    assert table.stat().st_mtime_ns != before[1]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--method", "mse"], "method: entropy → mse"),
        (["--num-samples", "30"], "num samples: 60 → 30"),
        (["--preprocess", "tf"], "preprocessing mean: 0.0 → 1.0"),
        (["--no-all-tensors"], "observed: all → quantized"),
        (["--histogram", "tensorrt"], "histogram: exact → tensorrt"),
    ],
)
def test_any_difference_is_named_and_recalibrates(quantkit, digits, words, named):
    calibration = ("calibrate", "--method", "entropy", "--data", CALIB, digits, "--num-samples", "60")
    quantkit(*calibration)
    outcome = quantkit(*calibration, *words)
    assert outcome.code == 0
    assert "Recalibrating: " in outcome.err
    assert named in outcome.err


def test_additional_image_recalibrates(quantkit, tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    folder = write_images(tmp_path / "imgs", 10)
    quantkit("calibrate", "--data", folder, model)
    Image.new("RGB", (8, 8)).save(folder / "003.png")
    outcome = quantkit("calibrate", "--data", folder, model)
    assert "dataset fingerprint" in outcome.err


def test_table_is_independent_of_order_batch_size_and_workers(quantkit, model, tmp_path):
    data, tables = write_images(tmp_path / "data", 40), []
    for words in ([], ["--order", "given"], ["--batch-size", "7", "--workers", "3"], ["--seed", "5"]):
        folder = tmp_path / str(len(tables))
        quantkit("calibrate", "--method", "entropy", "--data", data, model, "-o", folder, *words)
        tables.append(json.loads((folder / "net.calib.json").read_text())["tensors"])
    for table in tables[1:]:
        # The runtime adds up in another order for another batch size: the last bits of an activation may differ.
        assert table.keys() == tables[0].keys()
        for name, values in table.items():
            assert values["amax"] == pytest.approx(tables[0][name]["amax"], rel=1e-3)
    assert tables[1] == tables[0]


@pytest.mark.usefixtures("calibrated")
def test_quantize_from_table_equals_calibrate(quantkit, digits, tmp_path):
    again = tmp_path / "again.onnx"
    outcome = quantkit("quantize", digits, "--table", tmp_path / "digits.calib.json", "-o", again)
    assert outcome.code == 0
    assert again.read_bytes() == (tmp_path / "digits.int8.onnx").read_bytes()
    assert "stay in float" in outcome.out
    listed = quantkit("quantize", digits, "--table", tmp_path / "digits.calib.json", "-o", again, "--list-float")
    assert "logits: model output: stays in float" in listed.out


def test_quantize_finds_the_table_of_the_model(quantkit, calibrated, tmp_path):
    """Beside the model or the output, by its name; not one of another model, and none where two differ."""
    for words in ((), ("-o", tmp_path / "out"), ("--dry-run",)):
        outcome = quantkit("quantize", calibrated, *words)
        assert (outcome.code, f"calibration: {calibrated.with_name('digits.calib.json')}" in outcome.err) == (0, True)
    moved = tmp_path / "moved.onnx"
    calibrated.rename(moved)
    missing = quantkit("quantize", moved)
    assert missing.code == 1
    assert f"moved.calib.json: run `quantkit calibrate {moved} --data DATA` first, or pass --table" in missing.err
    table = tmp_path / "digits.calib.json"
    beside = table.rename(tmp_path / "out" / "moved.calib.json")
    assert f"calibration: {beside}" in quantkit("quantize", moved, "-o", beside.parent).err
    changed = load_table(beside)
    save_table(replace(changed, num_samples=changed.num_samples + 1), tmp_path / "moved.calib.json")
    both = quantkit("quantize", moved, "-o", beside.parent)
    assert (both.code, "moved.calib.json differ: pass one of them with --table" in both.err) == (1, True)


@pytest.mark.usefixtures("calibrated")
def test_a_table_beside_another_model_is_not_taken(quantkit, tmp_path):
    other = conv_model(tmp_path / "other.onnx", shape=("n", 1, 8, 8))
    table = (tmp_path / "digits.calib.json").rename(tmp_path / "other.calib.json")
    outcome = quantkit("quantize", other)
    assert (outcome.code, f"calibration: {table}\n" in outcome.err) == (4, True)
    assert "the calibration table of 'digits.onnx' was made from different inputs" in outcome.err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / table.name).write_bytes(table.read_bytes())
    both = quantkit("quantize", other, "-o", tmp_path / "out")
    assert (both.code, f"error: {table}: the calibration table of 'digits.onnx'" in both.err) == (4, True)


@pytest.mark.usefixtures("calibrated")
def test_advice_on_weights_can_be_pasted(quantkit, digits, tmp_path):
    table = (tmp_path / "digits.calib.json").rename(tmp_path / "t.json")
    ready = f"`quantkit quantize {digits} --table {table} --format fp8 --data DATA` rounds them"
    assert ready in quantkit("quantize", digits, "--table", table, "--format", "fp8").err
    table.rename(tmp_path / "digits.calib.json")
    found = quantkit("quantize", digits, "--format", "fp8").err
    assert f"`quantkit quantize {digits} --format fp8 --data DATA`" in found


@pytest.mark.usefixtures("calibrated")
def test_exclude_accepts_type_name_and_pattern(quantkit, digits, tmp_path):
    table = tmp_path / "digits.calib.json"
    names = [n.name for n in onnx.load(digits).graph.node if n.op_type == "Conv"]
    for word, spared in (("Gemm", 1), (names[0], 1), ("*", len(names) + 1)):
        outcome = quantkit("quantize", digits, "--table", table, "--exclude", word, "-o", tmp_path / "x.onnx")
        if spared == len(names) + 1:
            assert outcome.code == 1
            assert "no node to quantize" in outcome.err
            continue
        assert f"operators in INT8       {len(names) + 1 - spared} of {len(names) + 1}" in outcome.out
        assert "Excluded from quantization: " in outcome.err


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_evaluate_reports_every_variant(quantkit, digits, tmp_path, target):
    count = 60
    quantkit("calibrate", "--method", "entropy", "--data", CALIB, digits, "--target", target)
    suffix = {"tensorrt": "int8", "cpu": "int8-cpu"}[target]
    assert (tmp_path / f"digits.{suffix}.onnx").is_file()
    outcome = quantkit("evaluate", "--data", VAL, digits, "--latency-s", "0.05", "--num-samples", count)
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "digits.report"
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json", "report.md"]
    report = json.loads((folder / "report.json").read_text())
    by_name = {e["name"]: e for e in report["evaluations"]}
    assert list(by_name) == ["fp32", "fp16", "int8", "int8-cpu"]
    for evaluation in by_name.values():
        assert evaluation["metrics"]["top1"] > 0.97
        assert evaluation["num_samples"] == count
        assert evaluation["latency"]["median_ms"] > 0
    assert by_name["int8"]["size_bytes"] < by_name["fp32"]["size_bytes"] / 3
    assert "fp16" in outcome.out
    assert "every result rounded to FP16" in outcome.out


def test_evaluate_top1_equals_onnxruntime_by_hand(quantkit, digits, tmp_path):
    outcome = quantkit("evaluate", "--data", VAL, digits, "--variants", "fp32", "--latency-s", "0")
    assert outcome.code == 0
    report = json.loads((tmp_path / "digits.report" / "report.json").read_text())
    session = ort.InferenceSession(digits)
    right = total = 0
    for path in sorted(VAL.rglob("*.png")):
        pixels = np.asarray(Image.open(path), np.float32)[None, None] / np.float32(255)
        right += int(session.run(None, {session.get_inputs()[0].name: pixels})[0].argmax()) == int(path.parent.name)
        total += 1
    assert report["evaluations"][0]["metrics"]["top1"] == pytest.approx(right / total, abs=1e-12)


def test_evaluate_accepts_variants(quantkit, digits, tmp_path):
    quantkit("calibrate", "--data", CALIB, digits, "--num-samples", "32", "--method", "minmax")
    outcome = quantkit(
        "evaluate", "--data", VAL, digits, "--variants", "fp32", "--latency-s", "0", "--num-samples", "50",
        "--variant", f"mine={tmp_path / 'digits.int8.onnx'}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    report = json.loads((tmp_path / "digits.report" / "report.json").read_text())
    assert [(e["name"], e["precision"]) for e in report["evaluations"]] == [("fp32", "fp32"), ("mine", "int8")]
    assert report["evaluations"][0]["num_samples"] == 50


def test_evaluate_without_table_names_the_remedy(quantkit, digits):
    outcome = quantkit("evaluate", "--data", VAL, digits, "--latency-s", "0", "--num-samples", 20)
    assert outcome.code == 0
    assert f"run `quantkit calibrate {digits} --data DATA`, or pass --table or --calibrate-data." in outcome.err
    assert "int8" not in outcome.out


def test_high_precision_fp16_converts_the_rest(quantkit, digits, tmp_path):
    words = ("--method", "entropy", "--num-samples", "32", "--high-precision", "fp16")
    assert quantkit("calibrate", "--data", CALIB, digits, *words).code == 0
    model = onnx.load(tmp_path / "digits.int8.onnx")
    assert next(o.version for o in model.opset_import if o.domain == "") >= 19
    scales = {n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    types = {t.data_type for t in model.graph.initializer if t.name in scales}
    assert types == {onnx.TensorProto.FLOAT16}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_images_of_any_color_mode_are_read(quantkit, tmp_path, mode):
    model = conv_model(tmp_path / "net.onnx")
    folder = tmp_path / "imgs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        image = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
        image = image.convert("L") if mode == "LA" else image
        image.convert(mode).save(folder / (f"{i}.tiff" if mode == "CMYK" else f"{i}.png"))
    assert quantkit("calibrate", "--data", folder, model).code == 0


@pytest.mark.parametrize("layout_shape", [(4, 3, 8, 8), (1, 3, 8, 8)])
def test_fixed_batch_size_pads_the_last_batch(quantkit, tmp_path, layout_shape):
    fixed = conv_model(tmp_path / "fixed.onnx", shape=layout_shape)
    free = conv_model(tmp_path / "free.onnx")
    folder = write_images(tmp_path / "imgs", 10)
    for model in (fixed, free):
        assert quantkit("calibrate", "--data", folder, model, "--accuracy", "fast").code == 0
    a, b = (json.loads((tmp_path / f"{n}.calib.json").read_text())["tensors"] for n in ("fixed", "free"))
    assert a.keys() == b.keys()
    for name in a:
        assert a[name]["amax"] == pytest.approx(b[name]["amax"], rel=1e-3)
    outcome = quantkit("evaluate", "--data", folder, fixed, "--latency-s", "0")
    assert outcome.code == 0, outcome.err


def test_options_accept_underscores_and_version_is_printed(quantkit, digits):
    assert quantkit("calibrate", "--method", "entropy", "--data", CALIB, digits, "--num_samples", "20").code == 0
    assert quantkit("--version").out.startswith("quantkit ")


def test_quiet_prints_only_results(quantkit, digits):
    assert quantkit("calibrate", "--method", "entropy", "--data", CALIB, digits, "-q").err == ""


def test_model_quantizable_for_one_target_only(quantkit, tmp_path):
    """ONNX Runtime has no integer kernel for ConvTranspose; TensorRT's placement takes it."""
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((3, 4, 2, 2)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up", strides=[2, 2])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 16, 16])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    folder = write_images(tmp_path / "imgs", 8)
    outcome = quantkit("calibrate", "--data", folder, tmp_path / "net.onnx")
    assert outcome.code == 0, outcome.err
    outcome = quantkit("evaluate", "--data", folder, tmp_path / "net.onnx", "--latency-s", "0")
    assert outcome.code == 0, outcome.err
    assert "int8-cpu is left out" in outcome.out
    refused = quantkit("calibrate", "--data", folder, tmp_path / "net.onnx", "--target", "cpu")
    assert refused.code == 1


def test_strict_does_not_reuse_a_table_with_skipped_images(quantkit, tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    folder = write_images(tmp_path / "imgs", 10)
    (folder / "bad.png").write_bytes(b"no image")
    assert quantkit("calibrate", "--data", folder, model).code == 0
    again = quantkit("calibrate", "--data", folder, model)
    assert "leaves out 1 of 11 samples" in again.err
    assert quantkit("calibrate", "--data", folder, model, "--strict").code == 1


@pytest.mark.usefixtures("calibrated")
def test_evaluate_warns_about_calibration_images(quantkit, digits):
    outcome = quantkit("evaluate", "--data", CALIB, digits, "--latency-s", "0", "--variants", "fp32,int8")
    assert "these are the images that calibration saw" in outcome.out


def test_limits_without_a_table_end_before_anything_runs(quantkit, digits, tmp_path):
    outcome = quantkit("evaluate", "--data", VAL, digits, "--max-drop", "1pt")
    assert outcome.code == 1
    assert outcome.err.startswith("quantkit: error: ")
    assert "digits.calib.json is missing: INT8 needs a calibration table" in outcome.err
    assert "--calibrate-data" in outcome.err
    named = quantkit("evaluate", "--data", VAL, digits, "--variants", "int8")
    assert named.err.startswith("quantkit: error: INT8 needs a calibration table")
    assert not (tmp_path / "digits.report").exists()


def test_what_models_run_on_and_with_holds_for_the_calibration_too(digits, monkeypatch):
    calibrate = Mock(side_effect=StopIteration)
    monkeypatch.setattr(evaluate_module, "calibrate_model", calibrate)
    given = {"device": "cuda:1", "ort_extension": ("ops.so",), "plugins": ("plugins.so",)}
    with pytest.raises(StopIteration):
        evaluate_module._calibrate(digits, VAL, evaluate_module.CommandOptions(**given), Mock())
    assert {name: getattr(calibrate.call_args.args[2], name) for name in given} == given


def test_calibrate_data_makes_the_table_and_keeps_it(quantkit, digits, tmp_path):
    words = ("evaluate", "--data", VAL, "--num-samples", "20", digits, "--latency-s", "0", "--layer-samples", "0")
    words += ("--variants", "int8-cpu")
    few = write_images(tmp_path / "few", 4, mode="L")
    first = quantkit(*words, "--calibrate-data", few)
    assert first.code == 0, first.err
    assert (tmp_path / "digits.calib.json").exists()
    assert "int8-cpu" in first.out
    made = (tmp_path / "digits.calib.json").stat().st_mtime_ns
    assert quantkit(*words, "--calibrate-data", few).code == 0
    assert (tmp_path / "digits.calib.json").stat().st_mtime_ns == made
