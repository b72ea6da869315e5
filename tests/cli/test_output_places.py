"""An output that cannot be written is refused before anything is calibrated, run, timed or built, by every command."""

from __future__ import annotations

import shlex
import shutil

import pytest

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.errors import OutputError
from tests.cli.conftest import CALIB, VAL

COMMANDS = {
    "calibrate": f"calibrate digits.onnx --data {CALIB} -o OUT/m.json",
    "quantize": f"quantize digits.onnx --table digits.calib.json --format fp8 --data {CALIB} -o OUT",
    "build": f"build digits.onnx --precision fp16 --data {CALIB} -o OUT/m.engine",
    "evaluate": f"evaluate digits.onnx --data {VAL} -o OUT/report.json",
    "bench": "bench digits.onnx --export-times OUT/times.json",
    "sensitivity": f"sensitivity digits.onnx --data {CALIB} -o OUT",
    "tune": f"tune digits.onnx --data {CALIB} --val {VAL} -o OUT/m.json",
    "verify": f"cache verify digits.calib.json --model digits.onnx --data {CALIB} --write-map OUT/map.json",
    "merge": "cache merge digits.calib.stats -o OUT/m.calib.json",
    "selftest": f"selftest digits.onnx --data {CALIB} -o OUT/selftest.json",
}
FOLDERS = {
    "calibrate": "m.weights",
    "quantize": "digits.fp8.onnx",
    "build": "m.engine.json",
    "evaluate": "report.html",
    "bench": "times.json",
    "sensitivity": "sensitivity.json",
    "verify": "map.json",
}
"""Names at which a folder lies."""


@pytest.fixture(autouse=True)
def idle(calibrated, monkeypatch):
    """Nothing is run; what the commands read lies in the current folder."""
    monkeypatch.chdir(calibrated.parent)
    (calibrated.parent / "digits.calib.stats").write_bytes(b"quantkit statistics")

    def run(*_, **__):
        pytest.fail("a model was run")

    monkeypatch.setattr(OnnxRuntimeRunner, "run", run)


def refuse(quantkit, words, folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    outcome = quantkit(*shlex.split(words))
    errors = [line for line in outcome.err.splitlines() if line.startswith("quantkit: error:")]
    assert (outcome.code, len(errors), outcome.out) == (OutputError.exit_code, 1, ""), outcome
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    return errors[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_in_place_of_the_folder_is_refused_first(quantkit, tmp_path, name):
    (tmp_path / "taken").write_text("")
    assert "cannot write to taken" in refuse(quantkit, COMMANDS[name].replace("OUT", "taken/x"), tmp_path)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_in_place_of_a_file_is_refused_first(quantkit, tmp_path, name):
    blocked = FOLDERS[name]
    (tmp_path / "out" / blocked).mkdir(parents=True)
    said = refuse(quantkit, COMMANDS[name].replace("OUT", "out"), tmp_path)
    assert said == f"quantkit: error: cannot write to out: a folder {blocked} is there"


def test_a_report_takes_no_place_of_a_table_that_is_made_first(quantkit, tmp_path, monkeypatch):
    shutil.copy("digits.onnx", tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    words = f"evaluate net.onnx --data {VAL} --calibrate-data {CALIB} -o net.calib.json"
    assert "Refusing to overwrite the input file net.calib.json" in refuse(quantkit, words, tmp_path)
    assert not (tmp_path / "net.calib.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        f"evaluate digits.onnx --data {VAL} -o digits.calib.json",
        f"evaluate digits.onnx --data {VAL} --task detect --detections yolov8 --labels boxes.json -o boxes.json",
        f"sensitivity digits.onnx --data {CALIB} -o digits.calib.json",
        f"tune digits.onnx --data {CALIB} --val {VAL} -o digits.calib.json",
        f"tune digits.onnx --data {CALIB} --val {VAL} -o elsewhere/digits.calib.json",
    ],
)
def test_a_report_or_plan_replaces_no_table_or_labels(quantkit, tmp_path, words):
    (tmp_path / "boxes.json").write_text("{}")
    name = shlex.split(words)[-1]
    for dry_run in ("", " --dry-run"):
        assert name in refuse(quantkit, words + dry_run, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        "calibrate digits.onnx --data imgs -o imgs",
        "quantize digits.onnx --format fp8 --data imgs -o imgs",
        "evaluate digits.onnx --data imgs -o ./imgs/",
        f"evaluate digits.onnx --data {VAL} --calibrate-data imgs -o imgs",
        "sensitivity digits.onnx --data imgs -o imgs",
        f"tune digits.onnx --data {CALIB} --val imgs -o imgs",
        "selftest digits.onnx --data imgs -o imgs",
    ],
)
def test_nothing_is_written_into_the_folder_of_the_data(quantkit, tmp_path, words):
    shutil.copytree(VAL, tmp_path / "imgs")
    for dry_run in ("", " --dry-run") if "selftest" not in words else ("",):
        assert "Refusing to write into the folder of the data imgs" in refuse(quantkit, words + dry_run, tmp_path)
