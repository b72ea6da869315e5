"""Models in other formats than INT8, from the same data and table."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.configuration import check_scheme
from quantkit.backends.tensorrt.build.precision import Typing
from quantkit.backends.tensorrt.library import Library
from quantkit.caches.files import CalibrationFiles
from quantkit.calibration.refinement_file import save_refinement
from quantkit.calibration.table import load_table, save_table, table_checksum
from quantkit.commands.build import build
from quantkit.commands.build_inputs import load_build_inputs
from quantkit.commands.calibrate import calibrate
from quantkit.commands.evaluate import evaluate
from quantkit.commands.expected_manifest import expected_manifest
from quantkit.commands.export import trtexec_command
from quantkit.commands.format_rounding import is_rounded
from quantkit.commands.quantize import quantize
from quantkit.commands.wanted_variants import check_variants
from quantkit.errors import BackendError, EvaluationError, ModelError
from quantkit.evaluation.limits import Limits
from quantkit.evaluation.models import choose_variants
from quantkit.graph.float_model import FloatModel
from quantkit.graph.inspection import inspect_model
from quantkit.graph.placement.weight_only import plan_weight_only
from quantkit.types import Refinement
from quantkit.types.options import EngineOptions, EvaluationOptions, QuantizeOptions, TrtexecOptions

from .. import rtx
from ..graph.builder import Builder
from ..graph.quantizing import run, sqnr_db, write


def make_network(folder: Path) -> Path:
    """A small network with convolutions, a classifier, their table and data, in which one value is far out."""
    g = Builder()
    x = g.op("Relu", g.conv(g.input("image", 32, 8, 8), 32, 32))
    x = g.op("Relu", g.op("Add", g.conv(x, 32, 32), x))
    y = g.gemm(g.op("Flatten", g.op("GlobalAveragePool", x)), 32, 64)
    model = write(g.model(g.gemm(g.op("Relu", y), 64, 32)), folder / "net.onnx")
    data = np.random.default_rng(0).standard_normal((32, 32, 8, 8)).astype(np.float32)
    data[0, 0, 0, 0] = 40
    np.save(model.with_name("data.npy"), data)
    paths = (model, model.with_name("data.npy"))
    calibrate(*paths, accuracy="fast", progress=False, table_path=model.with_name("net.calib.json"))
    return model


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    model = make_network(tmp_path_factory.mktemp("net"))
    return model, model.with_name("net.calib.json")


def stored_types(model: Path) -> set[str]:
    graph = onnx.load(model).graph
    read = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {onnx.TensorProto.DataType.Name(i.data_type) for i in graph.initializer if i.name in read}


def test_fp8_takes_four_times_what_was_seen(calibrated, tmp_path):
    model, table = calibrated
    made = quantize(model, table, tmp_path / "net.fp8.onnx", format="fp8")
    assert (made.format, made.num_quantized, made.num_weighted) == ("fp8", 4, 4)
    proto = onnx.load(made.path)
    assert proto.opset_import[0].version >= 21
    assert stored_types(made.path) == {"FLOAT8E4M3FN"}
    scale = next(numpy_helper.to_array(i) for i in proto.graph.initializer if i.name == "image_scale")
    assert scale.dtype == np.float16
    np.testing.assert_allclose(scale, 4 * 40 / 448, rtol=1e-3)
    data = np.load(model.with_name("data.npy"))[:4]
    reference, got = (next(iter(run(onnx.load(path), {"image": data}).values())) for path in (model, made.path))
    assert sqnr_db(reference, got) > 20


def test_fp32_beside_fp8_if_asked(calibrated, tmp_path):
    made = quantize(*calibrated, tmp_path / "net.fp8.onnx", format="fp8", high_precision="fp32")
    assert all(i.data_type != onnx.TensorProto.FLOAT16 for i in onnx.load(made.path).graph.initializer)


@pytest.mark.parametrize(
    ("form", "stored", "size", "gain"), [("int4", "INT4", 0.2, 3), ("fp8", "FLOAT8E4M3FN", 0.4, 0.5)]
)
def test_weights_are_rounded_on_samples_if_there_are_any_and_kept(tmp_path, form, stored, size, gain):
    g = Builder()
    x = g.input("x", 64)
    mixed = g.op("MatMul", x, g.weight(64, 256))
    model = write(g.model(g.linear(g.op("Relu", mixed), 256, 64)), tmp_path / "mlp.onnx")
    random = np.random.default_rng(0)
    data = (random.standard_normal((256, 8)) @ random.standard_normal((8, 64))).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    table = tmp_path / "mlp.calib.json"
    calibrate(model, tmp_path / "data.npy", accuracy="fast", progress=False, table_path=table)
    said: dict[str, str] = {}
    quality = {}
    for name, samples in (("nearest", None), ("feedback", tmp_path / "data.npy"), ("kept", None)):
        path = tmp_path / f"{name}.onnx"
        heard: list[str] = []
        made = quantize(model, table, path, format=form, data=samples, notify=lambda n, to=heard: to.append(n.text))
        assert (made.num_quantized, made.num_weighted) == (2, 2)
        assert stored_types(path) == {stored}
        assert made.size_bytes < size * model.stat().st_size
        reference, got = (run(onnx.load(p), {"x": data[:64]}) for p in (model, path))
        quality[name] = min(sqnr_db(value, got[key]) for key, value in reference.items())
        said[name] = "\n".join(heard)
    assert quality["feedback"] > quality["nearest"] + gain
    assert quality["kept"] == quality["feedback"]
    assert "2 of 2 weights are rounded to nearest" in said["nearest"]
    assert f"--format {form}" in said["nearest"]
    assert "2 weights rounded with error feedback" in said["feedback"]
    assert "rounded" not in said["kept"]
    assert is_rounded(FloatModel(model), load_table(table), QuantizeOptions(format=form))
    options = {"variants": [form], "task": "none", "latency_s": 0, "layer_samples": 0, "progress": False}
    report = evaluate(model, tmp_path / "data.npy", table=table, **options)
    assert not any("nearest" in note for note in report.evaluations[1].notes)
    for left in (replace(load_table(table), roundings={}), load_table(table)):
        nearest = quantize(model, left, tmp_path / "again.onnx", format=form, rounding="nearest")
        assert nearest.path.read_bytes() == (tmp_path / "nearest.onnx").read_bytes()
    if "int4" in form:
        heard = []
        size = {"block_size": 64, "data": tmp_path / "data.npy", "notify": lambda n: heard.append(n.text)}
        quantize(model, table, tmp_path / "again.onnx", format=form, **size)
        assert any(
            text.endswith("replaced, as it was rounded for other options, such as another --block-size.")
            for text in heard
        )


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: path.write_bytes(b"quantkit weights 1"), "is damaged"),
        (lambda path: path.write_bytes(b"quantkit weights 2 "), "was written by a newer quantkit (upgrade to use it)"),
        (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
        (lambda path: path.symlink_to("nowhere"), "cannot be read (No such file or directory)"),
        (lambda path: os.mkfifo(path), "cannot be read (not a regular file)"),
    ],
)
def test_what_was_kept_and_cannot_be_used_is_told_with_the_reason(calibrated, tmp_path, put, reason):
    model, table = calibrated
    beside = Path(shutil.copy(table, tmp_path))
    put(beside.with_suffix(".fp8.weights"))
    said: list[str] = []
    quantize(model, beside, tmp_path / "o.onnx", format="fp8", notify=lambda notice: said.append(notice.text))
    assert any(f"weights are rounded to nearest: net.calib.fp8.weights {reason}; `quantkit" in text for text in said)


def test_refinements_of_another_table_or_damaged_are_called_so(calibrated, tmp_path):
    model, table = calibrated
    stated = load_table(table)
    own = replace(stated, settings={**stated.settings, "rounding": "feedback"})
    path = save_table(own, tmp_path / "net.calib.json")
    for checksum, reason in ((table_checksum(own), ""), ("0" * 64, "net.calib.weights is of another table")):
        save_refinement(Refinement(), path.with_suffix(".weights"), table=checksum)
        said: list[str] = []
        quantize(model, path, tmp_path / "o.onnx", notify=lambda notice, to=said: to.append(notice.text))
        assert [text.partition(":")[0] for text in said if "rounded to nearest" in text] == [reason] * bool(reason)
    options = {"variants": ["int8"], "task": "none", "latency_s": 0, "layer_samples": 0, "progress": False}
    report = evaluate(model, table.parent / "data.npy", table=path, **options)
    assert [note.partition(":")[0] for note in report.evaluations[1].notes if "nearest" in note] == [reason]


def test_blocks_of_another_size_are_not_taken_for_those_that_were_kept(tmp_path):
    g = Builder()
    model = write(g.model(g.linear(g.input("x", 128), 128, 64)), tmp_path / "net.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32))
    table = tmp_path / "net.calib.json"
    calibrate(model, tmp_path / "data.npy", accuracy="fast", progress=False, table_path=table)
    quantize(model, table, tmp_path / "net.int4.onnx", format="int4", data=tmp_path / "data.npy")
    said: list[str] = []
    other = {"format": "int4", "block_size": 64}
    quantize(model, table, tmp_path / "o.onnx", **other, notify=lambda notice: said.append(notice.text))
    assert any("1 of 1 weights are rounded to nearest" in t and "--block-size 64 --data" in t for t in said)
    assert not is_rounded(FloatModel(model), load_table(table), QuantizeOptions(**other))


@pytest.mark.parametrize("form", ["fp8", "int4"])
def test_weights_are_rounded_in_batches_of_the_size_that_a_model_is_fixed_to(tmp_path, form):
    g = Builder(batch=4)
    shape = g.constant(np.array([4, 64], np.int64))
    model = write(g.model(g.linear(g.op("Reshape", g.input("x", 2, 32), shape), 64, 32)), tmp_path / "net.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).standard_normal((22, 2, 32)).astype(np.float32))
    paths = (model, tmp_path / "data.npy")
    calibrate(*paths, accuracy="fast", progress=False, table_path=tmp_path / "net.calib.json")
    said: list[str] = []
    keywords = {"format": form, "data": tmp_path / "data.npy", "notify": lambda notice: said.append(notice.text)}
    quantize(model, tmp_path / "net.calib.json", tmp_path / "made.onnx", **keywords)
    assert any("1 weights rounded" in text for text in said)


def test_int4_beside_int8(calibrated, tmp_path):
    made = quantize(*calibrated, tmp_path / "net.onnx", format="int4+int8")
    assert (made.num_quantized, made.num_weighted) == (4, 4)
    assert stored_types(made.path) == {"INT8", "INT4"}
    assert stored_types(quantize(*calibrated, tmp_path / "net.int4.onnx", format="int4").path) == {"INT4"}


def test_weights_in_blocks_are_rounded_after_the_scales_of_channels_went_into_them(tmp_path):
    g = Builder()
    hidden = g.op("Relu", g.op("MatMul", g.input("x", 64), g.weight(64, 64)))
    model = write(g.model(g.op("MatMul", hidden, g.weight(64, 8))), tmp_path / "mlp.onnx")
    random = np.random.default_rng(0)
    data = (random.standard_normal((256, 8)) @ random.standard_normal((8, 64))).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    table = calibrate(model, tmp_path / "data.npy", accuracy="fast", progress=False)
    factors = np.exp2(random.integers(-3, 4, 64)).astype(np.float32)
    scaled = Refinement(channel_scales={hidden: factors}, amax={hidden: 8 * table.tensors[hidden].amax})
    reference = run(onnx.load(model), {"x": data[:64]})
    quality = {}
    for name, refinement in (("plain", Refinement()), ("scaled", scaled)):
        made = quantize(
            model,
            replace(table, refinement=refinement),
            tmp_path / f"{name}.onnx",
            format="int4+int8",
            data=tmp_path / "data.npy",
            quantize_all=True,
        )
        assert stored_types(made.path) == {"INT8", "INT4"}
        got = run(onnx.load(made.path), {"x": data[:64]})
        quality[name] = min(sqnr_db(value, got[key]) for key, value in reference.items())
        assert not set(made.skipped) & {node.name for node in onnx.load(model).graph.node}
    assert quality["scaled"] > 6
    assert quality["plain"] > 12


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"format": "fp8", "target": "cpu"}, "target cpu has kernels for int8 alone"),
        ({"format": "fp8", "plan": "net.plan.json"}, "--plan is for --format int8"),
        ({"format": "fp4"}, "fp4"),
        ({"format": "int4", "block_size": 100}, "64 and 128"),
        ({"format": "fp8", "block_size": 64}, "--block-size is for --format int4 and int4\\+int8, not for fp8"),
    ],
)
def test_what_does_not_go_together_is_refused(options, reason):
    with pytest.raises(ModelError, match=reason):
        QuantizeOptions(**options)


@pytest.mark.parametrize("precision", ["fp8", "int4", "int4+int8"])
def test_a_plan_is_refused_for_an_engine_of_another_format(precision):
    with pytest.raises(
        ModelError, match=re.escape(f"--plan is for --precision int8, for which it was found, not for {precision}")
    ):
        EngineOptions(precision=precision, plan="net.plan.json")
    EngineOptions(precision="best", plan="net.plan.json")


@pytest.mark.parametrize(("precision", "kind"), [("fp8", "fp8_e4m3"), ("int4", "int4"), ("int4+int8", "int4")])
def test_engines_hold_the_format(calibrated, tmp_path, precision, kind):
    pytest.importorskip("tensorrt_rtx")
    model, table = calibrated
    options = BuildOptions(targets=("sm89",))
    keywords = {"library": "rtx", "precision": precision, "progress": False}
    built = build(model, options, table=table, output=tmp_path / "net.engine", **keywords)
    assert built.manifest.precision == precision
    assert any(kind in layer.inputs for layer in rtx.read_layers(built.path.read_bytes()))
    quantized = quantize(model, table, tmp_path / "net.onnx", format=precision).path
    again = build(quantized, options, output=tmp_path / "again.engine", **keywords)
    assert any(kind in layer.inputs for layer in rtx.read_layers(again.path.read_bytes()))
    with pytest.raises(ModelError, match=f"use --precision {re.escape(precision)}"):
        build(quantized, options, output=tmp_path / "no.engine", **{**keywords, "precision": "int8"})


def test_engines_take_blocks_of_the_size_that_is_asked_for_and_what_was_kept(calibrated, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    model, table = (shutil.copy(path, tmp_path) for path in calibrated)
    np.save(tmp_path / "data.npy", np.load(calibrated[0].with_name("data.npy")))
    keywords = {"library": "rtx", "precision": "int4", "table": table, "progress": False}
    made = {}
    for name, size in (("default", None), ("small", 64)):
        made[name] = build(model, BuildOptions(targets=("sm89",)), **keywords, block_size=size, output=tmp_path / name)
    assert made["small"].manifest.options["block_size"] == 64
    quantize(model, table, tmp_path / "net.int4.onnx", format="int4", data=tmp_path / "data.npy")
    again = build(model, BuildOptions(targets=("sm89",)), **keywords, output=tmp_path / "default")
    assert not again.reused  # its weights are other ones now
    assert build(model, BuildOptions(targets=("sm89",)), **keywords, output=tmp_path / "default").reused
    with pytest.raises(ModelError, match="--block-size is for --precision int4 and int4"):
        build(model, **{**keywords, "precision": "fp8"}, block_size=64)


def test_engines_of_a_plan_with_fp8_depend_on_what_was_kept_for_it(calibrated):
    library = Library(module=None, name="tensorrt", version=(10, 16, 0))
    typing = Typing("int8", "explicit", strong=True, flags=())

    def options(formats, roundings):
        table = replace(load_table(calibrated[1]), formats=formats, roundings=roundings)
        source = load_build_inputs(calibrated[0], EngineOptions(precision="int8", table=table))
        return expected_manifest(source, library, typing, BuildOptions(), None).options

    kept = {"fp8": Refinement(biases={"conv": np.ones(1, np.float32)})}
    assert options({"image": "fp8"}, kept) != options({"image": "fp8"}, {})
    assert options({}, kept) == options({}, {})


def test_ampere_is_refused_for_fp8(calibrated, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    keywords = {"table": calibrated[1], "precision": "fp8", "library": "rtx", "output": tmp_path / "net.engine"}
    for targets, word in ((("sm86", "sm89"), "sm86"), ((), "sm80")):
        with pytest.raises(BackendError, match=f"{word} does not compute in fp8, GPUs do from sm89 on"):
            build(calibrated[0], BuildOptions(targets=targets), **keywords)


def test_old_versions_of_tensorrt_are_refused():
    old = Library(module=None, name="tensorrt", version=(10, 2, 0))
    with pytest.raises(BackendError, match=r"needs TensorRT 10.3 or newer, this is TensorRT 10.2.0: https://docs"):
        check_scheme(old, "fp8", (), None)
    check_scheme(old, "int4", (), None)


def test_no_command_is_written_for_a_version_of_trtexec_that_lacks_the_format(calibrated, tmp_path):
    made = quantize(*calibrated, tmp_path / "net.fp8.onnx", format="fp8").path
    with pytest.raises(BackendError, match=r"fp8 needs TensorRT 10.3 or newer, this is TensorRT 10.2.0: https://docs"):
        trtexec_command(made, TrtexecOptions(tensorrt_version="10.2.0"), BuildOptions())
    assert trtexec_command(made, TrtexecOptions(tensorrt_version="10.3.0"), BuildOptions())


def test_a_plan_with_fp8_is_named_where_a_gpu_has_none():
    rtx = Library(module=None, name="tensorrt-rtx", version=(1, 7, 0))
    text = r"--plan with conv in fp8: sm86 does not compute in fp8, .* or make the plan by tune --formats int8"
    with pytest.raises(BackendError, match=text):
        check_scheme(rtx, "fp8", ("sm86",), None, planned=["conv"])


def test_a_cache_is_refused_for_what_is_explicit(calibrated, tmp_path):
    (tmp_path / "net.calib").write_text("TRT-101601-EntropyCalibration2\nimage: 3c010a14\n")
    with pytest.raises(ModelError, match="--calib is for implicit INT8: fp8 is explicit"):
        build(calibrated[0], precision="fp8", calibration_cache=tmp_path / "net.calib")


@pytest.mark.parametrize("form", ["int8", "fp8", "int4", "int4+int8"])
def test_inspection_names_the_formats(calibrated, tmp_path, form):
    found = inspect_model(FloatModel(quantize(*calibrated, tmp_path / "net.onnx", format=form).path))
    assert "+".join(found.formats) == form
    assert (found.num_quantized, found.num_weighted) == (1 if form == "int4" else 4, 4)
    told = {finding.rule: finding.text for finding in found.findings}
    version = {"fp8": "TensorRT 10.3 or later, and GPUs from sm89 on", "int4": "TensorRT 10.0 or later"}
    assert told == ({} if form == "int8" else {"format": f"{form.upper()}: needs {version[form.partition('+')[0]]}"})


def test_a_model_of_int8_and_fp8_is_int8_that_needs_what_fp8_does(calibrated, tmp_path):
    table = replace(load_table(calibrated[1]), formats={"image": "fp8"})
    made = quantize(calibrated[0], table, tmp_path / "net.int8.onnx").path
    assert stored_types(made) == {"INT8", "FLOAT8E4M3FN"}
    found = {finding.rule: finding.text for finding in inspect_model(FloatModel(made)).findings}
    assert found == {"format": "FP8+INT8: needs TensorRT 10.3 or later, and GPUs from sm89 on"}
    options = TrtexecOptions(precision="int8", tensorrt_version="10.16.1")
    assert f"--saveEngine={tmp_path / 'net.int8.engine'} --stronglyTyped" in trtexec_command(
        made, options, BuildOptions()
    )


def test_a_model_without_matrix_products_has_no_int4(tmp_path):
    g = Builder()
    model = write(g.model(g.conv(g.input("image", 3, 8, 8), 3, 8)), tmp_path / "net.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32))
    table = calibrate(model, tmp_path / "data.npy", accuracy="fast", progress=False)
    with pytest.raises(ModelError, match="no MatMul or Gemm whose weight can be INT4"):
        quantize(model, table, tmp_path / "net.int4.onnx", format="int4")


@pytest.mark.parametrize("form", ["fp8", "int8"])
def test_what_is_too_large_for_a_scale_in_fp16_stays_in_float_and_is_named(tmp_path, form):
    g = Builder()
    x = g.op("MatMul", g.input("x", 64), g.weight(64, 64), name="first")
    model = g.model(g.op("MatMul", x, g.weight(64, 64), name="second"))
    second = model.graph.initializer[1]
    second.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(second) * np.float32(1e20), second.name))
    path = write(model, tmp_path / "net.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32))
    table = calibrate(path, tmp_path / "data.npy", accuracy="fast", progress=False)
    said = []
    options = {"format": form, "high_precision": "fp16", "rounding": "nearest"}
    made = quantize(path, table, tmp_path / "made.onnx", notify=lambda notice: said.append(notice.text), **options)
    assert made.num_quantized == 1
    named = (
        f"1 activation left in float: first_out (read with {second.name}, which is too large for a scale in FP16: up to"
    )
    assert any(text.startswith(named) for text in said)


def test_all_formats_are_evaluated_side_by_side(calibrated):
    model, table = calibrated
    names = ["fp32", "fp16", "int8", "fp8", "int4", "int4+int8"]
    options = {"variants": names, "table": table, "task": "none", "latency_s": 0, "layer_samples": 0, "progress": False}
    report = evaluate(model, model.with_name("data.npy"), **options)
    found = {evaluation.name: evaluation for evaluation in report.evaluations}
    assert list(found) == names
    assert all(found[name].metrics["sqnr_db"] > 15 for name in names[1:])
    assert found["int8"].metrics["sqnr_db"] != found["fp8"].metrics["sqnr_db"]
    assert choose_variants(None, load_table(table)) == ("fp32", "fp16", "int8", "int8-cpu")
    with pytest.raises(EvaluationError, match="needs a calibration table"):
        choose_variants(["FP8"], None)


def test_what_a_model_cannot_be_is_said_before_it_is_evaluated(tmp_path):
    g = Builder()
    model = write(g.model(g.conv(g.input("image", 3, 8, 8), 3, 8)), tmp_path / "net.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32))
    for names, limits in ((["INT4"], None), (["fp32", "Int8", "int4"], Limits(max_drop="1pt"))):
        with pytest.raises(ModelError, match="no MatMul or Gemm whose weight can be INT4"):
            check_variants(FloatModel(model), EvaluationOptions(variants=names), "net.calib.json", limits)
    check_variants(FloatModel(model), EvaluationOptions(), None)


def test_a_format_that_the_model_cannot_have_is_left_out_beside_others(tmp_path):
    g = Builder()
    model = write(g.model(g.conv(g.input("image", 3, 8, 8), 3, 32)), tmp_path / "net.onnx")
    data = tmp_path / "data.npy"
    np.save(data, np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32))
    table = calibrate(model, data, accuracy="fast", progress=False)
    options = {"table": table, "task": "none", "latency_s": 0, "layer_samples": 0, "progress": False}
    report = evaluate(model, data, variants=["int8", "int4"], **options)
    assert [evaluation.name for evaluation in report.evaluations] == ["fp32", "int8"]
    assert any(text.startswith("int4 is left out: net.onnx has no MatMul or Gemm") for text in report.warnings)


def test_a_weight_whose_scales_fp16_cannot_hold_stays_in_float_with_the_reason(tmp_path):
    g = Builder()
    x = g.op("MatMul", g.input("x", 64), g.weight(64, 64))
    model = g.model(g.op("MatMul", x, g.weight(64, 64)))
    first = model.graph.initializer[0]
    first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) * np.float32(1e6), first.name))
    write(model, tmp_path / "net.onnx")
    plan = plan_weight_only(FloatModel(tmp_path / "net.onnx").prepared(21), 128)
    assert len(plan.weights) == 1
    assert any("beyond FP16" in why for why in plan.skipped.values())


def test_a_model_of_any_format_belongs_to_its_table():
    for name in ("net.int8.onnx", "net.int8-cpu.onnx", "net.fp8.onnx", "net.int4.onnx", "net.int4+int8.onnx"):
        member = CalibrationFiles.of_member(Path(name))
        assert member is not None
        assert member.table == Path("net.calib.json")
