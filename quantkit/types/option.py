"""How an option is declared: as one field of a dataclass, with help text, group, text form and allowed values.

A choice that a registry owns (methods, presets, tasks) is named by the registry's place and looked up when it is
needed, so that declaring it imports nothing heavy.
"""

from __future__ import annotations

import importlib
import math
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

from quantkit.errors import OptionError, QuantKitError
from quantkit.registry import suggest

_T = TypeVar("_T")

LARGEST_NUMBER = 2**53
"""What all integers and floats up to here are exact in."""

NOUNS = {bool: "true or false", int: "a whole number", float: "a number"}
"""What an option of a type takes, for messages."""


@dataclass(frozen=True)
class TextForm:
    """How a value is written on the command line and in a configuration file.

    Attributes:
        parse: text to value; raises `ValueError` with what was expected. A repeatable option hands it all texts.
        format: value to text, for defaults.
    """

    parse: Callable[[Any], Any]
    format: Callable[[Any], str] = str


@dataclass(frozen=True)
class Option:
    """What a user sees of an option; the metadata of a dataclass's field.

    Attributes:
        help: one sentence that stands alone.
        group: heading in the help; empty for the first one.
        flag: "--name" or "--name,-n"; empty takes the field's name.
        form: how the value is written, where it is more than a word or a number.
        registry: "module:NAME" of the allowed values: names, or a mapping by them.
        is_open: the registry's names are only shown, in place of "{known}" in the help or at its end: whoever reads
            the value knows which others are valid.
        repeatable: may be given several times.
        unit: of a number, such as "seconds".
        default_text: what None means.
    """

    help: str
    group: str = ""
    flag: str = ""
    form: TextForm | None = None
    registry: str = ""
    is_open: bool = False
    repeatable: bool = False
    unit: str = ""
    default_text: str = ""

    def known(self) -> tuple[str, ...]:
        """The names in its registry."""
        if not self.registry:
            return ()
        return tuple(lookup(self.registry))


@dataclass(frozen=True)
class OwnOption:
    """An option that belongs to one entry of a registry alone: a calibration method or a task.

    Attributes:
        name: keyword in Python, key in tables, and `--name` on the command line.
        default: used where none is given; its type is the option's.
        help: what it is, without a full stop.
        is_valid: whether the method or task takes a value.
        expected: which values those are, to end "--name 3 must be ...".
    """

    name: str
    default: Any
    help: str
    is_valid: Callable[[Any], bool] = lambda _: True
    expected: str = ""

    @property
    def flag(self) -> str:
        """As the command line spells it."""
        return f"--{self.name.replace('_', '-')}"


@dataclass(frozen=True)
class OptionField:
    """An option and the field that holds it.

    Attributes:
        option: what a user sees.
        path: names of the fields that lead to it from the outermost dataclass.
        kind: type of the value.
        default: of the field.
    """

    option: Option
    path: tuple[str, ...]
    kind: Any
    default: Any

    @property
    def flags(self) -> tuple[str, ...]:
        """As typed: ("--quiet", "-q")."""
        spelled = self.option.flag or f"--{self.path[-1].replace('_', '-')}"
        return tuple(spelled.split(","))

    @property
    def name(self) -> str:
        """Key in a configuration file."""
        return self.flags[0].lstrip("-").replace("-", "_")

    @property
    def is_list(self) -> bool:
        """Whether it may be given several times."""
        return self.option.repeatable or (self.option.form is None and get_origin(without_none(self.kind)) is tuple)

    def read(self, value: Any) -> Any:
        """The value of what was typed or written in a file.

        Raises:
            OptionError: the text is not of its form, or no name in the registry.
        """
        if isinstance(value, int | float) and abs(value) > LARGEST_NUMBER and not math.isinf(value):
            raise OptionError(f"{self.flags[0]} {value} is beyond {LARGEST_NUMBER}, the largest number")
        if self.is_list:
            if not value:
                return self.default
            value = tuple(value)
        known = self.option.known()
        if isinstance(value, str) and value.lower() in known:  # None is not the preset "none"
            value = value.lower()
        elif known and not self.option.is_open and value not in known:
            raise OptionError(f"{self.flags[0]}: there is no {value!r}: {suggest(value, known)}")
        if self.option.form is None or not isinstance(value, str | tuple):
            return value
        try:
            return self.option.form.parse(value)
        except QuantKitError:
            raise
        except ValueError as error:
            raise OptionError(f"{self.flags[0]}: {error}") from None

    def write(self, value: Any) -> Any:
        """The inverse of `read`."""
        return value if self.option.form is None or value is None else self.option.form.format(value)


def option(default: Any, help: str, **rest: Any) -> Any:
    """A dataclass field that is an option; the rest as in `Option`."""
    return field(default=default, metadata={"option": Option(help, **rest)})


