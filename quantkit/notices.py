"""Notices: what a user may want to know while a command runs; and the plain formatting of messages.

The library prints nothing. It hands each `Notice` to the callable that the caller gave, if any, and logs it to
``logging.getLogger("quantkit")``. What a program decides by is a notice's kind and topic, never its text.
"""

from __future__ import annotations

import functools
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

from quantkit.urls import without_credentials

NoticeKind = Literal["info", "warning"]

NoticeTopic = Literal[
    "accuracy",  # an INT8 output that is far from the float one
    "calibrator",  # which one runs, and why
    "clipping",  # a range that cuts off much of a tensor
    "constant",  # a tensor that was zero on every sample
    "data",  # which samples are used
    "device",  # where models are run
    "engine",  # how an engine is built
    "excluded",  # nodes that stay in float as asked for
    "interrupted",  # a run that was ended early
    "model",  # how it was converted, and what that changed
    "lock",  # waiting for another run
    "padding",  # samples counted twice or dropped to fill batches of a fixed size
    "preprocessing",
    "ranges",  # where ranges come from, or where they are missing
    "reuse",  # a file of an earlier run is used, or why not
    "samples",  # their number or numbering
    "tensorrt",  # what TensorRT says
    "unreadable",  # samples or files that could not be read
    "weights",  # how they are quantized
]

MOST_NAMES = 5
"""Names that a message lists before it counts the rest."""

_LOGGER = logging.getLogger("quantkit")
_LOGGER.addHandler(logging.NullHandler())  # else Python prints warnings of programs that set up no logging
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING}

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Notice:
    """One thing that a user may want to know.

    Attributes:
        kind: "warning" where results may be worse than they could be, else "info".
        topic: what it is about, for programs.
        text: one sentence, for people.
    """

    kind: NoticeKind
    topic: NoticeTopic
    text: str

    def __str__(self) -> str:
        return f"warning: {self.text}" if self.kind == "warning" else self.text


Notify = Callable[[Notice], None]
"""Is called with each notice as it comes."""


@dataclass(frozen=True)
class _Announcer:
    """Logs each notice, then hands it on."""

    notify: Notify | None

    def __call__(self, notice: Notice) -> None:
        _LOGGER.log(_LEVELS[notice.kind], "%s", notice.text, extra={"topic": notice.topic})
        if self.notify is not None:
            self.notify(notice)


def announcing(notify: Notify | None) -> Notify:
    """A callable that logs each notice and hands it to `notify`, once, however often it is wrapped.

    Example:
        >>> announcing(print)(Notice("warning", "samples", "Only 12 calibration samples; 100-500 are recommended."))
        warning: Only 12 calibration samples; 100-500 are recommended.
    """
    return notify if isinstance(notify, _Announcer) else _Announcer(notify)


def telling_once(notify: Notify) -> Notify:
    """A callable that hands each notice to `notify`, but for those that it has handed on before."""
    told: set[Notice] = set()

    def tell(notice: Notice) -> None:
        if notice not in told:
            told.add(notice)
            notify(notice)

    return tell


def accepts_tell(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Lets a function with `notify` still take its old keyword `tell`, which is called with a line of text."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if "tell" in kwargs:
            warnings.warn("tell= is deprecated: pass notify=, called with a Notice", DeprecationWarning, stacklevel=2)
            tell: Callable[[str], None] | None = kwargs.pop("tell")  # type: ignore[assignment]
            if tell is not None:
                kwargs["notify"] = lambda notice: tell(str(notice))
        return function(*args, **kwargs)

    return call


def logs_duration(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Logs at debug level how long each call took, with the first path or name among its arguments."""
    logger = logging.getLogger(function.__module__)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        duration = time.perf_counter() - start
        named = (a for a in (*args, *kwargs.values()) if isinstance(a, str | os.PathLike))
        file = without_credentials(f" {next(named, '')}".rstrip())
        logger.debug("%s%s took %.2f s", function.__name__, file, duration)
        return result

    return call


def join_names(names: Sequence[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def group_by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Names by reason, the largest group first; what differs in brackets at a reason's end goes to its name.

    Example:
        >>> group_by_reason({"a": "bias", "b": "too coarse (KL 0.1)", "c": "too coarse (KL 0.2)"})
        {'too coarse': ['b (KL 0.1)', 'c (KL 0.2)'], 'bias': ['a']}
    """
    kinds: dict[str, dict[str, str]] = {}
    for name, reason in reasons.items():
        kinds.setdefault(reason.partition(" (")[0], {})[name] = reason
    found: dict[str, list[str]] = {}
    for kind, named in sorted(kinds.items(), key=lambda item: -len(item[1])):
        if len(set(named.values())) == 1:
            found[next(iter(named.values()))] = list(named)
        else:
            found[kind] = [f"{name}{reason.removeprefix(kind)}" for name, reason in named.items()]
    return found


def plural(count: int, noun: str) -> str:
    """(1, "sample") → "1 sample", (1200, "sample") → "1,200 samples", (2, "class") → "2 classes"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def unicode_text(name: str) -> str:
    r"""A name as text that can be encoded: bytes that are not UTF-8, of a file's name, are written out as ``\xe9``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def visible(text: str) -> str:
    r"""The text with line breaks, escape sequences and other invisible characters written out: "\x1b[31m"."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
