"""The command `sensitivity`: the ranking as text, as JSON and as a page."""

import json
import re
from dataclasses import replace

import pytest

from quantkit.calibration.table import load_table, save_table
from tests.cli.conftest import CALIB, conv_model, write_images


@pytest.fixture
def model(tmp_path):
    write_images(tmp_path / "images", 12)
    return conv_model(tmp_path / "net.onnx")


def test_ranking_is_printed(quantkit, model, tmp_path):
    outcome = quantkit("sensitivity", model, "--data", tmp_path / "images", "--top", 1)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert re.fullmatch(r"everything in INT8: relative error [\d.]+ \(12 samples\)", lines[0])
    assert sum(line.split()[:1] == ["1"] for line in lines) == 2
    assert "and 1 operator more (--top 0 lists them)" in outcome.out


def test_what_the_table_leaves_in_float_is_not_called_int8(quantkit, model, tmp_path):
    words = ("--data", tmp_path / "images")
    assert quantkit("calibrate", model, *words, "--accuracy", "fast").code == 0
    table = load_table(tmp_path / "net.calib.json")
    save_table(replace(table, float_tensors={"x": "more accurate in float"}), tmp_path / "float.calib.json")
    outcome = quantkit("sensitivity", model, *words, "--table", tmp_path / "float.calib.json", "-o", tmp_path / "out")
    said = "verything in INT8 but 1 tensor that calibration left in float: relative error "
    assert said in outcome.out
    assert said in (tmp_path / "out" / "sensitivity.html").read_text()


def test_quiet_prints_no_ranking_that_is_written(quantkit, model, tmp_path):
    words = ("sensitivity", model, "--data", tmp_path / "images", "-q")
    outcome = quantkit(*words, "-o", tmp_path / "out")
    assert [line.split()[0] for line in outcome.out.splitlines()] == ["wrote", "wrote"]


def test_a_name_that_ends_in_json_is_the_file(quantkit, model, tmp_path):
    words = ("sensitivity", model, "--data", tmp_path / "images", "-q", "-o", tmp_path / "s.json")
    told = json.loads(quantkit(*words, "--dry-run", "--json").out)["writes"]
    assert quantkit(*words).code == 0
    assert (tmp_path / "s.json").is_file()
    assert list(told) == [str(tmp_path / "s.html"), str(tmp_path / "s.json")]
    assert quantkit(*words[:-1], tmp_path / "page.html").code == 2


def test_json_and_page_hold_every_unit(quantkit, model, tmp_path):
    words = ("sensitivity", model, "--data", tmp_path / "images", "--json", "--output", tmp_path / "out")
    outcome = quantkit(*words)
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found == json.loads((tmp_path / "out" / "sensitivity.json").read_text())
    page = (tmp_path / "out" / "sensitivity.html").read_text()
    for unit in found["units"]:
        assert f"<bdi>{unit['name']}</bdi>" in page
    assert page.count('class="level"') == len(found["units"])


def test_names_of_a_model_are_escaped_on_the_page(quantkit, model, tmp_path):
    hostile = tmp_path / "<b>net.onnx"
    hostile.write_bytes(model.read_bytes())
    assert quantkit("sensitivity", hostile, "--data", tmp_path / "images", "-o", tmp_path / "out").code == 0
    assert "&lt;b&gt;net.onnx" in (tmp_path / "out" / "sensitivity.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--num-samples", "0"], 2, "--num-samples 0"),
        (["--top", "-1"], 2, "--top"),
        (["--table", "nothing.calib.json"], 1, "nothing.calib.json"),
    ],
)
def test_wrong_options_are_one_line(quantkit, model, tmp_path, words, code, named):
    outcome = quantkit("sensitivity", model, "--data", CALIB, *words)
    assert outcome.code == code
    assert named in outcome.err
    assert "Traceback" not in outcome.err