def nested(kind: type) -> Any:
    """A dataclass field whose own options are options of the outer dataclass too."""
    return field(default=None, metadata={"nested": kind})


def option_fields(kind: type, path: tuple[str, ...] = ()) -> Iterator[OptionField]:
    """The options of a dataclass and of the dataclasses nested in it, in order.

    Example:
        >>> @dataclass
        ... class Pause:
        ...     duration_s: float = option(3.0, "Length of the pause.", unit="seconds")
        >>> [found.flags for found in option_fields(Pause)]
        [('--duration-s',)]
    """
    hints = typing.get_type_hints(kind)
    for found in fields(kind):
        here = (*path, found.name)
        if (inner := found.metadata.get("nested")) is not None:
            yield from option_fields(inner, here)
        elif (registry := found.metadata.get("owned_by")) is not None:
            yield from _owned_options(registry, found.metadata["owner"], found.metadata["group"], here)
        elif (known := found.metadata.get("option")) is not None:
            yield OptionField(known, here, hints[found.name], found.default)


def owned_options(registry: str, owner: str, *, group: str = "") -> Any:
    """A dataclass field, a mapping, that holds the options which the entries of a registry have of their own.

    Args:
        registry: "module:NAME" of the mapping; its values have `own_options`.
        owner: flag that chooses an entry, "--method".
        group: heading in the help.
    """
    return field(default_factory=dict, metadata={"owned_by": registry, "owner": owner, "group": group})


def _owned_options(registry: str, owner: str, group: str, path: tuple[str, ...]) -> Iterator[OptionField]:
    for name, entry in lookup(registry).items():
        for own in entry.own_options:
            default = "" if own.default == "" else f" (default: {own.default})"
            text = Option(f"{own.help}, for {owner} {name}{default}.", group=group, flag=own.flag)
            yield OptionField(text, (*path, own.name), type(own.default) | None, None)


def make_options(kind: type[_T], options: _T | None, keywords: Mapping[str, Any]) -> _T:
    """The options of a call: an object, its fields as keywords, or both, of which the keywords win.

    Raises:
        OptionError: a keyword that is no field, with the nearest one.
    """
    given = dict(keywords)
    if "preprocessing" in given:
        warnings.warn("the keyword preprocessing is now called preprocess", DeprecationWarning, stacklevel=4)
        given["preprocess"] = given.pop("preprocessing")
    assert is_dataclass(kind)
    known = [found.name for found in fields(kind)]
    for name in given.keys() - set(known):
        owner = next((f.path[0] for f in option_fields(kind) if len(f.path) == 2 and f.path[1] == name), None)
        if owner is None or not any(f.name == owner and "owned_by" in f.metadata for f in fields(kind)):
            raise OptionError(f"there is no option {name!r}: {suggest(name, known)}")
        given[owner] = {**given.get(owner, {}), name: given.pop(name)}
    return replace(options, **given) if options is not None else kind(**given)  # type: ignore[type-var]


def lookup(registry: str) -> Mapping[str, Any]:
    """The mapping at "module:NAME"."""
    module, _, name = registry.partition(":")
    found: Mapping[str, Any] = getattr(importlib.import_module(module), name)
    return found


def check_choices(options: Any, error: type[QuantKitError]) -> None:
    """Raises `error` where a field holds none of the words that its type allows."""
    for found in option_fields(type(options)):
        allowed = get_args(kind) if get_origin(kind := without_none(found.kind)) is Literal else ()
        if len(found.path) > 1 or not allowed:
            continue
        value = getattr(options, found.path[0])
        if value not in allowed and not (value is None and found.default is None):
            raise error(f"{found.flags[0]}: there is no {value!r}: {suggest(str(value), map(str, allowed))}")


def check_minimum(options: Any, minimum: Literal[0, 1], names: Iterable[str], error: type[QuantKitError]) -> None:
    """Raises `error` where one of these fields is a smaller number, infinite or NaN."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not minimum <= value < math.inf:
            bound = "finite" if value == math.inf else "at least 1" if minimum else "0 or more"
            raise error(f"--{name.replace('_', '-')} {value} must be {bound}")


def check_fraction(options: Any, names: Iterable[str], error: type[QuantKitError]) -> None:
    """Raises `error` where one of these fields is no number from 0 to 1."""
    for name in names:
        if not 0 <= (value := getattr(options, name)) <= 1:
            raise error(f"--{name.replace('_', '-')} {value} must be a fraction from 0 to 1")


def without_none(kind: Any) -> Any:
    """`int` of `int | None`."""
    rest = [inner for inner in get_args(kind) if inner is not NoneType]
    return rest[0] if len(rest) == 1 and NoneType in get_args(kind) else kind
