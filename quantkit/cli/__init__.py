"""The command line: parses, calls the commands, prints. The module of a command is imported when it is asked for."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperCommand

from quantkit._version import __version__
from quantkit.cli.failures import explain_memory, explain_unexpected
from quantkit.cli.group import Group
from quantkit.errors import INTERRUPTED, OutputError, QuantKitError
from quantkit.interrupts import EndedError, ending_on_signals, leaves_threads, take_advice
from quantkit.machine import is_out_of_memory
from quantkit.notices import join_names, visible

__all__ = ["VERBS", "Verb", "app", "load_command", "main"]


class Verb(NamedTuple):
    """Where a command is, `module` and the function or `typer.Typer` in it, and its line in the list of commands."""

    module: str
    attribute: str
    help: str
    panel: str


_QUANTIZE, _MEASURE, _FILES = "Quantize", "Measure and check", "Inspect and set up"

VERBS = {
    "calibrate": Verb(
        "calibrate",
        "calibrate",
        "Calibrate a model on images: writes a calibration table, a TensorRT cache and the INT8 model.",
        _QUANTIZE,
    ),
    "quantize": Verb(
        "calibrate", "quantize", "Create a quantized model from an existing calibration table.", _QUANTIZE
    ),
    "build": Verb(
        "build",
        "build",
        "Build an engine for TensorRT 8.6 to 11, or for TensorRT-RTX, which needs no GPU to build.",
        _QUANTIZE,
    ),
    "evaluate": Verb(
        "evaluate",
        "evaluate",
        "Compare FP32, FP16 and INT8: accuracy, agreement, latency and size, in one report.",
        _MEASURE,
    ),
    "bench": Verb("bench", "bench", "Time models or engines on random inputs: no data, no accuracy.", _MEASURE),
    "sensitivity": Verb(
        "sensitivity",
        "sensitivity",
        "Rank tensors and operators by what quantizing each costs the output.",
        _MEASURE,
    ),
    "tune": Verb(
        "tune",
        "tune",
        "Find the fewest tensors to leave in float so that the score meets a budget, and write them as a plan.",
        _QUANTIZE,
    ),
    "compare": Verb(
        "compare",
        "compare",
        "Check a report against limits: exit code 0 if all are met, 3 if one is violated.",
        _MEASURE,
    ),
    "report": Verb(
        "compare", "report", "Render a report again, join reports, or print the trend of several.", _MEASURE
    ),
    "data": Verb("data", "data_app", "Check calibration and validation data.", _MEASURE),
    "export": Verb(
        "export", "export_app", "Write what Triton, DeepStream or trtexec needs to run or build a model.", _FILES
    ),
    "inspect": Verb("inspect", "inspect", "Show which layers run in INT8, which do not, and why.", _FILES),
    "cache": Verb("cache", "cache", "Show, compare, verify, convert and merge calibration files.", _FILES),
    "doctor": Verb(
        "doctor",
        "doctor",
        "Show what is installed, which commands work here, and what to install for the others.",
        _FILES,
    ),
    "init": Verb("init", "init", "Write a commented quantkit.toml for a model and its data.", _FILES),
    "selftest": Verb(
        "selftest",
        "selftest",
        "Check what works with the installed TensorRT: calibrators, builds, INT8 layers, accuracy.",
        _FILES,
    ),
    "config": Verb(
        "config",
        "config",
        "Print the effective options of a command, or of all commands, as a configuration file for --config.",
        _FILES,
    ),
}
"""By name, in the order of the help."""


class _LazyGroup(Group):
    """Lists `VERBS` without importing them; imports the one that is asked for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {
            name: TyperCommand(name, help=verb.help, rich_help_panel=verb.panel) for name, verb in VERBS.items()
        }

    def get_params(self, ctx: Any) -> list[Any]:
        """None of them comes from the environment: pipelines set QUANTKIT_VERSION for other purposes."""
        found: list[Any] = super().get_params(ctx)
        for option in found:
            option.allow_from_autoenv = option.show_envvar = False
            option.help = (option.help or "").replace("the current shell", "the shell that follows, or the current one")
        return found

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As always, but a shell may follow the options of completion, which typer's do not take."""
        if args[:1] in (["--install-completion"], ["--show-completion"]):
            importlib.import_module("quantkit.cli.completion").answer(*args[:2])
            raise typer.Exit
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, load_command(str(listed.name)) if listed else None, rest


