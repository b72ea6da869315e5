"""The command `data check`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from quantkit.cli.arguments import DataOption, ModelArgument
from quantkit.cli.as_json import JsonOption, echo_json, members
from quantkit.cli.generate import with_options
from quantkit.cli.group import Group
from quantkit.cli.output import make_printer
from quantkit.cli.text import make_console, print_line, print_table
from quantkit.commands.data_check import check_data
from quantkit.notices import plural
from quantkit.types.options import CheckOptions, MessageOptions

if TYPE_CHECKING:
    from rich.console import Console

    from quantkit.commands.data_check import DataCheck
    from quantkit.evaluation.preprocessing_probe import PreprocessingTrial, Probe

_SHOWN = 5

data_app = typer.Typer(
    help="Check calibration and validation data.",
    no_args_is_help=True,
    add_completion=False,
    cls=Group,
)


@data_app.callback()
def _data() -> None:
    """Check calibration and validation data."""


@data_app.command()
@with_options
def check(
    model: ModelArgument,
    data: DataOption,
    options: CheckOptions,
    messages: MessageOptions,
    as_json: JsonOption = False,
) -> None:
    """Check data before calibration, and whether other preprocessing suits the model better.

    Reports unreadable files, duplicates, wrong classes, an implausible value range and samples shared with --against.
    Tries swapped channels, a missing division by 255 and other mean and std. Exits with code 1 if there are errors, and
    with 0 if there are only warnings and notes.
    """
    options = replace(options, progress=not messages.quiet)
    result = check_data(model, data, options, notify=make_printer(messages.quiet))
    if as_json:
        echo_json({"passed": not result.has_errors, **members(result)})
    else:
        _print(make_console(), result, quiet=messages.quiet)
    raise typer.Exit(1 if result.has_errors else 0)


def _print(console: Console, result: DataCheck, *, quiet: bool) -> None:
    facts = result.facts
    rows = [
        ("samples", f"{facts.num_samples - len(facts.unreadable)} of {facts.num_samples} readable"),
        ("classes", str(result.num_classes) if result.num_classes else "no labels"),
        ("model inputs", f"{facts.minimum:.4g} to {facts.maximum:.4g}, mean {facts.mean:.4g}"),
    ]
    if facts.sizes is not None:
        (small_w, small_h), (large_w, large_h) = facts.sizes
        rows.append(("image sizes", f"{small_w}x{small_h} to {large_w}x{large_h} (width x height)"))
        rows.append(("color modes", ", ".join(f"{count} {mode}" for mode, count in facts.modes.items())))
    rows.append(("preprocessing", _probe_words(result.probe, result.probe_reason)))
    if result.probe is not None and result.probe.best is not None:
        rows.append(("best alternative", _best_words(result.probe, result.probe.best)))
    print_table(console, ("", ""), () if quiet else rows)
    for finding in result.findings:
        print_line(console, f"{finding.severity}: {finding.check}: {finding.what}", style=_STYLES[finding.severity])
        for place in finding.where[:_SHOWN]:
            print_line(console, place, indent=4)
        if len(finding.where) > _SHOWN:
            print_line(console, f"and {len(finding.where) - _SHOWN} more (--json lists them)", indent=4)
        if finding.fix:
            print_line(console, f"fix: {finding.fix}", indent=4)
    counts = [plural(sum(f.severity == s for f in result.findings), s) for s in _STYLES]
    print_line(console, ", ".join(counts) if result.findings else "no problems found")


_STYLES = {"error": "red", "warning": "yellow", "note": ""}


def _probe_words(probe: Probe | None, reason: str) -> str:
    if probe is None:
        return f"no alternatives tried: {reason}"
    tried = f"{plural(len(probe.others), 'alternative')} tried on {probe.num_samples} samples"
    return f"{_fit_words(probe.declared)} on {probe.num_settling} samples; {tried}"


def _best_words(probe: Probe, best: PreprocessingTrial) -> str:
    """The alternative, its figure, what it gains with the interval, and the verdict."""
    words = f"{' and '.join(best.changes)}: {_fit_words(best)}"
    if best.gain_interval is not None:
        scale, unit, digits = (100, "points", 1) if best.top1 is not None else (1, "nats", 2)
        low, high = (f"{scale * end:+.{digits}f}" for end in best.gain_interval)
        words += f" (gain {low} to {high} {unit}, 95% interval)"
    return f"{words} on {probe.num_settling} samples; {'clearly better' if best.is_better else 'not clearly better'}"


def _fit_words(trial: PreprocessingTrial) -> str:
    fit = f"{trial.information:.2f} nats of information"
    return fit if trial.top1 is None else f"top-1 {100 * trial.top1:.1f}%, {fit}"
