"""Help on one screen, all of it with --help-all; options from the environment, in any case, with suggestions."""

from __future__ import annotations

import pytest

from quantkit.cli.examples import EXAMPLES
from quantkit.cli.help import COMMON
from tests.cli.conftest import CALIB

_LINES, _COLUMNS = 40, 80


@pytest.mark.parametrize("name", COMMON)
def test_short_help_fits_a_screen(quantkit, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", str(_COLUMNS))
    lines = quantkit(*name.split(), "--help").out.splitlines()
    assert len(lines) <= _LINES
    assert lines[-1] == f"  {EXAMPLES[name][0]}"  # never broken, so that it can be copied
    assert max(map(len, lines[:-1])) <= _COLUMNS
    assert all(any(option in line for line in lines) for option in (*COMMON[name].split(), "--help-all"))


@pytest.mark.parametrize("name", COMMON)
def test_help_all_shows_the_rest(quantkit, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "120")
    short, full = (quantkit(*name.split(), option) for option in ("--help", "--help-all"))
    assert (short.code, full.code) == (0, 0)
    assert "--log-file" in full.out
    assert "--log-file" not in short.out
    assert "env var" not in full.out


def test_options_come_from_the_environment_below_the_command_line(quantkit, digits, monkeypatch):
    words = ("calibrate", "--data", CALIB, digits)
    monkeypatch.setenv("QUANTKIT_CALIBRATE_METHOD", "mze")
    assert "there is no 'mze': did you mean 'mse'?" in quantkit(*words).err
    assert "there is no 'xyz'" in quantkit(*words, "--method", "xyz").err


def test_choices_are_taken_in_any_case(quantkit, digits):
    words = ("calibrate", "--data", CALIB, digits, "--num-samples", "4")
    assert quantkit(*words, "--method", "MinMax", "--target", "CPU", "--color", "l").code == 0


def test_a_mistyped_path_has_a_suggestion(quantkit, digits, tmp_path):
    typed = tmp_path / "digit.onnx"
    assert f"{typed}: no such model file: did you mean {digits}?" in quantkit("calibrate", "--data", CALIB, typed).err
    near = CALIB.with_name("calb")
    assert f"{near} does not exist: did you mean {CALIB}?" in quantkit("calibrate", "--data", near, digits).err


def test_a_version_in_the_environment_is_not_an_option(quantkit, monkeypatch):
    """Pipelines set QUANTKIT_VERSION to say which release they install."""
    monkeypatch.setenv("QUANTKIT_VERSION", "1")
    assert "TensorRT" in quantkit("doctor").out
