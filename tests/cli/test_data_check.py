"""The data check as a user types it."""

import json
import re

from tests.cli.conftest import CALIB, VAL, conv_model, write_images

FEW = ("--probe-samples", 64)


def test_clean_data_exits_with_0(quantkit, digits):
    outcome = quantkit("data", "check", "--data", CALIB, digits, "--against", VAL, *FEW)
    assert outcome.code == 0, outcome.err
    assert "300 of 300 readable" in outcome.out
    assert outcome.out.endswith("no problems found\n")
    assert "preprocessing: L" in outcome.err


def test_wrong_preprocessing_exits_with_1_and_names_the_options(quantkit, digits):
    outcome = quantkit("data", "check", "--data", VAL, digits, "--scale", 1, "-q", *FEW)
    assert outcome.code == 1
    assert "fix: use --scale 1/255" in outcome.out
    assert outcome.err == ""
    mended = quantkit("data", "check", "--data", VAL, digits, "--scale", "1/255", *FEW)
    assert mended.code == 0


def test_the_best_alternative_is_printed_with_the_interval_of_its_gain(quantkit, digits):
    outcome = quantkit("data", "check", "--data", CALIB, digits, "--probe-samples", "64")
    assert outcome.code == 0
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("best alternative")]
    assert re.search(r"top-1 [\d.]+%, .* \(gain [-+][\d.]+ to [-+][\d.]+ points, 95% interval\) on \d+ samples", line)
    assert line.endswith("not clearly better")
    assert "letterbox" not in line  # images of the model's size have no border
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("preprocessing")]
    assert line.endswith("on 64 samples; 8 alternatives tried on 64 samples")


def test_json_lists_findings(quantkit, digits):
    outcome = quantkit("data", "check", "--data", CALIB, digits, "--against", CALIB, "--probe-samples", 0, "--json")
    assert outcome.code == 1
    content = json.loads(outcome.out)
    assert content["passed"] is False
    assert content["findings"][0]["check"] == "overlap"
    assert len(content["findings"][0]["where"]) == 300


def test_long_lists_are_truncated_on_a_terminal(quantkit, digits):
    outcome = quantkit("data", "check", "--data", CALIB, digits, "--against", CALIB, "--probe-samples", 0)
    assert "and 295 more" in outcome.out


def test_warnings_alone_exit_with_0(quantkit, tmp_path):
    model, data = conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "data", 4)
    (data / "photo.heic").write_bytes(b"x")
    outcome = quantkit("data", "check", "--data", data, model)
    assert outcome.code == 0, outcome.out
    assert "warning: suffix" in outcome.out
    assert "warning: number" in outcome.out


def test_hostile_file_names_are_escaped(quantkit, tmp_path):
    model, data = conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "data", 3)
    (data / "\x1b[31m[red]\n.png").write_bytes(b"")
    outcome = quantkit("data", "check", "--data", data, model)
    assert outcome.code == 1
    assert "\x1b" not in outcome.out
    assert "[red]" in outcome.out


def test_missing_data_is_one_line(quantkit, digits, tmp_path):
    outcome = quantkit("data", "check", "--data", tmp_path / "nowhere", digits)
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
