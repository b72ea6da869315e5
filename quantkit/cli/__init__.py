"""The command line: parses, calls the pipeline, prints. No quantization logic, and no heavy import before a command."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from typing import Annotated, NoReturn

import typer

from quantkit._version import __version__
from quantkit.cli.build import build
from quantkit.cli.cache import cache
from quantkit.cli.calibrate import calibrate, quantize
from quantkit.cli.compare import compare, report
from quantkit.cli.data import data_app
from quantkit.cli.evaluate import evaluate
from quantkit.cli.inspect import doctor, inspect
from quantkit.cli.merge import merge
from quantkit.cli.output import INTERRUPTED
from quantkit.cli.text import visible
from quantkit.errors import QuantKitError

__all__ = ["app", "main"]

app = typer.Typer(
    name="quantkit",
    help="INT8 post-training quantization for TensorRT and ONNX Runtime.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda word: word.replace("_", "-"),
    },
)


# click's, which typer brings under a name that changes between versions.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"quantkit {__version__}")
        raise typer.Exit


app.command()(calibrate)
app.command()(quantize)
app.command()(evaluate)
app.command()(compare)
app.command()(report)
app.add_typer(data_app, name="data")
app.command()(build)
app.command()(inspect)
app.command()(doctor)
app.add_typer(cache)
cache.command()(merge)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line. What quantkit raises on purpose is one line on stderr and its class's exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe on Windows cannot hold every sign
    _end_cleanly_on_sigterm()
    try:
        code = app(args=arguments, prog_name="quantkit", standalone_mode=False)
    except QuantKitError as error:
        _fail(str(error), error.exit_code)
    except _UsageError as error:
        _explain(error)
    except OSError as error:  # what concerns a file of the user's is an OutputError by now
        _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        _fail("interrupted: files that were there are as they were", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _end_cleanly_on_sigterm() -> None:
    """What a CI or `timeout` sends: temporary folders and locks go, as after Ctrl-C."""
    with contextlib.suppress(ValueError):  # not the main thread
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"quantkit: error: {visible(message)}", err=True)
    sys.exit(code)


def _explain(error: Exception) -> NoReturn:
    """One line for a mistyped command; the help where nothing was typed."""
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "quantkit")
    message = str(getattr(error, "format_message", lambda: error)()).replace("Value error, ", "")
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        typer.echo(context.get_help() or "", err=True, nl=False)
        sys.exit(2)
    _fail(f"{' '.join(message.split()).rstrip('.')} ({path} --help)", 2)
