"""`quantkit export` as typed: from a calibrated model to files of other tools."""

from __future__ import annotations

import shlex

from .conftest import write_images


def test_deepstream_and_trtexec_of_a_calibrated_model(quantkit, digits, tmp_path):
    gone = quantkit("export", "deepstream", digits)
    assert gone.code == 1
    assert "digits.calib.json" in gone.err
    gone = quantkit("export", "trtexec", digits, "--precision", "int8")
    assert "there is no calibration cache" in gone.err
    gone = quantkit("export", "trtexec", digits, "--precision", "int8", "--tensorrt-version", "11.0.0")
    assert "TensorRT 11 takes int8 from the model alone: pass one with Q/DQ (quantkit quantize" in gone.err
    images = write_images(tmp_path / "imgs", 8)
    words = ("--preprocess", "unit", "--accuracy", "fast")
    assert quantkit("calibrate", digits, "--data", images, *words).code == 0
    assert quantkit("export", "deepstream", digits, "-o", tmp_path / "ds" / "net.txt").code == 0
    lines = (tmp_path / "ds" / "net.txt").read_text().splitlines()
    assert {"[property]", "onnx-file=../digits.onnx", "int8-calib-file=../digits.calib", "network-mode=1"} <= set(lines)
    assert "model-color-format=2" in lines
    (tmp_path / "elsewhere").mkdir()
    for name in ("digits.calib", "digits.calib.json"):
        (tmp_path / "elsewhere" / name).write_bytes((tmp_path / name).read_bytes())
    table = tmp_path / "elsewhere" / "digits.calib.json"
    assert quantkit("export", "deepstream", digits, "--table", table, "-o", tmp_path / "own.txt").code == 0
    assert "int8-calib-file=elsewhere/digits.calib" in (tmp_path / "own.txt").read_text().splitlines()
    printed = quantkit("export", "trtexec", digits, "--precision", "int8", "--tensorrt-version", "10.3.0")
    assert shlex.split(printed.out) == [
        "trtexec", f"--onnx={digits}", f"--saveEngine={digits.with_suffix('.int8.engine')}", "--int8", "--fp16",
        f"--calib={digits.with_suffix('.calib')}",
        "--minShapes=image:1x1x8x8", "--optShapes=image:8x1x8x8", "--maxShapes=image:32x1x8x8",
    ]  # fmt: skip
    typed = quantkit("export", "trtexec", tmp_path / "digits.int8.onnx", "--precision", "int8")
    assert "--stronglyTyped" in typed.out
    assert "--calib" not in typed.out
    assert quantkit("export", "trtexec", tmp_path / "digits.int8.onnx").out == typed.out  # the model says it
    refused = quantkit("export", "trtexec", tmp_path / "digits.int8.onnx", "--precision", "fp16")
    assert "digits.int8.onnx is in INT8 already: use --precision int8, or pass the float model" in refused.err
    triton = quantkit("export", "triton", digits, "-o", tmp_path / "repo")
    assert "dynamic batching up to 32" in triton.out
