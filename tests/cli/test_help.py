"""Help on one screen, all of it with --help-all; options from the environment, in any case, with suggestions."""

from __future__ import annotations

import inspect
import json
from typing import Literal, get_args, get_origin

import pytest

from quantkit.cli.config_file import read_config
from quantkit.cli.examples import EXAMPLES
from quantkit.cli.help import COMMON
from quantkit.evaluation.limits import Limits
from quantkit.types.option import without_none
from tests.cli.conftest import CALIB
from tests.cli.test_examples import COMMANDS

_LINES, _COLUMNS = 40, 80


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - COMMON.keys()))
def test_help_of_the_other_commands_fits_a_screen_as_it_is(quantkit, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", str(_COLUMNS))
    assert len(quantkit(*name.split(), "--help").out.splitlines()) <= _LINES


@pytest.mark.parametrize("name", COMMON)
def test_short_help_fits_a_screen(quantkit, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", str(_COLUMNS))
    lines = quantkit(*name.split(), "--help").out.splitlines()
    assert len(lines) <= _LINES
    assert lines[-1] == f"  {EXAMPLES[name][0]}"  # never broken, so that it can be copied
    assert max(map(len, lines[:-1])) <= _COLUMNS
    assert all(any(option in line for line in lines) for option in (*COMMON[name].split(), "--help-all"))


@pytest.mark.parametrize(
    ("name", "required"),
    [("calibrate", 2), ("quantize", 2), ("evaluate", 2), ("data check", 2), ("init", 2), ("tune", 3)],
)
def test_short_help_says_which_options_are_required(quantkit, monkeypatch, name, required):
    monkeypatch.setenv("COLUMNS", str(_COLUMNS))
    assert quantkit(*name.split(), "--help").out.count("[required]") == required


def test_short_help_of_quantize_shows_the_formats(quantkit):
    assert "int8|fp8|int4" in quantkit("quantize", "--help").out


@pytest.mark.parametrize("name", COMMON)
def test_help_all_shows_the_rest(quantkit, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "120")
    short, full = (quantkit(*name.split(), option) for option in ("--help", "--help-all"))
    assert (short.code, full.code) == (0, 0)
    assert "--log-file" in full.out
    assert "--log-file" not in short.out
    assert "env var" not in full.out


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("calibrate", "MODEL"), ("cache diff", "FILE FILE"), ("bench", "MODEL..."), ("config", "[COMMAND]...")],
)
def test_the_usage_line_shows_arguments_without_braces(quantkit, monkeypatch, name, arguments):
    monkeypatch.setenv("COLUMNS", "120")
    help_text = quantkit(*name.split(), "--help").out
    assert f"Usage: quantkit {name} [OPTIONS] {arguments}" in [line.strip() for line in help_text.splitlines()]
    assert "list[" not in quantkit("cache", "merge", "--help").out


def test_the_help_of_a_bare_command_ends_with_its_line(quantkit):
    assert quantkit().out.endswith("shows the options of a command.\n")


def test_options_come_from_the_environment_below_the_command_line(quantkit, digits, monkeypatch):
    words = ("calibrate", "--data", CALIB, digits)
    monkeypatch.setenv("QUANTKIT_CALIBRATE_METHOD", "mze")
    assert "there is no 'mze': did you mean 'mse'?" in quantkit(*words).err
    assert "there is no 'xyz'" in quantkit(*words, "--method", "xyz").err


def test_a_loader_can_be_given_as_to_polygraphy(quantkit, digits, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("def load_data(path):\n    yield {'other': 1}\n")
    for option in ("--loader", "--data-loader-script"):
        assert "'other'" in quantkit("calibrate", "--data", CALIB, digits, option, f"{script}:load_data").err


def test_choices_are_taken_in_any_case(quantkit, digits):
    words = ("calibrate", "--data", CALIB, digits, "--num-samples", "4")
    assert quantkit(*words, "--method", "MinMax", "--target", "CPU", "--color", "l").code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_choice_is_taken_in_any_case(name):
    """Those of types by the parser, those of registries when the value is read."""
    command = COMMANDS[name]
    fields = {field.name: field for field in getattr(command.callback, "option_fields", ())}
    for parameter in command.params:
        declared = inspect.signature(command.callback, eval_str=True).parameters.get(parameter.name)
        kind = without_none(get_args(declared.annotation)[0]) if declared and get_args(declared.annotation) else None
        flag = parameter.opts[0]
        for word in get_args(kind) if get_origin(kind) is Literal else ():
            given = command.make_context(name, [flag, word.upper()], resilient_parsing=True).params
            assert given[parameter.name] == word
        field = fields.get(parameter.name)
        for word in field.option.known() if field is not None and field.option.form is None else ():
            assert field.read(word.upper()) == word
        if field is not None and field.default is None:
            assert field.read(None) is None  # and not the preset "none"


def test_variants_and_gates_are_taken_in_any_case(quantkit, digits):
    words = ("evaluate", digits, "--data", CALIB, "--num-samples", "16", "--latency-s", "0", "--layer-samples", "0")
    outcome = quantkit(*words, "--variants", "FP16", "--json")
    assert [found["name"] for found in json.loads(outcome.out)["evaluations"]] == ["fp32", "fp16"]
    assert Limits(gates=["MLPerf-99"]).gates == ("mlperf-99",)


def test_a_choice_in_capitals_in_a_file(tmp_path):
    file = tmp_path / "quantkit.toml"
    file.write_text('[calibrate]\ntarget = "CPU"\n')
    assert read_config(file)["calibrate",] == {"target": "CPU"}


def test_a_mistyped_path_has_a_suggestion(quantkit, digits, tmp_path):
    typed = tmp_path / "digit.onnx"
    assert f"{typed}: no such model file: did you mean {digits}?" in quantkit("calibrate", "--data", CALIB, typed).err
    near = CALIB.with_name("calb")
    assert f"{near} does not exist: did you mean {CALIB}?" in quantkit("calibrate", "--data", near, digits).err


def test_a_version_in_the_environment_is_not_an_option(quantkit, monkeypatch):
    """Pipelines set QUANTKIT_VERSION to say which release they install."""
    monkeypatch.setenv("QUANTKIT_VERSION", "1")
    assert "TensorRT" in quantkit("doctor").out


@pytest.mark.parametrize("command", ["calibrate", "evaluate", "sensitivity", "tune"])
def test_an_empty_path_of_data_is_not_the_working_folder(quantkit, digits, command):
    """As an unset variable of a shell gives it."""
    outcome = quantkit(command, digits, "--data", "", "--dry-run")
    assert outcome.code == 2
    assert "Invalid value for '--data': the path is empty" in outcome.err
