"""The options of a command, generated from the dataclasses among its parameters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from itertools import chain
from typing import Annotated, Any, get_args

import typer

from quantkit.cli.arguments import with_parameters
from quantkit.cli.config_file import with_config
from quantkit.errors import QuantKitError
from quantkit.types.option import OptionField, option_fields, without_none

GROUPS = (
    *("", "Data", "Images", "Task", "Precision", "Shapes", "Latency", "Gate", "Reuse", "Engine", "Expert", "Messages"),
)
"""Headings in the order of the help: what most people need first."""


class OptionCheckError(QuantKitError):
    """What the dataclass of a command's options refused, with the exit code of its class."""

    def __init__(self, refusal: QuantKitError) -> None:
        super().__init__(str(refusal))
        self.exit_code = refusal.exit_code


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command --config and the options of every dataclass among its parameters, and it the filled dataclass.

    Typer reads options from a signature: this one is the command's, with each dataclass replaced by its fields. A
    dataclass that may be None is None where nothing was said. What several dataclasses share is one option.
    """
    signature = inspect.signature(command, eval_str=True)
    kinds = {name: kind for name, p in signature.parameters.items() if (kind := _options_kind(p.annotation))}
    found = {name: tuple(option_fields(kind)) for name, kind in kinds.items()}
    fields: dict[str, OptionField] = {}
    for field in chain.from_iterable(found.values()):
        assert fields.setdefault(field.name, field) == field, f"two options are called {field.flags[0]}"

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        said = {name: arguments.pop(name) for name in fields}
        try:
            for name, kind in kinds.items():
                given = {field: field.read(said[field.name]) for field in found[name]}
                arguments[name] = _build(kind, given, ())
                if signature.parameters[name].default is None and arguments[name] == kind():
                    arguments[name] = None
        except QuantKitError as error:
            raise OptionCheckError(error) from error
        command(**arguments)

    own = [
        p.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for name, p in signature.parameters.items()
        if name not in kinds
    ]
    generated = sorted(map(_parameter, fields.values()), key=_rank)
    run.option_fields = tuple(fields.values())  # type: ignore[attr-defined]
    return with_config(with_parameters(run, sorted([*own, *generated], key=_rank)))


def _options_kind(annotation: Any) -> type | None:
    """The dataclass of options that a parameter holds."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and is_dataclass(kind) and any(option_fields(kind)):
            return kind
    return None


def _build(kind: type, given: Mapping[OptionField, Any], path: tuple[str, ...]) -> Any:
    """The dataclass at `path`, and those nested in it, of the values that were given."""
    values: dict[str, Any] = {}
    for field, value in given.items():
        if field.path[:-1] == path:
            values[field.path[-1]] = value
    for name, owned in kind.__dataclass_fields__.items():  # type: ignore[attr-defined]
        if "owned_by" in owned.metadata:
            inside = {field.path[-1]: value for field, value in given.items() if field.path[:-1] == (*path, name)}
            values[name] = {key: value for key, value in inside.items() if value is not None}
    for name, inner in _nested(kind):
        made = _build(inner, given, (*path, name))
        values[name] = made if made != inner() else kind.__dataclass_fields__[name].default  # type: ignore[attr-defined]
    return kind(**values)


def _nested(kind: type) -> Iterator[tuple[str, type]]:
    for name, field in kind.__dataclass_fields__.items():  # type: ignore[attr-defined]
        if (inner := field.metadata.get("nested")) is not None:
            yield name, inner


def _parameter(field: OptionField) -> inspect.Parameter:
    """The option as typer reads it from a signature."""
    option, names = field.option, field.option.known()
    metavar = option.unit.upper() or None
    help = option.help
    if names and option.is_open:
        shown = ", ".join(names)
        help = help.replace("{known}", shown) if "{known}" in help else f"{help} Known: {shown}."
    elif names:
        metavar = f"[{'|'.join(names)}]"
    if option.default_text:
        help = f"{help.removesuffix('.')} (default: {option.default_text})."
    flags = field.flags
    kind: Any = str if option.form is not None else without_none(field.kind)
    default = None if field.default == () else field.write(field.default)
    if field.is_list:
        kind, metavar = list[str], metavar or "TEXT"
    elif kind is bool and default is not False:
        flags = (f"{flags[0]}/--no-{flags[0].removeprefix('--')}",)
    described = typer.Option(
        *flags,
        help=help,
        rich_help_panel=option.group or None,
        metavar=metavar,
        show_default=default is not None and default is not False,
        autocompletion=_completion(names) if names else None,
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=default,
        annotation=Annotated[kind if default is not None else kind | None, described],
    )


def _completion(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Names that begin as what is typed, after the commas of a list; where none does, shells offer files."""

    def complete(incomplete: str) -> list[str]:
        head, comma, last = incomplete.rpartition(",")
        left = [name for name in names if name not in head.split(",")]
        return [f"{head}{comma}{name}" for name in left if name.startswith(last)]

    return complete


def _rank(parameter: inspect.Parameter) -> tuple[bool, int]:
    """Arguments and options without a default first, then by group."""
    described = get_args(parameter.annotation)[-1] if get_args(parameter.annotation) else None
    group = getattr(described, "rich_help_panel", None) or ""
    return parameter.default is not inspect.Parameter.empty, GROUPS.index(group) if group in GROUPS else 0
