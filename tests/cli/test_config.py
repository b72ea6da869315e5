"""`quantkit config` and --config: what is printed is read back, the command line wins, mistakes are named."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import get_origin

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.cli import VERBS, app
from quantkit.cli.config_file import _keys, configurable, format_section, read_config
from quantkit.types.option import without_none
from tests.cli.conftest import CALIB

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SECTIONS = {words: command for verb in VERBS for words, command in configurable(verb).items()}

VALUES = {
    "size": "4x6",
    "scale": "1/255",
    "mean": "1.0,2.0",
    "std": "0.5",
    "batch_sizes": "1,8",
    "classes": "names.txt",
    "variant": ["a=b.onnx", "c=d.onnx"],
    "engine": ["e=f.engine"],
    "batch_axis": ["state=1", "a=b=2"],
    "constant": ["sr=16000", "threshold=0.5"],
    "state": ["h=hn", "c=a=b"],
    "max_drop": "1%",
    "gate": ["mlperf-99"],
    "workspace": "64M",
    "io_formats": ["x:fp16:chw", "y:int8:chw32"],
    "layer_precisions": ["conv1:fp16", "head*:fp32"],
    "percentile": "50,99.5",
}
"""Of options whose text has a form."""


def value_of(key):
    """A value other than the default."""
    takes_many = get_origin(without_none(key.kind)) is list
    is_number = without_none(key.kind) in (int, float)  # --percentile of calibrate; bench takes several
    if key.name in VALUES and isinstance(VALUES[key.name], list) == takes_many and not is_number:
        return VALUES[key.name]
    if key.choices:
        return next(choice for choice in reversed(key.choices) if choice != key.default)
    kind = without_none(key.kind)
    if kind is bool:
        return not key.default
    if kind in (int, float):
        return (key.default or 1) + 3
    return ["some text", "more"] if takes_many else "some text"


def typed(key, value) -> list[str]:
    """The words that give it."""
    flag = "--" + key.name.replace("_", "-")
    values = value if isinstance(value, list) else [value]
    if value is False:
        return [f"--no-{flag.removeprefix('--')}"]
    return [flag] if value is True else [word for item in values for word in (flag, str(item))]


def parse(section, *words: str):
    """What the command is called with."""
    context = typer.main.get_command(app).make_context("quantkit", [section[0]])
    for name in section[:-1]:
        context = type(context)(SECTIONS[section], info_name=name, parent=context)
    return SECTIONS[section].make_context(section[-1], list(words), parent=context).params


def arguments(section) -> list[str]:
    """As many as it needs."""
    found = [parameter for parameter in SECTIONS[section].params if not parameter.opts[0].startswith("-")]
    required = [p for p in SECTIONS[section].params if p.required and p.opts[0].startswith("-")]
    return ["file"] * len(found) + [word for p in required for word in (p.opts[0], "needed")]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("cat\ndog\n")


CASES = [(section, key) for section, command in SECTIONS.items() for key in _keys(command)]


@pytest.mark.parametrize(("section", "key"), CASES, ids=[".".join([*section, key.name]) for section, key in CASES])
def test_every_option_is_read_back_as_the_command_line_gives_it(section, key):
    value = value_of(key)
    assert value != key.default
    file = Path("quantkit.toml")
    file.write_text(format_section(section, SECTIONS[section], {key.name: value}), encoding="utf-8")
    assert read_config(file)[section][key.name] == value
    needed = arguments(section)
    of_file = parse(section, *needed, "--config", str(file))
    if typed(key, value)[0] in needed:  # the command line wins
        assert str(of_file[key.parameter]) == "needed"
        return
    assert of_file == {**parse(section, *needed, *typed(key, value)), "config": file}
    assert of_file != {**parse(section, *needed), "config": file}


@pytest.mark.parametrize("section", SECTIONS, ids=".".join)
def test_what_config_prints_of_a_file_is_that_file(section, quantkit):
    values = {key.name: value_of(key) for key in _keys(SECTIONS[section])}
    Path("a.toml").write_text(format_section(section, SECTIONS[section], values), encoding="utf-8")
    printed = quantkit("config", *section, "--config", "a.toml")
    assert printed.code == 0, printed.err
    assert printed.out == Path("a.toml").read_text(encoding="utf-8")


def test_defaults_change_nothing(quantkit):
    Path("all.toml").write_text(quantkit("config").out, encoding="utf-8")
    assert set(tomllib.loads(Path("all.toml").read_text(encoding="utf-8"))) == {words[0] for words in SECTIONS}
    for section in SECTIONS:
        of_file = parse(section, *arguments(section), "--config", "all.toml")
        assert {**of_file, "config": None} == parse(section, *arguments(section))


@settings(max_examples=200)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), st.floats(allow_nan=False))
def test_any_text_and_number_is_read_back(texts, number):
    written = format_section(("calibrate",), SECTIONS["calibrate",], {"exclude": texts, "percentile": number})
    assert (
        tomllib.loads(written)["calibrate"] | {"exclude": texts, "percentile": number}
        == tomllib.loads(written)["calibrate"]
    )


def test_the_command_line_goes_before_the_file_and_the_file_before_defaults(quantkit, digits):
    Path("q.toml").write_text(
        f'[calibrate]\ndata = "{CALIB}"\nmethod = "mse"\nnum_samples = 100\nexclude = ["Gemm"]\nscale = 0.00390625\n'
        "[evaluate]\nnum_samples = 7\n"
    )
    outcome = quantkit("calibrate", digits, "--config", "q.toml", "--method", "minmax")
    assert outcome.code == 0, outcome.err
    table = json.loads(digits.with_suffix(".calib.json").read_text())
    assert (table["settings"]["method"], table["dataset"]["num_samples"]) == ("minmax", 100)
    assert table["preprocessing"]["scale"] == 1 / 256
    assert "Excluded from quantization" in outcome.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[calibrate]\nmehtod = "mse"', "q.toml: [calibrate] mehtod is no option: did you mean 'method'?"),
        ("[calibrate]\nbatch-size = 1", "q.toml: [calibrate] batch-size is no option: did you mean 'batch_size'?"),
        ('[calibrate]\nconfig = "a"', "q.toml: [calibrate] config is no option: choose one of data, "),
        ('[calibrate]\nmethod = "mes"', "q.toml: [calibrate] method: there is no 'mes': did you mean 'mse'?"),
        ('[calibrate]\ncolor = "xyz"', "q.toml: [calibrate] color: there is no 'xyz': choose one of "),
        ('[calibrate]\nseed = "1"', 'q.toml: [calibrate] seed: "1" is not a whole number'),
        ("[calibrate]\nseed = true", "q.toml: [calibrate] seed: true is not a whole number"),
        ("[calibrate]\npercentile = [99]", "q.toml: [calibrate] percentile: [99] is not a number"),
        ("[calibrate]\nstrict = 1", "q.toml: [calibrate] strict: 1 is not true or false"),
        ('[calibrate]\nexclude = "Gemm"', 'q.toml: [calibrate] exclude: "Gemm" is not a list of texts'),
        ("[calibrate]\nmethod = 3", "q.toml: [calibrate] method: 3 is not a text"),
        ('[calibrate]\nsize = "big"', "q.toml: [calibrate] size: --size: invalid size 'big', expected "),
        ('[evaluate]\nengine = ["e"]', "q.toml: [evaluate] engine: --engine: 'e' is not NAME=PATH"),
        ('[evaluate]\nbatch_sizes = "0"', "q.toml: [evaluate] batch_sizes: --batch-sizes '0': '0' is not a batch size"),
        ("[calibrat]\nseed = 1", "q.toml: there is no section [calibrat]: did you mean 'calibrate'?"),
        ("[inspect]", "q.toml: there is no section [inspect]: choose one of calibrate, "),
        ("[cache.verfy]", "q.toml: there is no section [cache.verfy]: did you mean 'cache.verify'?"),
        ("[cache]\nseed = 1", "q.toml: there is no section [cache]: "),
        ('method = "mse"', "q.toml: method is in no section; put it below one, such as [calibrate]"),
        ("[calibrate", "q.toml: "),
    ],
)
def test_a_mistake_names_the_file_the_place_and_the_remedy(text, message, quantkit):
    Path("q.toml").write_text(text)
    outcome = quantkit("calibrate", "net.onnx", "--data", "nowhere", "--config", "q.toml")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"quantkit: error: {message}")
    assert outcome.err.count("\n") == 1


def test_a_file_that_cannot_be_read_is_named(quantkit):
    assert "cannot read none.toml: No such file" in quantkit("config", "--config", "none.toml").err
    Path("latin.toml").write_bytes(b"# caf\xe9\n")
    assert "error: latin.toml: " in quantkit("config", "--config", "latin.toml").err


def test_a_byte_order_mark_is_no_part_of_the_file(quantkit):
    Path("windows.toml").write_bytes(b'\xef\xbb\xbf[calibrate]\r\nmethod = "mse"\r\n')
    assert 'method = "mse"' in quantkit("config", "calibrate", "--config", "windows.toml").out


def test_config_of_a_command_without_options_names_others(quantkit):
    outcome = quantkit("config", "calibrat")
    assert outcome.code == 2
    assert "no command 'calibrat' takes a configuration file: did you mean 'calibrate'?" in outcome.err
    assert [line for line in quantkit("config", "cache").out.splitlines() if line.startswith("[")] == [
        "[cache.verify]",
        "[cache.merge]",
    ]
