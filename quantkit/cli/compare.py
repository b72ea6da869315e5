"""The commands that read reports: `compare` (a gate for CI) and `report` (renders again, joins, trend)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.as_json import JsonOption, echo_document, echo_json
from quantkit.cli.generate import with_options
from quantkit.cli.output import output_path
from quantkit.cli.text import make_console, print_line, print_table
from quantkit.evaluation import Limits, check_limits, require_passed
from quantkit.reporting import (
    cautions,
    gate_json,
    gate_junit,
    gate_markdown,
    load_report,
    print_report,
    report_html,
    report_json,
    report_markdown,
    write_report,
)
from quantkit.reporting.columns import TABLES
from quantkit.reporting.figure import check_chart, tables_csv, write_chart
from quantkit.reporting.formatting import MISSING, single_line
from quantkit.reporting.join import join_reports
from quantkit.reporting.variants import Variant, variant_rows
from quantkit.storage import write_text
from quantkit.types.options import MessageOptions, Target

if TYPE_CHECKING:
    from quantkit.types import Report


@with_options
def compare(
    path: Annotated[Path, typer.Argument(metavar="REPORT", help="report.json from `evaluate`.", show_default=False)],
    limits: Limits,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="NAME", help="Variant to check (default: all INT8 variants). Repeatable."),
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial",
            help="Also accept the partial report of an interrupted evaluation.",
            rich_help_panel="Gate",
        ),
    ] = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write a Markdown summary to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a report against limits: exit code 0 if all are met, 3 if one is violated.

    A limit on a number that is missing from the report is an error (exit code 1). `quantkit report A B` joins reports.
    """
    if not limits:
        raise typer.BadParameter("pass --max-drop, --gate, --min-speedup, --min-agreement or --max-size-ratio")
    limits = replace(limits, allow_partial=allow_partial)
    gate(load_report(path), limits, variants=variant or (), junit=junit, markdown=markdown, as_json=as_json)


@with_options
def report(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="REPORT", help="report.json from `evaluate`, or NAME=report.json.", show_default=False),
    ],
    messages: MessageOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Report folder, or report (.json) (default for a single report: next to it). Needed to join reports.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Join reports even if model or data differ; the joined report contains a warning."
        ),
    ] = False,
    chart: Annotated[
        Path | None, typer.Option("--chart", help="Write the accuracy-against-speed chart to this .svg or .png file.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write every table as CSV to this folder.")] = None,
    deploy: Annotated[Target | None, typer.Option("--deploy", help="Target that the decision is for.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Render a report again, join reports, or print the trend of several.

    Several reports without -o are shown as a trend: score, speed and size of each, in the order of their dates.
    Speed-ups are computed within a run only: latencies of different runs are never compared.
    """
    named = _name_runs(paths)
    loaded = {name: load_report(path) for name, path in named.items()}
    if len(named) > 1 and output is None:
        if chart is not None or csv is not None:
            raise typer.BadParameter("a folder is required to join reports", param_hint="--output")
        _print_trend(loaded, as_json=as_json)
        return
    shown = next(iter(loaded.values())) if len(loaded) == 1 else join_reports(loaded, force=force)
    shown = replace(shown, deploy=deploy or shown.deploy)
    if chart is not None:
        check_chart(shown, chart)
    if csv is not None and csv.exists() and not csv.is_dir():
        raise typer.BadParameter(f"{csv} is a file, not a folder", param_hint="--csv")
    if output is not None:
        path = output_path(output, Path("report.json"))
        written = list(write_report(shown, path.parent, stem=path.stem).values())
    else:
        source = next(iter(named.values()))
        written = [source.with_suffix(".md"), source.with_suffix(".html")]
        write_text(written[0], report_markdown(shown))
        write_text(written[1], report_html(shown))
    if chart is not None:
        write_chart(shown, chart)
        written.append(chart)
    for name, text in tables_csv(shown).items() if csv is not None else ():
        written.append(Path(csv or "") / f"{name}.csv")
        write_text(written[-1], text)
    if as_json:
        echo_document(report_json(shown))
    else:
        print_report(shown, make_console(), quiet=messages.quiet)
    for path in written:
        typer.echo(f"wrote {path}", err=as_json)


def gate(
    shown: Report,
    limits: Limits,
    *,
    variants: list[str] | tuple[()] = (),
    junit: Path | None = None,
    markdown: Path | None = None,
    as_json: bool = False,
    to_stderr: bool = False,
) -> None:
    """Prints a line for each limit and writes the files; raises `GateFailedError` if a limit is violated."""
    if not limits:
        return
    checks = check_limits(shown, limits, variants=variants)
    doubts = cautions(shown, checks)
    if junit is not None:
        write_text(junit, gate_junit(shown, checks))
    if markdown is not None:
        write_text(markdown, gate_markdown(shown, checks, cautions=doubts))
    if as_json:
        echo_document(gate_json(shown, checks))
    else:
        console = make_console(stderr=to_stderr)
        for check in checks:
            print_line(console, f"{'passed' if check.passed else 'FAILED'}  {check.sentence}")
        for caution in doubts:
            print_line(console, f"caution  {caution}")
    require_passed(checks)


def _print_trend(reports: Mapping[str, Report], *, as_json: bool) -> None:
    """A row for each variant of each report, the oldest first."""
    ordered = sorted(reports.items(), key=lambda item: item[1].created)
    if as_json:
        echo_json([_trend_point(name, row) for name, found in ordered for row in variant_rows(found)])
        return
    has_models = len({found.model_name for found in reports.values()}) > 1
    rows = []
    for name, found in ordered:
        title = f"{single_line(found.model_name)} {name}" if has_models else name
        for row in variant_rows(found):
            cells = {c.field: c.text(row) for table in ("accuracy", "speed") for c in TABLES[table].columns}
            minute = found.created[:16].replace("T", " ")
            speed = (cells["speedup"], cells["speedup_bounds"]) if row.representative else (MISSING, MISSING)
            rows.append((minute, title, row.name, cells["score"], *speed, cells["size_mb"]))
    labels = {"" if r.score is None else single_line(r.score.label) for r in reports.values()}
    score = labels.pop() if len(labels) == 1 else "Score"
    headings = ("Date", "Report", "Variant", score, "Speed-up", "95% interval", "MB")
    console = make_console()
    print_table(console, headings, rows, right=range(3, 7))
    if len({found.dataset.get("fingerprint") for found in reports.values()}) > 1:
        print_line(console, "caution  the reports are of different samples: their scores cannot be compared")


def _trend_point(name: str, row: Variant) -> dict[str, object]:
    """A row of the trend as JSON; a speed that says nothing about the target is left out, as in the table."""
    score, latency = row.report.score, row.latency
    return {
        "created": row.report.created,
        "report": name,
        "variant": row.evaluation.name,
        "score_name": score.name if score else None,
        "score": row.metric(score.name) if score else None,
        "speedup": row.speedup if row.representative else None,
        "speedup_interval": latency.speedup_interval if latency and row.representative else None,
        "size_bytes": row.evaluation.size_bytes,
    }


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
        raise typer.BadParameter(f"two reports have the name {twice[0]!r}: pass them as NAME=PATH")
    return dict(zip(names, paths, strict=True))
