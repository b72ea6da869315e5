"""The command `config`: the options of the commands as a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import VERBS
from quantkit.cli.as_json import JsonOption, echo_json
from quantkit.cli.config_file import configurable, format_section, read_config, section_values
from quantkit.errors import OptionError
from quantkit.registry import suggest


def config(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="Command, such as calibrate or cache verify (default: all)."),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Configuration file to start from."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the effective options of a command, or of all commands, as a configuration file for --config.

    One file holds a section for each command. What is not in it has its default; an option that is given on the
    command line takes precedence.
    """
    given = {} if path is None else read_config(path)
    every = {section: command for verb in VERBS for section, command in configurable(verb).items()}
    wanted = tuple(words or ())
    chosen = {section: command for section, command in every.items() if section[: len(wanted)] == wanted}
    if not chosen:
        name = " ".join(wanted)
        raise OptionError(f"no command {name!r} takes a configuration file: {suggest(name, map(' '.join, every))}")
    if as_json:
        echo_json({".".join(s): section_values(command, given.get(s, {})) for s, command in chosen.items()})
        return
    texts = [format_section(section, command, given.get(section, {})) for section, command in chosen.items()]
    typer.echo("\n\n".join(texts), nl=False)
