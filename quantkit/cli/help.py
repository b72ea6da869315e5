"""`--help` that fits a screen: the options that most people need and one example; `--help-all` shows the rest."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand

from quantkit.cli import load_command
from quantkit.cli.arguments import with_parameters
from quantkit.cli.examples import EXAMPLES
from quantkit.cli.generate import OptionCheckError
from quantkit.cli.group import beside, width, wrap
from quantkit.errors import OptionError
from quantkit.registry import suggest
from quantkit.types.option import LARGEST_NUMBER, NOUNS, without_none

COMMON = {
    "calibrate": "--data --output --num-samples --preprocess --size --accuracy --method --target --exclude --config",
    "quantize": "--table --output --format --target --exclude --plan --config",
    "build": "--output --precision --target --library --table --data --opt-shapes --workspace --dla-core --config",
    "evaluate": "--data --output --table --calibrate-data --variants --deploy --num-samples --preprocess --task "
    "--labels --batch-sizes --latency-s --max-drop --min-speedup --config",
    "bench": "--shapes --batch-size --warm-up-ms --duration --iterations --percentile --threads --export-times --json",
    "sensitivity": "--data --table --output --num-samples --preprocess --top --json --config",
    "tune": "--data --val --output --max-drop --task --labels --preprocess --num-samples --json --config",
    "inspect": "--sort --filter --json --measure",
    "data check": "--data --against --preprocess --size --resize --probe-samples --json --config",
    "compare": "--max-drop --gate --min-speedup --min-agreement --max-size-ratio --variant --confident --junit "
    "--markdown --json --config",
    "report": "--output --chart --csv --deploy --force --json",
    "export triton": "--output --engine --max-batch --json",
    "export deepstream": "--output --batch-size --json",
    "export trtexec": "--precision --calib --tensorrt-version --min-shapes --opt-shapes --max-shapes --json",
    "init": "--data --val --output --force --json",
    "selftest": "--data --output --library --num-samples --json",
    "cache convert": "--to --output --model --tensorrt-version --map --high-precision --json",
    "cache merge": "--output --method --keep-statistics --json",
    "cache verify": "--model --data --tensorrt-version --max-clipped --json --config",
}
"""By command, the options of its short help; commands that are not here show all."""

_OF_MODELS = ("calibrate", "quantize", "evaluate", "build", "tune", "sensitivity")
"""Commands of a float model, whose options one may look for in another of them."""

_TRTEXEC = {"save-engine": "output", "mem-pool-size": "workspace"}
_TRTEXEC |= dict.fromkeys(("best", "fp16", "fp8", "int4", "int8"), "precision")
"""Options of trtexec, in lower case, that have another name here."""

_ALL = "quantkit.help_all"
_NAMES = 28


class ShortHelp(TyperCommand):
    """A command whose `--help` shows the options of `COMMON` in two lines each at most, and the first example."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As always, but an option is not the value of the option before it: that one's own value was forgotten."""
        options = [p for p in self.get_params(ctx) if p.param_type_name == "option"]
        flags = {flag: option for option in options for flag in (*option.opts, *option.secondary_opts)}
        for option in options if ctx.auto_envvar_prefix else ():
            option.envvar = f"{ctx.auto_envvar_prefix}_{option.opts[0].lstrip('-').replace('-', '_').upper()}"
        words = list(args)  # parsing takes them away
        if not ctx.resilient_parsing:  # of a shell that completes words
            _check_words(ctx, args, flags)
        try:
            rest: list[str] = super().parse_args(ctx, args)
        except Exception as error:
            if hasattr(error.__cause__, "errors"):  # pydantic's, which typer reads values with
                raise _bad_value(error, options) from None
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # type: ignore[attr-defined]  # the message ends with the command's --help
            if hasattr(error, "possibilities"):
                name = error.option_name  # type: ignore[attr-defined]
                error.possibilities = _near_options(name, flags)
                if not error.possibilities and (elsewhere := _other_command(ctx, name, words)):
                    raise OptionError(f"No such option: {name}: {elsewhere}") from None
            raise
        for option in options:
            value = ctx.params.get(option.name)
            for word in map(str, value if isinstance(value, list | tuple) else (value,)):
                if word.replace("_", "-") in flags:
                    text = f"{word} is an option: give a value before it"
                    raise typer.BadParameter(text, ctx, param_hint=option.opts[0])
        return rest

    def invoke(self, ctx: Any) -> Any:
        """As always; an error of the options also names the variables of the environment that set options."""
        try:
            return super().invoke(ctx)
        except OptionCheckError as error:
            error.args = (f"{error}{_set_by_environment(ctx, self.get_params(ctx))}",)
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """MODEL, not typer's {MODEL}: what is in no brackets is required."""
        return [piece.strip("{}").replace("}...", "...") for piece in super().collect_usage_pieces(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the short help, or all of it after --help-all and for commands without a short one."""
        path = ctx.command_path.split(" ", 1)[-1]
        for parameter in self.params:
            _name_type(parameter)
        is_short = path in COMMON and not ctx.meta.get(_ALL)
        shown = {"--help-all", *COMMON.get(path, "").split()}
        panels: dict[str, list[str]] = defaultdict(list)
        for parameter in self.get_params(ctx):
            is_wanted = parameter.param_type_name == "argument" or not is_short or shown.intersection(parameter.opts)
            if is_wanted and (record := parameter.get_help_record(ctx)):
                panel = "" if is_short else getattr(parameter, "rich_help_panel", None) or ""
                panels[panel] += _entry(record[0], " ".join(record[1].split()), max_lines=2 if is_short else None)
        lines = [f"Usage: {' '.join([ctx.command_path, *self.collect_usage_pieces(ctx)])}"]
        for paragraph in (self.help or "").split("\n\n")[: 1 if is_short else None]:
            lines += ["", *wrap(paragraph, width())]
        for panel, entries in panels.items():
            lines += ["", *([f"{panel}:"] if panel else []), *entries]
        examples = EXAMPLES[path][: 1 if is_short else None]
        lines += ["", "Example:" if len(examples) == 1 else "Examples:", *(f"  {line}" for line in examples)]
        formatter.write("\n".join(lines) + "\n")


def _entry(names: str, words: str, *, max_lines: int | None) -> list[str]:
    """An option: its names, as much of its help as fits into the lines, and whether it is required."""
    is_long = len(names) > _NAMES - 3
    if is_long and max_lines is not None:
        names, _, choices = names.partition(" ")
        words = f"{choices.strip('[<>]')}: {words}"
    placeholder = " ... [required]" if words.endswith("[required]") else " ..."
    text = wrap(words, width() - _NAMES, max_lines=max_lines, placeholder=placeholder)
    if is_long and max_lines is None:
        return [f"  {names}", *beside("", text, _NAMES)]
    return beside(names, text, _NAMES)


def _name_type(parameter: Any) -> None:
    """Has the help call one of several values "path" or "str", and not "list[Path]"."""
    kind = parameter.type_descriptor.annotation
    if get_origin(kind) is list:
        parameter.bare_type = functools.partial(str, "path" if get_args(kind)[0] is Path else "str")


def _near_options(name: str, flags: Iterable[str]) -> list[str]:
    """Options of the command that an unknown one may mean; those of trtexec are spelled otherwise or other words.

    >>> _near_options("--minShapes", ["--min-shapes", "--json"]), _near_options("--fp16", ["--precision", "--plan"])
    (['--min-shapes'], ['--precision'])
    """
    bare = {flag.lstrip("-"): flag for flag in flags}
    wanted = re.sub("[A-Z]", lambda upper: f"-{upper[0]}", name.lstrip("-")).lower()
    here = _TRTEXEC.get(wanted, wanted)
    if here in bare or wanted in _TRTEXEC:
        return [bare[here]] if here in bare else []
    return [bare[near] for near in difflib.get_close_matches(wanted, bare, cutoff=0.65)]


def _other_command(ctx: Any, name: str, words: list[str]) -> str:
    """The command that has an option which this one lacks, as a line to paste; "" where none has."""
    words = [part for word in words for part in word.split("=", 1 if word.startswith("--") else 0)]
    given = dict(pairwise(words))
    for other in _OF_MODELS if ctx.info_name in _OF_MODELS else ():
        options = {flag: o for o in load_command(other).params for flag in (o.opts[0], *o.secondary_opts)}
        if name in options:
            line = ["quantkit", other, next((word for word in words if word.endswith(".onnx")), "MODEL")]
            for flag, option in options.items():
                if flag == name or (option.required and flag.startswith("--")):
                    value = given.get(flag) or flag.lstrip("-").upper()
                    line += [flag] if option.is_flag else [flag, value]
            return f"it is an option of `{other}`: `{shlex.join(line)}`"
    return ""


def _bad_value(error: Any, parameters: Iterable[Any]) -> OptionError:
    """What typer's error about the value of an option or argument is in the words of every other place."""
    kind, found, flag = error.param.type_descriptor, error.__cause__.errors()[0], error.param.opts[0]
    value = found["input"]
    if kind.is_choice:
        text = f"{flag}: there is no {value!r}: {suggest(str(value), map(str, kind.choices))}"
    elif "ge" in found.get("ctx", {}):
        text = f"{flag} {value} must be at least {found['ctx']['ge']}"
    elif found["type"] == "int_parsing_size":
        text = f"{flag}: a number of {len(value)} digits is beyond {LARGEST_NUMBER}, the largest"
    else:
        text = f"{flag}: {value!r} is not {NOUNS.get(without_none(kind.annotation), 'a value that it can have')}"
    return OptionError(f"{text}{_set_by_environment(error.ctx, parameters)}")


def _set_by_environment(ctx: Any, parameters: Iterable[Any]) -> str:
    """Names the variables that set these options, if any."""
    found = [p.envvar for p in parameters if getattr(ctx.get_parameter_source(p.name), "name", "") == "ENVIRONMENT"]
    return f" (set in the environment: {', '.join(found)})" if found else ""


def _check_words(ctx: Any, args: list[str], flags: dict[str, Any]) -> None:
    """Refuses values that are empty, and words that are not among the choices as every other place does.

    Raises:
        BadParameter: a value is empty, which would be the working folder where a path is expected.
        OptionError: an option does not have this choice.
    """
    for before, word in zip(("", *args), args, strict=False):
        name, joined, value = word.partition("=") if word.startswith("--") else (before, before, word)
        option = flags.get(name.replace("_", "-"))
        takes_it = joined and option is not None and not option.is_flag
        if not value and (joined or not word):
            hint = f"'{option.opts[0]}'" if option is not None and takes_it else "an argument"
            raise typer.BadParameter("it is empty, as an unset variable of a shell is", ctx, param_hint=hint)
        if option is None or not takes_it or not option.type_descriptor.is_choice:
            continue
        choices = [str(choice) for choice in option.type_descriptor.choices]
        if value.lower() not in map(str.lower, choices) and value not in flags:
            raise OptionError(f"{option.opts[0]}: there is no {value!r}: {suggest(value, choices)}")


def with_help_all(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the option --help-all; its options are as all others: choices in any case, brief in the help."""

    def show(context: typer.Context, wanted: bool) -> bool:
        if wanted:
            context.meta[_ALL] = True
            typer.echo(context.get_help())
            raise typer.Exit
        return wanted

    @functools.wraps(command)
    def run(*, help_all: bool = False, **arguments: Any) -> None:
        command(**arguments)

    signature = inspect.signature(command, eval_str=True)
    for parameter in signature.parameters.values():
        for declared in get_args(parameter.annotation)[1:]:
            declared.case_sensitive = False
            declared.show_envvar = False  # one sentence on the reference page says their names
    described = typer.Option(
        "--help-all", is_eager=True, callback=show, help="Show all options and examples.", show_envvar=False
    )
    added = inspect.Parameter(
        "help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, described]
    )
    return with_parameters(run, [*signature.parameters.values(), added])