@functools.cache
def load_command(name: str) -> Any:
    """The command or group of a verb, with all of its options; imports what it needs."""
    with_messages = importlib.import_module("quantkit.cli.messages").with_messages
    screen = importlib.import_module("quantkit.cli.help")
    found = getattr(importlib.import_module(f"quantkit.cli.{VERBS[name].module}"), VERBS[name].attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name, cls=screen.ShortHelp)(screen.with_help_all(with_messages(found)))
        return typer.main.get_command(single)
    for registered in found.registered_commands:
        command = registered.callback or found
        registered.callback = screen.with_help_all(with_messages(command))
        registered.cls = screen.ShortHelp
    return typer.main.get_command(found)


app = typer.Typer(
    name="quantkit",
    cls=_LazyGroup,
    help="INT8 post-training quantization for TensorRT and ONNX Runtime.",
    no_args_is_help=True,
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


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line. What quantkit raises on purpose is one line on stderr and its class's exit code."""
    _stand_in_for_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe on Windows cannot hold every character
    written: list[Path] = []

    def describe(number: int) -> str:
        return _interruption(number, written)

    try:
        with _collecting_writes(written), ending_on_signals(describe):
            code = app(args=arguments, prog_name="quantkit", standalone_mode=False, auto_envvar_prefix="QUANTKIT")
    except QuantKitError as error:
        names = _still_there(written) if isinstance(error, OutputError) else []
        _fail(f"{error}{'; kept, complete and reusable: ' if names else ''}{join_names(names)}", error.exit_code)
    except _UsageError as error:
        _explain(error)
    except OSError as error:  # what concerns a file of the user's is an OutputError by now
        _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except EndedError as ended:
        _fail(describe(ended.number), 128 + ended.number)
    except Exception as error:
        if is_out_of_memory(error):
            _fail(explain_memory(error), 1)
        _fail(explain_unexpected(error, is_traced=getattr(error, "is_traced", False)), 1)
    if code == INTERRUPTED:
        _fail(describe(signal.SIGINT), INTERRUPTED)
    _exit(code if isinstance(code, int) else 0)


def _stand_in_for_closed_streams() -> None:
    """Without it a file that is written gets the number of the closed stream, and what libraries print with it."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            while (number := os.open(os.devnull, os.O_RDWR)) < 2:
                pass
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w"))


@contextlib.contextmanager
def _collecting_writes(written: list[Path]) -> Iterator[None]:
    """Adds the files that are written meanwhile, each of which `quantkit.storage` logs."""

    def collect(record: logging.LogRecord) -> bool:
        written.append(record.written)  # type: ignore[attr-defined]
        return True

    logger = logging.getLogger("quantkit.storage")
    level = logger.level
    logger.addFilter(collect)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeFilter(collect)
        logger.setLevel(level)


def _interruption(number: int, written: list[Path]) -> str:
    """What a signal left, in a line."""
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    names = _still_there(written)
    after = f" after writing {join_names(names)}; other" if names else "; existing"
    advice = take_advice()
    return f"Interrupted{by}{after} files were not modified.{advice and f' {advice}'}"


def _still_there(written: list[Path]) -> list[str]:
    """What was written and is no temporary file."""
    return [str(path) for path in dict.fromkeys(written) if path.exists()]


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"quantkit: error: {visible(message)}", err=True)
    _exit(code)


def _exit(code: int) -> NoReturn:
    if leaves_threads():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _explain(error: Exception) -> NoReturn:
    """One line for a mistyped command; the help where nothing was typed."""
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "quantkit")
    message = str(getattr(error, "format_message", lambda: error)()).replace("Value error, ", "")
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        typer.echo((context.get_help() or "").rstrip("\n"))
        sys.exit(2)
    _fail(f"{' '.join(message.split()).rstrip('.')} ({path} --help)", 2)
