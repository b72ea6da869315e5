"""Help on one screen, all of it with --help-all; options from the environment, in any case, with suggestions."""

from __future__ import annotations

import inspect
import json
from typing import Literal, get_args, get_origin

import pytest

from quantkit.cli.config_file import read_config
from quantkit.cli.examples import EXAMPLES
from quantkit.cli.help import COMMON
from quantkit.datasets.presets import PRESETS
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
    [("calibrate", 2), ("quantize", 1), ("evaluate", 2), ("data check", 2), ("init", 2), ("tune", 3)],
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


@pytest.mark.parametrize("name", ["", "cache", "data", "export", "cache show", "doctor"])
def test_help_is_plain_text_in_one_style(quantkit, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", str(_COLUMNS))
    words = "COMMAND [ARGUMENTS] [OPTIONS]" if name in ("", "cache", "data", "export") else "[OPTIONS]"
    for option in ("--help", "--help-all") if name in COMMANDS else ("--help",):
        lines = quantkit(*name.split(), option).out.splitlines()
        assert lines[0].startswith(f"Usage: {' '.join(['quantkit', *name.split()])} {words}")
        assert all(line.isascii() and len(line) <= _COLUMNS for line in lines)


def test_an_option_stays_whole_in_the_help(quantkit, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(_COLUMNS))
    assert not [line for line in quantkit("evaluate", "--help-all").out.splitlines() if line.endswith("-")]


def test_the_help_of_a_bare_command_ends_with_its_line(quantkit):
    assert quantkit().out.endswith("shows the options of a command.\n")


@pytest.mark.parametrize("words", [(), ("cache",), ("data",)])
def test_the_options_for_help_have_one_order(quantkit, words):
    assert "  -h, --help  " in quantkit(*words, "--help").out


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
    (link := tmp_path / "link").symlink_to("nowhere")
    assert f"{link} is a link to nothing" in quantkit("calibrate", "--data", link, digits).err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build", "--minShapes=x:1x3"], "No such option: --minShapes (Possible options: --min-shapes) ("),
        (["build", "--fp16"], "No such option: --fp16 (Possible options: --precision) ("),
        (["build", "--saveEngine=x"], "No such option: --saveEngine (Possible options: --output) ("),
        (["build", "--out", "x"], "No such option: --out (Possible options: --output) ("),
        (["calibrate", "--num-sample", "8"], "No such option: --num-sample (Possible options: --num-samples) ("),
        (["calibrate", "--int8"], "No such option: --int8 (quantkit calibrate --help)"),
        (["calibrate", "--onnx=x"], "No such option: --onnx (quantkit calibrate --help)"),
    ],
)
def test_options_of_trtexec_have_the_suggestion_that_fits(quantkit, digits, words, said):
    assert said in quantkit(words[0], digits, *words[1:]).err


def test_an_option_without_its_value_names_the_help_of_its_command(quantkit):
    outcome = quantkit("report", "report.json", "--chart")
    assert (outcome.code, outcome.err) == (
        2,
        "quantkit: error: Option '--chart' requires an argument (quantkit report --help)\n",
    )


