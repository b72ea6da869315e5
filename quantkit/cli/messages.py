"""What --quiet, --verbose and --log-file do, in every command: who reads the log of the package while it runs.

`quantkit.cli.output.make_printer` prints a command's notices; here are the details for --verbose, and the file.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import typer

from quantkit._version import __version__
from quantkit.cli.arguments import with_parameters
from quantkit.cli.as_json import document_alone
from quantkit.cli.generate import with_options
from quantkit.errors import OutputError, QuantKitError
from quantkit.interrupts import EndedError
from quantkit.notices import visible
from quantkit.types.option import option_fields
from quantkit.types.options import MessageOptions
from quantkit.urls import without_credentials

_LOGGER = logging.getLogger("quantkit")


@with_options
def _declare(messages: MessageOptions) -> None:
    """Its signature has the three options."""


_OPTIONS = {
    field.name: inspect.signature(_declare).parameters[field.name].replace(kind=inspect.Parameter.KEYWORD_ONLY)
    for field in option_fields(MessageOptions)
}


def with_messages(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command those of the three options that it does not declare itself, and all of them their effect."""
    signature = inspect.signature(command, eval_str=True)
    added = [option for name, option in _OPTIONS.items() if name not in signature.parameters]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        log_file, verbose = arguments["log_file"], arguments["verbose"]
        for parameter in added:
            del arguments[parameter.name]
        output = document_alone() if arguments.get("as_json") else nullcontext()
        with output, listening(verbose=verbose, log_file=log_file):
            command(**arguments)

    return with_parameters(run, [*signature.parameters.values(), *added])


@contextmanager
def listening(*, verbose: bool, log_file: Path | str | None) -> Iterator[None]:
    """Prints debug records to stderr if `verbose`; appends all records to `log_file`, what ends the run among them.

    Raises:
        OutputError: the file cannot be written; nothing has run by then.
    """
    handlers = [_open_file(log_file)] if log_file is not None else []
    if verbose:
        handlers.append(_to_stderr())
    level = _LOGGER.level
    for handler in handlers:
        _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.DEBUG if handlers else level)
    try:
        _LOGGER.debug("quantkit %s: %s", __version__, " ".join(map(without_credentials, sys.argv[1:])))
        yield
    except typer.Exit:
        raise
    except (QuantKitError, OSError, typer.BadParameter) as error:
        _LOGGER.error("%s", error)
        raise
    except (KeyboardInterrupt, EndedError):
        _LOGGER.error("interrupted")
        raise
    except Exception as error:
        _LOGGER.exception("unexpected error")
        if verbose:
            traceback.print_exc()
        error.is_traced = bool(handlers)  # type: ignore[attr-defined]
        raise
    finally:
        _LOGGER.setLevel(level)
        for handler in handlers:
            _LOGGER.removeHandler(handler)
            handler.close()


class _OneLine(logging.Formatter):
    """Names come from files of any origin: what is invisible in a message is written out."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is logging's)
        record.message = visible(record.message)
        return super().formatMessage(record)


class _LogFile(logging.FileHandler):
    """Where it cannot be written any longer, the run goes on without it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is logging's)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError) or self.stream is None:
            return super().handleError(record)
        broken, self.stream = self.stream, open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (logging closes it)
        with suppress(OSError):
            broken.close()
        typer.echo(f"warning: the log file {self.baseFilename} ends here: {error.strerror or error}", err=True)
        return None


def _open_file(path: Path | str) -> logging.Handler:
    try:
        if not _is_log(path):
            raise OutputError(f"--log-file {path} is there and no log of quantkit's: give the log a name of its own")
        with _reader_of(path):
            handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"Cannot write the log file {path}: {error.strerror or error}") from error
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def _is_log(path: Path | str) -> bool:
    """Whether lines can be added to a file: it is new, empty, a log, or no regular file."""
    if not Path(path).is_file():
        return True
    with open(path, "rb") as file:
        start = file.read(64)
    return not start or re.match(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ", start) is not None


@contextmanager
def _reader_of(path: Path | str) -> Iterator[None]:
    """Refuses a pipe that nobody reads, which opening would wait for; a reader sees no end of it in here."""
    if not Path(path).is_fifo():
        yield
        return
    try:
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        raise OSError(error.errno, "it is a pipe that nobody reads") from error
    try:
        yield
    finally:
        os.close(writer)


def _to_stderr() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: record.levelno < logging.INFO)  # notices are printed already
    handler.setFormatter(_OneLine("%(name)s: %(message)s"))
    return handler
