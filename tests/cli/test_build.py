"""`quantkit build` as a user types it, with TensorRT-RTX, which builds on any machine."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest

from tests import rtx
from tests.cli.conftest import CALIB, conv_model, write_images

pytest.importorskip("tensorrt_rtx")

TARGETS = "sm86,sm89,sm120"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_build_writes_engine_and_manifest(quantkit, calibrated, tmp_path, precision):
    outcome = quantkit("build", calibrated, "--precision", precision, "--target", TARGETS, "--library", "rtx")
    assert outcome.code == 0, outcome.err
    engine = tmp_path / f"digits.{precision}.engine"
    assert f"wrote {engine}" in outcome.out
    assert "1x1x8x8 / 8x1x8x8 / 32x1x8x8" in outcome.err
    manifest = json.loads((tmp_path / f"digits.{precision}.engine.json").read_text())
    assert manifest["engine_sha256"] == hashlib.sha256(engine.read_bytes()).hexdigest()
    assert manifest["engine_size_bytes"] == engine.stat().st_size
    assert manifest["options"]["targets"] == ["sm86", "sm89", "sm120"]
    assert manifest["library"] == "tensorrt-rtx"
    assert bool(manifest["table"]) == (precision == "int8")
    products = [k for k in rtx.read_layers(engine.read_bytes()) if k.kind == "corrltn"]
    kinds = {"fp32": "float", "fp16": "half", "int8": "int8"}
    assert {k.inputs[:2] for k in products} == {(kinds[precision],) * 2}


def test_int8_uses_the_table_beside_the_model(quantkit, calibrated):
    outcome = quantkit("build", calibrated, "--precision", "int8")
    assert "calibration: " in outcome.err
    assert "int8 (explicit, 10 operators, other layers fp16)" in outcome.out
    named = quantkit("build", calibrated, "--precision", "int8", "--table", calibrated.with_suffix(".calib.json"))
    assert "Reusing" in named.err


def test_second_build_reuses_the_engine_and_names_changes(quantkit, calibrated, tmp_path):
    words = ["build", calibrated, "--precision", "int8", "--library", "rtx"]
    assert quantkit(*words).code == 0
    engine = tmp_path / "digits.int8.engine"
    before = engine.stat().st_mtime_ns
    again = quantkit(*words)
    assert "Reusing" in again.err
    assert f"kept  {engine}" in again.out
    assert engine.stat().st_mtime_ns == before
    forced = quantkit(*words, "--force")
    assert "Reusing" not in forced.err
    changed = quantkit(*words, "--target", "sm89", "--exclude", "Gemm")
    assert "options targets: none → ['sm89']" in changed.err
    assert "exclude: none → ['Gemm']" in changed.err
    engine.write_bytes(b"broken")
    assert (
        "is not the file that its manifest describes"
        in quantkit(*words[:4], "--exclude", "Gemm", "--target", "sm89").err
    )
    (tmp_path / "digits.int8.engine.json").write_text("{")
    assert "not an engine manifest" in quantkit(*words).err


def test_changed_calibration_rebuilds_the_engine(quantkit, calibrated):
    quantkit("build", calibrated, "--precision", "int8")
    quantkit("calibrate", "--data", CALIB, calibrated, "--num-samples", "32", "--method", "minmax", "-q")
    outcome = quantkit("build", calibrated, "--precision", "int8")
    assert "table method: entropy → minmax" in outcome.err


def test_int8_model_needs_no_table(quantkit, calibrated, tmp_path):
    model = calibrated.with_name("digits.int8.onnx")
    outcome = quantkit("build", model, "--precision", "int8", "-o", tmp_path / "own.engine")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "own.engine").is_file()
    assert "int8 (explicit)" in outcome.out
    assert quantkit("build", model, "--precision", "int8").code == 0
    assert (tmp_path / "digits.int8.engine").is_file()


def test_shape_options_accept_both_notations_and_several_profiles(quantkit, digits, tmp_path):
    outcome = quantkit(
        "build", digits,
        "--min-shapes", "image:1x1x8x8", "--opt-shapes", "image:[4,1,8,8]", "--max-shapes", "image:16x1x8x8",
        "--min-shapes", "image:32x1x8x8", "--opt-shapes", "image:32x1x8x8", "--max-shapes", "image:32x1x8x8",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    profiles = json.loads((tmp_path / "digits.fp32.engine.json").read_text())["options"]["profiles"]
    assert profiles == [{"image": "1x1x8x8 / 4x1x8x8 / 16x1x8x8"}, {"image": "32x1x8x8"}]


def test_image_size_completes_dynamic_shapes(quantkit, tmp_path):
    model = conv_model(tmp_path / "net.onnx", shape=("n", 3, "h", "w"))
    folder = write_images(tmp_path / "images", 10, size=(12, 10))
    assert "pass its shapes, --opt-shapes x:1x3x1x1" in quantkit("build", model).err
    assert quantkit("calibrate", "--method", "entropy", "--data", folder, model, "--size", "12x10", "-q").code == 0
    outcome = quantkit("build", model, "--precision", "int8")
    assert outcome.code == 0, outcome.err
    assert "x 1x3x12x10 / 8x3x12x10 / 32x3x12x10" in outcome.err


def test_fp16_model_is_built(quantkit, tmp_path):
    model = onnx.load(conv_model(tmp_path / "net.onnx", dtype=onnx.TensorProto.FLOAT16, opset=19))
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, tmp_path / "net.onnx")
    assert "is in FP16 already: build it with --precision fp16" in quantkit("build", tmp_path / "net.onnx").err
    assert quantkit("build", tmp_path / "net.onnx", "--precision", "fp16").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--precision", "int8"], "INT8 needs the ranges of digits.onnx: run `quantkit calibrate "),
        (["--opt-shapes", "nope:1x1x8x8"], "no input 'nope': its inputs are 'image'"),
        (["--opt-shapes", "image:1x1x9x8"], "dimension 2 is fixed to 8"),
        (["--opt-shapes", "image"], "--opt-shapes 'image' is not of the form"),
        (["--min-shapes", "image:1x1x8x8"], "--min-shapes needs --opt-shapes"),
        (["--opt-shapes", "image:1x1x8x8", "--min-shapes", "image:2x1x8x8"], "minimum <= optimum <= maximum"),
        (["--workspace", "lots"], "--workspace 'lots' is not a size"),
        (["--target", "sm75"], "in float"),
        (["--target", "sm90"], "builds for sm80, sm86"),
        (["--target", "ada"], "--target 'ada' is not a GPU generation"),
        (["--library", "rtx", "--timing-cache", "t"], "--timing-cache has no use with TensorRT-RTX"),
        (["--library", "rtx", "--version-compatible"], "--version-compatible has no use"),
        (["--library", "rtx", "--precision", "fp16", "--dla-core", "0"], "--dla-core has no use"),
        (["--allow-gpu-fallback"], "--allow-gpu-fallback goes with --dla-core"),
        (["--table", "t.json"], "--table is for quantized engines, such as --precision int8"),
        (["--exclude", "Conv"], "--exclude is for quantized engines, such as --precision int8"),
        (["--precision", "int8", "--table", "t.json"], "cannot read calibration table t.json"),
        (["--precision", "int8", "--table", "t.json", "--calib", "c"], "--table and --calib exclude each other"),
        (["--precision", "int8", "--calib", "there/is/none"], "cannot read --calib there/is/none"),
    ],
)
def test_invalid_options_are_one_line(quantkit, digits, tmp_path, words, said):
    outcome = quantkit("build", digits, *words)
    assert outcome.code == 1
    assert said in outcome.err
    assert outcome.err.splitlines()[-1].startswith("quantkit: error: ")
    assert "Traceback" not in outcome.err
    assert [p.name for p in tmp_path.iterdir()] == ["digits.onnx"]


def test_table_of_another_model_is_refused(quantkit, calibrated, tmp_path):
    other = conv_model(tmp_path / "other.onnx")
    outcome = quantkit("build", other, "--precision", "int8", "--table", tmp_path / "digits.calib.json")
    assert outcome.code == 4
    assert "the calibration table of 'digits.onnx' was made from different inputs: model hash" in outcome.err


def test_table_for_a_quantized_model_is_refused(quantkit, calibrated, tmp_path):
    words = ["--precision", "int8", "--table", tmp_path / "digits.calib.json"]
    outcome = quantkit("build", tmp_path / "digits.int8.onnx", *words)
    assert outcome.code == 1
    assert "contains Q/DQ, which define everything: omit --table" in outcome.err


def test_model_for_the_cpu_is_refused(quantkit, digits, tmp_path):
    assert (
        quantkit(
            "calibrate", "--method", "entropy", "--data", CALIB, digits, "--num-samples", "32", "--target", "cpu", "-q"
        ).code
        == 0
    )
    outcome = quantkit("build", tmp_path / "digits.int8-cpu.onnx", "--precision", "int8", "--library", "rtx")
    assert outcome.code == 1
    assert "UINT8" in outcome.err


def test_unsupported_operator_is_named(quantkit, tmp_path):
    model = onnx.load(conv_model(tmp_path / "net.onnx", shape=(2, 3, 8, 8)))
    next(n for n in model.graph.node if n.name == "relu").op_type = "Det"
    onnx.save(model, tmp_path / "net.onnx")
    outcome = quantkit("build", tmp_path / "net.onnx", "--library", "rtx")
    assert outcome.code == 1
    assert "node 'relu' (Det): it does not support this operator" in outcome.err
    assert not list(tmp_path.glob("*.engine*"))


def test_verbose_shows_tensorrt_messages_and_quiet_hides_them(quantkit, digits):
    assert "TensorRT verbose: " in quantkit("build", digits, "--verbose").err
    assert quantkit("build", digits, "--force", "-q").err == ""


def test_python_api_builds_the_same_engine(digits, tmp_path):
    import quantkit

    table = quantkit.calibrate(digits, CALIB, method="minmax", num_samples=32)
    options = quantkit.BuildOptions(targets=("8.9",))
    built = quantkit.build(digits, precision="int8", table=table, options=options)
    assert built.path == tmp_path / "digits.int8.engine"
    assert built.num_quantized == 10
    assert not built.reused
    assert quantkit.build(digits, precision="int8", table=table, options=options).reused
