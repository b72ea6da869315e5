"""`--json` in every command: one document on standard output, and words on standard error alone."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.cli.conftest import CALIB, DIGITS, VAL
from tests.cli.test_examples import COMMANDS

_FEW = "--num-samples 16"
_QUICK = f"--data {VAL} {_FEW} --latency-s 0 --layer-samples 0"

LINES = {
    "calibrate": f"digits.onnx --data {CALIB} {_FEW} --accuracy fast",
    "quantize": "digits.onnx --table digits.calib.json",
    "build": "digits.onnx --precision int8 --library rtx",
    "evaluate": f"digits.onnx {_QUICK} --variants int8",
    "bench": "digits.onnx --duration 0.01 --warm-up-ms 0",
    "sensitivity": f"digits.onnx --data {CALIB} {_FEW}",
    "tune": f"digits.onnx --data {CALIB} --val {VAL} {_FEW} --num-val-samples 16 --max-drop 99",
    "compare": "digits.report/report.json --max-drop 99",
    "report": "digits.report/report.json",
    "data check": f"digits.onnx --data {CALIB} --probe-samples 16",
    "export triton": "digits.onnx",
    "export deepstream": "digits.onnx",
    "export trtexec": "digits.onnx",
    "inspect": "digits.calib.json",
    "cache show": "digits.calib.json",
    "cache diff": "digits.calib.json digits.calib",
    "cache verify": "digits.calib --model digits.onnx",
    "cache convert": "digits.calib.json --to json -o all.json",
    "cache merge": "digits.calib.stats -o merged.calib.json",
    "init": f"digits.onnx --data {CALIB}",
    "selftest": f"digits.onnx --data {CALIB} {_FEW} --library rtx",
    "config": "calibrate",
}
_NEED_RTX = ("build", "selftest")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """The demo model, calibrated and evaluated."""
    from quantkit.cli import main

    folder = tmp_path_factory.mktemp("material")
    shutil.copy(DIGITS, folder)
    model = folder / "digits.onnx"
    for words in (
        f"calibrate {model} --data {CALIB} {_FEW} --accuracy fast --keep-statistics -q",
        f"evaluate {model} {_QUICK} --variants int8 -q",
    ):
        with pytest.raises(SystemExit, match="0"):
            main(shlex.split(words))
    return folder


@pytest.fixture
def inside(material, tmp_path, monkeypatch):
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def test_lines_are_of_all_commands():
    assert LINES.keys() | {"doctor"} == COMMANDS.keys()  # `test_doctor` runs it, which takes long


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("name", LINES)
def test_standard_output_is_one_document(quantkit, name):
    if name in _NEED_RTX and importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT-RTX is not installed")
    outcome = quantkit(*name.split(), *shlex.split(LINES[name]), "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)  # nothing before it, nothing after it
    assert document
    assert "NaN" not in outcome.out
    assert "Infinity" not in outcome.out
    for line in outcome.err.splitlines():
        assert not line.startswith("{")


@pytest.mark.usefixtures("inside")
def test_what_was_written_is_in_the_document(quantkit):
    words = ("calibrate", "digits.onnx", "--data", CALIB, *_FEW.split(), "--accuracy", "fast", "--keep-statistics")
    again = quantkit(*words, "--json")
    found = json.loads(again.out)
    assert {file["path"]: file["is_written"] for file in found["files"]} == {
        "digits.calib.json": False,
        "digits.calib": True,
        "digits.int8.onnx": True,
    }
    assert (found["num_quantized"], found["num_samples"], found["settings"]["method"]) == (10, 16, "auto")
    assert "kept  digits.calib.json  calibration table" in again.err
    typed = json.loads(quantkit("export", "trtexec", "digits.onnx", "--json").out)
    assert shlex.split(typed["command"]) == typed["arguments"]


@pytest.mark.usefixtures("inside")
def test_a_trend_is_a_list_of_points(quantkit):
    points = json.loads(quantkit("report", "a=digits.report/report.json", "b=digits.report/report.json", "--json").out)
    assert [(point["report"], point["variant"]) for point in points] == [
        (name, variant) for name in "ab" for variant in ("fp32", "int8")
    ]
    assert all(point["score_name"] == "top1" and point["size_bytes"] > 0 for point in points)


@pytest.mark.usefixtures("inside")
def test_an_error_leaves_standard_output_empty(quantkit):
    outcome = quantkit("quantize", "digits.onnx", "--table", "missing.json", "--json")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("quantkit: error: ")


_PRINTS = """import os

import numpy as np

os.write(1, b"below Python\\n")
print("loaded")


def prep(image):
    return np.asarray(image, np.float32)[None]
"""


@pytest.mark.parametrize("logged", [(), ("--log-file", "/dev/stdout")])
def test_what_user_code_prints_goes_to_standard_error(tmp_path, logged):
    if logged and sys.platform == "win32":
        pytest.skip("needs /dev/stdout")
    (tmp_path / "own.py").write_text(_PRINTS)
    command = f"data check {DIGITS} --data {CALIB} --probe-samples 0 --preprocess own.py:prep --json"
    words = [sys.executable, "-m", "quantkit", *shlex.split(command), *logged]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert json.loads(done.stdout), done.stderr
    assert {"below Python", "loaded"} <= set(done.stderr.splitlines())
