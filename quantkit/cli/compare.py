"""The commands that read reports: compare (the gate of a CI) and report (renders again, joins)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from quantkit.cli.text import make_console, print_line
from quantkit.errors import EvaluationError
from quantkit.evaluation import Limits, check_limits, parse_drop, require_passed
from quantkit.reporting import (
    cautions,
    gate_json,
    gate_junit,
    gate_markdown,
    load_report,
    print_report,
    report_html,
    report_markdown,
    write_report,
)
from quantkit.reporting.join import join_reports
from quantkit.storage import write_text

if TYPE_CHECKING:
    from quantkit.types import Report

__all__ = ["compare", "gate", "make_limits", "report"]

_PANEL = "Gate"

MaxDropOption = Annotated[
    str | None,
    typer.Option(
        "--max-drop",
        help="How much worse than FP32's the score may be: 0.5pt (or 0.5) is points, 1% is of FP32's score.",
        rich_help_panel=_PANEL,
    ),
]
GateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        help="mlperf-99 or mlperf-99.9: the score is at least 99 % (99.9 %) of FP32's. Repeatable.",
        rich_help_panel=_PANEL,
    ),
]
MinSpeedupOption = Annotated[
    float | None,
    typer.Option(
        "--min-speedup", help="Over the float model on the same backend, such as 1.2.", rich_help_panel=_PANEL
    ),
]
AtBatchOption = Annotated[
    int | None,
    typer.Option(
        "--at-batch",
        help="Batch size of --min-speedup (default: the first that was timed).",
        rich_help_panel=_PANEL,
    ),
]
MinAgreementOption = Annotated[
    float | None,
    typer.Option("--min-agreement", help="Share of samples with FP32's class, such as 0.98.", rich_help_panel=_PANEL),
]
MaxSizeOption = Annotated[
    float | None,
    typer.Option("--max-size-ratio", help="Size over FP32's, such as 0.3.", rich_help_panel=_PANEL),
]
ConfidentOption = Annotated[
    bool,
    typer.Option(
        "--confident",
        help="The worse end of the 95 % interval must keep the limit: of --max-drop, --gate, --min-speedup and "
        "--min-agreement.",
        rich_help_panel=_PANEL,
    ),
]
GateVariantOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gate-variant",
        help="Whom the limits concern (default: every INT8 variant). Repeatable.",
        rich_help_panel=_PANEL,
    ),
]


AllowPartialOption = Annotated[
    bool,
    typer.Option("--allow-partial", help="Judge the report of an interrupted evaluation too.", rich_help_panel=_PANEL),
]


def compare(
    path: Annotated[Path, typer.Argument(metavar="REPORT", help="report.json of evaluate.", show_default=False)],
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", help="Whom the limits concern (default: every INT8 variant). Repeatable."),
    ] = None,
    max_drop: MaxDropOption = None,
    named_gates: GateOption = None,
    min_speedup: MinSpeedupOption = None,
    at_batch: AtBatchOption = None,
    min_agreement: MinAgreementOption = None,
    max_size_ratio: MaxSizeOption = None,
    confident: ConfidentOption = False,
    allow_partial: AllowPartialOption = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML there.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write a summary in Markdown there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Checks a report against limits: exit code 0 where all are kept, 3 where one is broken.

    A number that the report does not hold is an error (exit code 1), never a pass.
    """
    limits = make_limits(
        max_drop,
        min_speedup,
        min_agreement,
        max_size_ratio,
        confident,
        gates=named_gates or (),
        at_batch=at_batch,
        allow_partial=allow_partial,
    )
    if limits is None:
        raise typer.BadParameter("give --max-drop, --gate, --min-speedup, --min-agreement or --max-size-ratio")
    gate(load_report(path), limits, variants=variant or (), junit=junit, markdown=markdown, as_json=as_json)


def report(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="REPORT...", help="report.json of evaluate, or NAME=report.json.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of what is written (default, for one report: next to it)."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Join reports of different models or data too, with a warning in them.")
    ] = False,
) -> None:
    """Renders a report again, or joins several of one model and the same data into one.

    Times of different runs are never compared: a speed-up is within a run.
    """
    named = _name_runs(paths)
    if len(named) > 1 and output is None:
        raise typer.BadParameter("several reports join into a new one: give its folder", param_hint="--output")
    loaded = {name: load_report(path) for name, path in named.items()}
    shown = next(iter(loaded.values())) if len(loaded) == 1 else join_reports(loaded, force=force)
    if output is not None:
        written = list(write_report(shown, output).values())
    else:
        source = next(iter(named.values()))
        written = [source.with_suffix(".md"), source.with_suffix(".html")]
        write_text(written[0], report_markdown(shown))
        write_text(written[1], report_html(shown))
    print_report(shown, Console())
    for path in written:
        typer.echo(f"wrote {path}")


def make_limits(
    max_drop: str | None,
    min_speedup: float | None,
    min_agreement: float | None,
    max_size_ratio: float | None,
    confident: bool,
    *,
    gates: Sequence[str] = (),
    at_batch: int | None = None,
    allow_partial: bool = False,
) -> Limits | None:
    """The limits as given, None without one; a wrong one is a usage error, before anything is measured."""
    try:
        limits = Limits(
            max_drop=None if max_drop is None else parse_drop(max_drop),
            min_speedup=min_speedup,
            min_agreement=min_agreement,
            max_size_ratio=max_size_ratio,
            confident=confident,
            gates=tuple(gates),
            at_batch=at_batch,
            allow_partial=allow_partial,
        )
    except EvaluationError as error:
        raise typer.BadParameter(str(error)) from None
    return limits or None


def gate(
    shown: Report,
    limits: Limits | None,
    *,
    variants: list[str] | tuple[()] = (),
    junit: Path | None = None,
    markdown: Path | None = None,
    as_json: bool = False,
) -> None:
    """Prints a line for each limit and writes the files; raises `GateFailedError` where a limit is broken."""
    if limits is None:
        return
    checks = check_limits(shown, limits, variants=variants)
    doubts = cautions(shown, checks)
    if junit is not None:
        write_text(junit, gate_junit(shown, checks))
    if markdown is not None:
        write_text(markdown, gate_markdown(shown, checks, cautions=doubts))
    if as_json:
        typer.echo(gate_json(shown, checks), nl=False)
    else:
        console = make_console()
        for check in checks:
            print_line(console, f"{'passed' if check.passed else 'FAILED'}  {check.sentence}")
        for caution in doubts:
            print_line(console, f"caution  {caution}")
    require_passed(checks)


def _name_runs(words: list[str]) -> dict[str, Path]:
    """A name for each report: as given, else its file's, or its folder's where files have the same name."""
    paths: list[Path] = []
    given: list[str] = []
    for word in words:
        name, separator, rest = word.partition("=")
        is_named = bool(separator and name) and not Path(word).exists()
        paths.append(Path(rest if is_named else word))
        given.append(name if is_named else "")
    stems = [path.stem for path in paths]
    names = [
        name or (path.stem if stems.count(path.stem) == 1 else path.resolve().parent.name)
        for name, path in zip(given, paths, strict=True)
    ]
    if twice := [name for name in names if names.count(name) > 1]:
        raise typer.BadParameter(f"two reports would be called {twice[0]!r}: name them, as {twice[0]}=PATH")
    return dict(zip(names, paths, strict=True))
