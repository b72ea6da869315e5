from __future__ import annotations

import pytest

from quantkit.cli.config_file import read_config
from tests.cli.conftest import CALIB, VAL, write_images

from .. import detector, segmenter


def test_the_file_calibrates_and_evaluates_as_it_is(quantkit, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTKIT_CALIBRATE_ACCURACY", "fast")
    file = tmp_path / "quantkit.toml"
    outcome = quantkit("init", digits, "--data", CALIB, "--val", VAL, "-o", file)
    assert outcome.code == 0
    assert f"next: quantkit data check {digits} --data {CALIB}\nthen: quantkit calibrate" in outcome.err
    text = file.read_text(encoding="utf-8")
    assert "# Input image float32 [batch, 1, 8, 8]" in text
    assert "# Data: 300 samples of calib, 10 classes" in text
    assert "# The most samples to use; 100 to 500" in text
    assert read_config(file)["evaluate",]["task"] == "classify"
    assert quantkit("calibrate", digits, "--config", file).code == 0
    outcome = quantkit("evaluate", digits, "--config", file, "--latency-s", "0", "--num-samples", "20")
    assert outcome.code == 0, outcome.err


def test_an_existing_file_is_kept_unless_forced(quantkit, digits, tmp_path):
    file = tmp_path / "quantkit.toml"
    file.write_text("mine")
    assert "exists: pass --force" in quantkit("init", digits, "--data", CALIB, "-o", file).err
    assert file.read_text() == "mine"
    assert quantkit("init", digits, "--data", CALIB, "-o", file, "--force").code == 0


@pytest.mark.parametrize("calibrated_on", ["data.yaml", "other.yaml", "set/images/val"])
def test_a_data_yaml_brings_the_preprocessing_and_the_labels_of_yolo(quantkit, tmp_path, calibrated_on):
    model, file, data = tmp_path / "m.onnx", tmp_path / "quantkit.toml", tmp_path / "data.yaml"
    detector.make_detector(model)
    detector.make_images(tmp_path / "set", count=2)
    data.write_text(f"path: {tmp_path / 'set'}\ntrain: images/val\nval: images/val\nnames: [a, b]\n")
    (tmp_path / "other.yaml").write_text(data.read_text())
    assert quantkit("init", model, "--data", tmp_path / calibrated_on, "--val", data, "-o", file).code == 0
    found = read_config(file)
    assert found["calibrate",]["preprocess"] == "yolo"
    assert found["evaluate",]["labels"] == str(data)
    assert "# detections =" in file.read_text(encoding="utf-8")
    assert "Other samples" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "task", "hint"),
    [(detector.make_detector, "detect", "# detections ="), (segmenter.write_segmenter, "segment", "# labels =")],
)
def test_the_task_is_guessed_by_the_outputs(quantkit, tmp_path, make, task, hint):
    model, file = tmp_path / "m.onnx", tmp_path / "quantkit.toml"
    make(model)
    images = write_images(tmp_path / "images", 2, size=(64, 64))
    assert quantkit("init", model, "--data", images, "-o", file).code == 0
    assert read_config(file)["evaluate",]["task"] == task
    assert hint in file.read_text(encoding="utf-8")