def test_a_version_in_the_environment_is_not_an_option(quantkit, monkeypatch):
    """Pipelines set QUANTKIT_VERSION to say which release they install."""
    monkeypatch.setenv("QUANTKIT_VERSION", "1")
    assert "TensorRT" in quantkit("doctor").out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("calibrate", "m.onnx", "--data", "d", "-o", ""), "'--output'"),
        (("calibrate", "m.onnx", "--data", "d", "--output="), "'--output'"),
        (("evaluate", "m.onnx", "--data", "d", "--table", ""), "'--table'"),
        (("evaluate", "m.onnx", "--data", "d", "--labels", "", "--task", "detect"), "'--labels'"),
        (("evaluate", "m.onnx", "--data", "d", "--plan", ""), "'--plan'"),
        (("build", "m.onnx", "--calib", ""), "'--calib'"),
        (("bench", "m.onnx", "--export-times", ""), "'--export-times'"),
        (("compare", "r.json", "--junit", ""), "'--junit'"),
        (("calibrate", "m.onnx", "--config", "", "--data", "d"), "'--config'"),
        (("calibrate", "m.onnx", "--data", "d", "--log-file", ""), "'--log-file'"),
        (("cache", "convert", "c", "--to", "qdq", "--model", ""), "'--model'"),
        (("inspect", ""), "an argument"),
        (("report", "--force", ""), "an argument"),
    ],
)
def test_an_empty_value_is_refused_and_its_option_named(quantkit, words, named):
    outcome = quantkit(*words)
    assert outcome.code == 2
    assert f"Invalid value for {named}: it is empty" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_an_empty_value_in_a_file_is_refused(quantkit, digits, tmp_path):
    (tmp_path / "q.toml").write_text('[evaluate]\ntable = ""\n')
    outcome = quantkit("evaluate", digits, "--data", "x", "--config", tmp_path / "q.toml")
    assert "[evaluate] table: it is empty" in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("calibrate", "m.onnx", "--data", "d", "--target", "tensort"),
            "--target: there is no 'tensort': did you mean",
        ),
        (("calibrate", "m.onnx", "--data", "d", "--method", "x"), "--method: there is no 'x': choose one of auto, "),
        (
            ("calibrate", "m.onnx", "--data", "d", "--rounding=x"),
            "--rounding: there is no 'x': choose one of feedback, ",
        ),
        (
            ("evaluate", "m.onnx", "--data", "d", "--variants", "int9"),
            "--variants: there is no 'int9': did you mean 'int8'?",
        ),
        (
            ("evaluate", "m.onnx", "--data", "d", "--task", "paint"),
            "--task: there is no 'paint': choose one of classify, ",
        ),
        (("compare", "r.json", "--gate", "mine"), "--gate: there is no 'mine': choose one of mlperf-99, "),
        (("cache", "convert", "c", "--to", "x"), "--to: there is no 'x': choose one of tensorrt, "),
    ],
)
def test_unknown_choices_are_refused_in_one_style(quantkit, words, said):
    outcome = quantkit(*words)
    assert outcome.code in (1, 2)
    assert outcome.err.startswith(f"quantkit: error: {said}")
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("calibrate", "m.onnx", "--data", "d", "--num-samples", "abc"), "--num-samples: 'abc' is not a whole number"),
        (("calibrate", "m.onnx", "--data", "d", "--num-samples", "-3"), "--num-samples -3 must be at least 1"),
        (("evaluate", "m.onnx", "--data", "d", "--latency-s", "1,5"), "--latency-s: '1,5' is not a number"),
        (("sensitivity", "m.onnx", "--data", "d", "--top", "-1"), "--top -1 must be at least 0"),
        (("evaluate", "m.onnx", "--data", "d", "--threads", "99999"), "--threads 99999 must be at most 4096"),
        (("evaluate", "m.onnx", "--data", "d", "--latency-s", "inf"), "--latency-s inf must be finite"),
        (("bench", "m.onnx", "--duration", "nan"), "--duration nan must be 0 or more"),
        (("bench", "m.onnx", "--duration", "inf"), "--duration inf must be finite"),
        (("selftest", "m.onnx", "--data", "d", "--latency-s", "inf"), "--latency-s inf must be finite"),
        (("bench", "m.onnx", "--iterations", "1.5"), "--iterations: '1.5' is not a whole number"),
        (
            ("sensitivity", "m.onnx", "--data", "d", "--top", "9" * 5000),
            "--top: a number of 5000 digits is beyond 9007199254740992, the largest",
        ),
    ],
)
def test_a_bad_number_is_repeated_with_its_option_and_what_is_accepted(quantkit, words, said):
    assert quantkit(*words).err == f"quantkit: error: {said}\n"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("NUM_SAMPLES", "abc", "--num-samples: 'abc' is not a whole number"),
        ("NUM_SAMPLES", "-3", "--num-samples -3 must be at least 1"),
        ("TARGET", "fpga", "--target: there is no 'fpga': choose one of tensorrt, cpu"),
        ("METHOD", "ent", "--method: there is no 'ent': did you mean 'entropy'?"),
        ("STRICT", "maybe", "--strict: 'maybe' is not true or false"),
        ("JSON", "maybe", "--json: 'maybe' is not true or false"),
        ("SIZE", "big", "--size: invalid size 'big', expected e.g. 224 or 480x640"),
    ],
)
def test_a_bad_value_of_the_environment_names_its_variable(quantkit, monkeypatch, option, value, said):
    monkeypatch.setenv(f"QUANTKIT_CALIBRATE_{option}", value)
    outcome = quantkit("calibrate", "m.onnx", "--data", "d")
    assert outcome.err == f"quantkit: error: {said} (set in the environment: QUANTKIT_CALIBRATE_{option})\n"


@pytest.mark.parametrize("command", ["bench", "report", "cache merge"])
def test_types_are_named_in_words(quantkit, command):
    assert "list[" not in quantkit(*command.split(), "--help-all").out


def test_the_short_help_names_every_preset(quantkit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = quantkit("calibrate", "--help").out
    assert all(f" {name}," in shown for name in PRESETS)


@pytest.mark.parametrize("command", ["calibrate", "evaluate", "sensitivity", "tune"])
def test_an_empty_path_of_data_is_not_the_working_folder(quantkit, digits, command):
    """As an unset variable of a shell gives it."""
    outcome = quantkit(command, digits, "--data", "", "--dry-run")
    assert outcome.code == 2
    assert "Invalid value for '--data': it is empty" in outcome.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["quantize", "m.onnx", "--accuracy", "best"], "quantkit calibrate m.onnx --data DATA --accuracy best"),
        (["quantize", "m.onnx", "--data=a b", "--seed=1"], "quantkit calibrate m.onnx --data 'a b' --seed 1"),
        (["calibrate", "m.onnx", "--data", "d", "--list-float"], "quantkit quantize m.onnx --list-float"),
        (["quantize", "--no-all-tensors"], "quantkit calibrate MODEL --data DATA --no-all-tensors"),
    ],
)
def test_an_option_of_another_command_is_shown_there(quantkit, words, line):
    outcome = quantkit(*words)
    assert (outcome.code, outcome.err.endswith(f"it is an option of `{line.split()[1]}`: `{line}`\n")) == (2, True)
