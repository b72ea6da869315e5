"""The command `selftest`: what works with the TensorRT of this machine, as a table and a file to attach to a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from quantkit._version import __version__
from quantkit.cli.arguments import DataOption, ModelArgument
from quantkit.cli.as_json import JsonOption, echo_json, members
from quantkit.cli.generate import with_options
from quantkit.cli.output import output_path
from quantkit.cli.text import make_console, print_line, print_table
from quantkit.commands.selftest import selftest as run_checks
from quantkit.storage import check_no_source, check_writable, write_text
from quantkit.types.options import MessageOptions, SelftestOptions


@with_options
def selftest(
    model: ModelArgument,
    data: DataOption,
    options: SelftestOptions,
    messages: MessageOptions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Result (.json) or folder.")] = Path("selftest.json"),
    as_json: JsonOption = False,
) -> None:
    """Check what works with the installed TensorRT: calibrators, builds, INT8 layers, accuracy.

    Writes selftest.json to attach to a report. Exits with code 1 if a check fails; what cannot be checked here is
    skipped, with the reason.
    """
    output = output_path(output, Path("selftest.json"), data=[data])
    check_no_source(output, (model, data))
    check_writable(output)
    found = run_checks(model, data, options)
    document = {"quantkit": __version__, **members(found)}
    if as_json:
        echo_json(document)
    console = make_console(stderr=as_json)
    if not messages.quiet:
        print_line(console, f"{found.library}, GPU: {found.gpu}")
    print_table(console, ("check", "", ""), [(r.name, r.status, r.detail) for r in found.results])
    write_text(output, json.dumps(document, indent=2) + "\n")
    typer.echo(f"wrote {output}", err=as_json)
    raise typer.Exit(1 if found.has_failed else 0)
