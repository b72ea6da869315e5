"""Configuration files: TOML with a section for each command, whose keys are the command's options.

A value of the file takes the place of its option's default and is read as typed text is, so that the command line goes
before the file.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from quantkit.cli import VERBS, load_command
from quantkit.cli.arguments import with_parameters
from quantkit.errors import OptionError, QuantKitError
from quantkit.machine import decode_text, read_input
from quantkit.registry import suggest
from quantkit.types.option import NOUNS, OptionField, without_none

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Section = tuple[str, ...]
"""Words of a command: ("cache", "verify") is the table [cache.verify]."""


@dataclass(frozen=True)
class _Key:
    """An option as a key of a configuration file.

    Attributes:
        name: in the file.
        parameter: of the command's function.
        kind: type of the value, as on the command line.
        default: likewise.
        help: one sentence.
        field: of the options dataclass that the value goes to, if any.
    """

    name: str
    parameter: str
    kind: Any
    default: Any
    help: str
    field: OptionField | None

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed values; none where it is not one of a few."""
        if self.field is not None and not self.field.option.is_open and (known := self.field.option.known()):
            return known
        kind = without_none(self.kind)
        return get_args(kind) if get_origin(kind) is Literal else ()

    def check(self, value: Any) -> Any:
        """What stands for `value` on the command line.

        Raises:
            ValueError: it is of the wrong type, or not among the choices.
            QuantKitError: the option cannot be that.
        """
        kind = without_none(self.kind)
        if value == "" != self.default:
            raise ValueError("it is empty")
        if get_origin(kind) is list:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ValueError(f"{_show(value)} is not a list of texts")
        elif kind in _TYPES:
            if not isinstance(value, _TYPES[kind]) or isinstance(value, bool) != (kind is bool):
                raise ValueError(f"{_show(value)} is not {NOUNS[kind]}")
        else:
            if self.field is not None and self.field.option.form is not None:
                value = _join(value)
            if not isinstance(value, str):
                raise ValueError(f"{_show(value)} is not a text")
            if self.choices and value.lower() not in map(str.lower, self.choices):
                raise ValueError(f"there is no {value!r}: {suggest(value, self.choices)}")
        if self.field is not None:
            self.field.read(value)
        return value


_TYPES: Mapping[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float)}


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the option --config."""

    def apply(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None:
            given = read_config(path).get(_section(context), {})
            names = {key.name: key.parameter for key in _keys(context.command)}
            context.default_map = {names[name]: value for name, value in given.items()}
        return path

    @functools.wraps(command)
    def run(*, config: Path | None = None, **arguments: Any) -> None:
        command(**arguments)

    annotation = Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Read options from this TOML file; those given here take precedence. `quantkit config` prints one.",
            is_eager=True,
            callback=apply,
        ),
    ]
    added = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    return with_parameters(run, [*inspect.signature(command, eval_str=True).parameters.values(), added])


def configurable(verb: str) -> dict[Section, Any]:
    """The commands of a verb that take a configuration file, by their words, as typer made them."""
    command = load_command(verb)
    inner = getattr(command, "commands", None)
    commands = {(verb,): command} if inner is None else {(verb, name): sub for name, sub in inner.items()}
    return {words: found for words, found in commands.items() if _fields(found)}


def read_config(path: Path) -> dict[Section, dict[str, Any]]:
    """The values that a TOML file gives, by section and key, all of them checked.

    Raises:
        OptionError: the file cannot be read, or a section, key or value is wrong; it names the file and the place.
    """
    stored = read_input(path, OptionError)
    try:
        document = tomllib.loads(decode_text(stored, "utf-8-sig"))  # as editors on Windows write it
    except ValueError as error:  # of TOML, or of UTF-8
        raise OptionError(f"{path}: {error}") from None
    found: dict[Section, dict[str, Any]] = {}
    for section, values in _tables(document):
        if not section:
            raise OptionError(f"{path}: {next(iter(values))} is in no section; put it below one, such as [calibrate]")
        commands = configurable(section[0]) if section[0] in VERBS else {}
        if section not in commands:
            known = [".".join(words) for verb in VERBS for words in configurable(verb)]
            name = ".".join(section)
            raise OptionError(f"{path}: there is no section [{name}]: {suggest(name, known)}")
        keys = {key.name: key for key in _keys(commands[section])}
        found[section] = {}
        for name, value in values.items():
            place = f"{path}: [{'.'.join(section)}] {name}"
            if name not in keys:
                raise OptionError(f"{place} is no option: {suggest(name, keys)}")
            try:
                found[section][name] = keys[name].check(value)
            except (ValueError, QuantKitError) as error:
                raise OptionError(f"{place}: {error}") from None
    return found


def format_section(section: Section, command: Any, given: Mapping[str, Any]) -> str:
    """A section with every option of a command, each below its help text.

    Args:
        section: its name.
        command: as typer made it.
        given: values by key; the other keys have their default, or are commented out where that is no value.
    """
    parts = [f"[{'.'.join(section)}]\n"]
    for key in _keys(command):
        value = given.get(key.name, key.default)
        written = f"{key.name} = {_show(value)}" if value is not None else f"# {key.name} ="
        choices = f" One of {', '.join(key.choices)}." if key.choices else ""
        parts.append(f"# {key.help}{choices}\n{written}\n")
    return "\n".join(parts)


def section_values(command: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a command by its key: what is given, else its default; None where that is no value."""
    return {key.name: given.get(key.name, key.default) for key in _keys(command)}


def _section(context: Any) -> Section:
    """The command that is being parsed."""
    return () if context.parent is None else (*_section(context.parent), str(context.info_name))


def _fields(command: Any) -> tuple[OptionField, ...]:
    """The options that a command got from dataclasses."""
    return getattr(command.callback, "option_fields", ())


def _keys(command: Any) -> Iterator[_Key]:
    """The options of a command: those of its dataclasses and its own, but neither its arguments nor --config."""
    fields = {field.name: field for field in _fields(command)}
    signature = inspect.signature(command.callback, eval_str=True)
    for option in command.params:
        flag = option.opts[0]
        if option.name in signature.parameters and flag.startswith("--") and flag not in ("--config", "--help-all"):
            found = signature.parameters[option.name]
            default = None if found.default is inspect.Parameter.empty else found.default
            kind = get_args(found.annotation)[0]
            key = flag.removeprefix("--").replace("-", "_")
            yield _Key(key, option.name, kind, default, option.help, fields.get(option.name))


def _tables(table: Mapping[str, Any], section: Section = ()) -> Iterator[tuple[Section, dict[str, Any]]]:
    """Every table of a document with the values that are directly in it."""
    values = {name: value for name, value in table.items() if not isinstance(value, dict)}
    if values or (section and not table):
        yield section, values
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _tables(value, (*section, name))


def _join(value: Any) -> Any:
    """Text of numbers: 0.5 → "0.5", [480, 640] → "480,640"."""
    if isinstance(value, list) and value:
        return ",".join(str(_join(item)) for item in value)
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _show(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_show, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
