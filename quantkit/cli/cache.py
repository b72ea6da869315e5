"""The commands under `quantkit cache`: files of calibrated ranges, of quantkit and of other tools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantkit.caches.contents import shown_cache
from quantkit.caches.inspection import rows_from_ranges, select_tensors
from quantkit.caches.merge import merge_statistics
from quantkit.caches.open import check_no_input, open_cache, read_map
from quantkit.caches.range_cache import difference
from quantkit.caches.verify import verify_cache
from quantkit.cli.as_json import JsonOption, echo_json
from quantkit.cli.cache_json import (
    json_from_difference,
    json_from_head,
    json_from_shown,
    json_from_verification,
)
from quantkit.cli.generate import with_options
from quantkit.cli.group import Group
from quantkit.cli.inspect import print_tensors
from quantkit.cli.output import make_printer
from quantkit.cli.sparkline import ASCII_MARK, MARK, sparkline
from quantkit.cli.text import make_console, print_line, print_table
from quantkit.commands.convert import convert_cache
from quantkit.datasets.description import describe_preprocessing
from quantkit.errors import StaleTableError
from quantkit.notices import plural
from quantkit.storage import check_writable, write_text
from quantkit.types.options import MergeOptions, MessageOptions, VerifyOptions

if TYPE_CHECKING:
    from rich.console import Console

    from quantkit.caches.verify import Verification

cache = typer.Typer(
    name="cache",
    help="Show, compare, verify, convert and merge calibration files.",
    no_args_is_help=True,
    add_completion=False,
    cls=Group,
)

_SHOWN = 20

CacheArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Calibration table, TensorRT cache, ONNX Runtime table, or ONNX model with Q/DQ.",
        show_default=False,
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help=f"List all tensors, not only the first {_SHOWN}.")]


@cache.command()
def show(
    path: CacheArgument,
    sort: Annotated[
        Literal["network", "amax", "name"], typer.Option("--sort", help="Order of the tensors.")
    ] = "network",
    pattern: Annotated[
        str | None,
        typer.Option("--filter", help="Show only tensors whose name matches, e.g. 'layer1*'.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the range and the scale of each tensor, and the calibration method.

    Scales are also shown in hexadecimal, as in TensorRT's cache, and histograms if there are statistics next to the
    table.
    """
    shown = shown_cache(path)
    found = shown.cache
    rows = select_tensors(rows_from_ranges(found.tensors, found.table), sort=sort, pattern=pattern)
    if as_json:
        echo_json(json_from_shown(shown, path, rows))
        return
    console = make_console()
    count = f"{len(rows)} of {len(found.tensors)}" if len(rows) < len(found.tensors) else str(len(rows))
    print_line(console, f"{path}: {found.title}, {count} tensors", style="bold")
    print_table(console, ("", ""), [("method", found.method)])
    for note in shown.notes:
        print_line(console, f"note: {note}")
    ascii_only = console.options.ascii_only
    lines = {
        row.name: sparkline(
            shown.histograms[row.name], None if found.method == "none" else row.amax, ascii_only=ascii_only
        )
        for row in rows
        if row.name in shown.histograms
    }
    if not rows:
        print_line(console, f"no tensor matches {pattern}" if found.tensors else "it lists no tensor")
    elif print_tensors(console, rows, histograms=lines):
        mark = "" if found.method == "none" else f"; {ASCII_MARK if ascii_only else MARK} is amax"
        print_line(console, f"histogram: magnitudes from 0 to the maximum, logarithmic height{mark}")


@cache.command()
def diff(
    first: CacheArgument,
    second: CacheArgument,
    all_rows: AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the ranges in two calibration files of any format.

    Lists the ratio second / first of each tensor's range, largest difference first.
    """
    one, other = open_cache(first), open_cache(second)
    found = difference(one, other)
    if as_json:
        heads_json = {"first": json_from_head(one, first), "second": json_from_head(other, second)}
        echo_json({**heads_json, **json_from_difference(found)})
        return
    console = make_console()
    heads = [
        (label, str(path), c.title, c.method) for label, path, c in (("first", first, one), ("second", second, other))
    ]
    print_table(console, ("", "", "", ""), heads)
    differing = [t for t in found.tensors if not t.is_identical]
    print_line(
        console,
        f"{len(found.tensors)} common tensors: {found.num_identical} with identical scales, {len(differing)} different",
        style="bold",
    )
    if differing:
        ratios = sorted(t.ratio for t in differing)
        print_line(
            console,
            f"ratio second / first: {ratios[0]:.4g} to {ratios[-1]:.4g}, median {ratios[len(ratios) // 2]:.4g}; "
            f"largest difference {max(t.bins for t in differing):.4g} of 2048 histogram bins",
        )
        rows = [
            (t.name, f"{t.first.amax:.6g}", f"{t.second.amax:.6g}", f"{t.ratio:.6g}", f"{t.bins:.3g}")
            for t in (differing if all_rows else differing[:_SHOWN])
        ]
        print_table(console, ("tensor", "first", "second", "ratio", "difference in bins"), rows, right=(1, 2, 3, 4))
        if len(rows) < len(differing):
            print_line(console, f"and {len(differing) - len(rows)} more (--all)")
    for label, names in (("first", found.only_first), ("second", found.only_second)):
        if names:
            print_line(console, f"only in the {label} file: {len(names)}", style="bold")
        for name in names if all_rows else names[:_SHOWN]:
            print_line(console, name, indent=2)
        if not all_rows and len(names) > _SHOWN:
            print_line(console, f"and {len(names) - _SHOWN} more (--all)", indent=2)


@cache.command()
@with_options
def verify(
    path: CacheArgument,
    model: Annotated[Path, typer.Option("--model", help="Float ONNX model to use the ranges with.")],
    options: VerifyOptions,
    messages: MessageOptions,
    write_map: Annotated[
        Path | None,
        typer.Option(
            "--write-map", help="Write the proposed new tensor names to this file, for `cache convert --map`."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a calibration file matches a model, a TensorRT version and data.

    Exits with code 4 if the file is stale.
    """
    if write_map is not None:
        check_no_input(write_map, path, options.data, models=(model, options.old_model), option="--write-map")
        check_writable(write_map)
    found = verify_cache(path, model, replace(options, progress=not messages.quiet))
    if write_map is not None and found.proposal:
        write_text(write_map, json.dumps(dict(found.proposal), indent=2, ensure_ascii=False) + "\n")
    if as_json:
        echo_json(json_from_verification(found, path))
    else:
        _print_verification(make_console(), found, path, write_map)
    raise typer.Exit(StaleTableError.exit_code if found.is_stale else 0)


@cache.command()
def convert(
    path: CacheArgument,
    target: Annotated[
        Literal["tensorrt", "table", "qdq", "ort", "ort-json", "ort-text", "json"],
        typer.Option(
            "--to",
            help="Output format. tensorrt: calibration cache; table: quantkit's table; qdq: INT8 model with Q/DQ; "
            "ort, ort-json, ort-text: ONNX Runtime's table as flatbuffers, JSON or text; json: everything in the file.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.", show_default=False)],
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Float ONNX model: required for table and qdq, recommended for tensorrt."),
    ] = None,
    tensorrt_version: Annotated[
        str | None,
        typer.Option(
            "--tensorrt-version", help="TensorRT version that will load the cache (default: as in the input file)."
        ),
    ] = None,
    names: Annotated[
        Path | None, typer.Option("--map", help="JSON object of old to new tensor names, applied first.")
    ] = None,
    high_precision: Annotated[
        Literal["fp32", "fp16"],
        typer.Option("--high-precision", help="Precision of layers that are not quantized, for qdq."),
    ] = "fp32",
    as_json: JsonOption = False,
) -> None:
    """Convert a calibration file to another format.

    Scales are copied exactly where the format permits. Prints what the format cannot store.
    """
    check_no_input(output, names)
    done = convert_cache(
        path,
        output,
        target=target,
        model=model,
        tensorrt_version=tensorrt_version,
        names=None if names is None else read_map(names),
        high_precision=high_precision,
    )
    if as_json:
        echo_json({"files": [done.path], "num_tensors": done.num_tensors, "remarks": done.remarks})
    console = make_console(stderr=as_json)
    for sentence in done.remarks:
        print_line(console, f"- {sentence}")
    print_line(console, f"wrote {done.path}  {plural(done.num_tensors, 'tensor')}")


@cache.command()
@with_options
def merge(
    statistics: Annotated[
        list[Path],
        typer.Argument(
            metavar="STATISTICS",
            help="MODEL.calib.stats of each part, from `calibrate --keep-statistics`.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Calibration table to write (.json).", show_default=False)
    ],
    options: MergeOptions,
    messages: MessageOptions,
    as_json: JsonOption = False,
) -> None:
    """Merge the statistics of several parts of a data set into one calibration table.

    Needs neither the model nor the data. Histograms merge exactly. The table is identical to that of a single run if
    all parts were calibrated with the same --batch-size and it divides their numbers of samples. Pass parts of an array
    in the order of their rows. Create the INT8 model with `quantkit quantize --table`.
    """
    if output.is_dir():
        raise typer.BadParameter(f"{output} is a folder, expected a file name", param_hint="--output")
    check_writable(output)
    table = merge_statistics(
        statistics,
        output,
        method=options.method,
        keep_statistics=options.keep_statistics,
        progress=not messages.quiet,
        notify=make_printer(messages.quiet),
        **options.method_options,
    )
    if as_json:
        echo_json({"files": [output], "num_samples": table.num_samples, "num_tensors": len(table.tensors)})
    parts = "1 part" if len(statistics) == 1 else f"{len(statistics)} parts"
    typer.echo(f"  {'samples':24}{table.num_samples} in {parts}", err=as_json)
    typer.echo(f"  {'tensors with a range':24}{len(table.tensors)}", err=as_json)
    typer.echo(f"wrote {output}  calibration table", err=as_json)


def _print_verification(console: Console, found: Verification, path: Path, write_map: Path | None) -> None:
    fit = found.fit
    hint = ": pass --old-model" if fit.foreign and found.proposal_ground != "structure" else ""
    print_line(console, f"{path}: {found.cache.title}, for {found.model}", style="bold")
    rows = [
        ("tensors to quantize", f"{len(fit.needed) - len(fit.missing)} of {len(fit.needed)} have a range"),
        ("matching tensors", str(len(fit.matched))),
        ("range of the input of a pool or copy", str(len(fit.inherited))),
        ("not in the file", f"{len(fit.missing)} tensors to quantize, {len(fit.unlisted)} others"),
        ("unknown tensors", str(len(fit.foreign))),
        ("operators left in float", str(len(fit.float_operators))),
        ("TensorRT", f"{found.acceptance}: {found.acceptance_reason}"),
    ]
    print_table(console, ("", ""), rows)
    for label, lines in (
        ("left in float: no range", [f"{node}: {tensor}" for node, tensor in fit.float_operators.items()]),
        ("unknown to the model", list(fit.foreign)),
        (f"proposed new names, by {found.proposal_ground}", [f"{a} → {b}" for a, b in found.proposal.items()]),
    ):
        if lines:
            print_line(console, label, style="bold")
        for line in lines[:_SHOWN]:
            print_line(console, line, indent=2)
        if len(lines) > _SHOWN:
            print_line(console, f"and {len(lines) - _SHOWN} more (--json)", indent=2)
    if write_map is not None and found.proposal:
        print_line(console, f"wrote {write_map}: check it, then apply it with convert --map")
    elif write_map is not None:
        print_line(console, f"not written: {write_map}: there are no names to propose{hint}")
    if found.checks is not None:
        if found.preprocessing is not None:
            print_line(console, f"preprocessing: {describe_preprocessing(found.preprocessing)}")
        print_line(console, f"most clipped tensors on {plural(found.num_samples, 'sample')}", style="bold")
        checks = [
            (
                c.name,
                f"{c.amax:.6g}",
                f"{c.reached:.6g}",
                "" if c.seen is None else f"{c.seen:.6g}",
                f"{100 * c.clipped:.3g}",
                "" if c.clipped_then is None else f"{100 * c.clipped_then:.3g}",
                "" if c.is_read else "not quantized",
            )
            for c in found.checks[:_SHOWN]
        ]
        seen, then = (
            any(value is not None for value in values)
            for values in ([c.seen for c in found.checks], [c.clipped_then for c in found.checks])
        )
        headings = (
            *("tensor", "amax", "maximum", "in calibration" if seen else "", "clipped %", "then %" if then else ""),
            "",
        )
        print_table(console, headings, checks, right=(1, 2, 3, 4, 5), optional=(5, 3, 6))
    for note in found.notes:
        print_line(console, f"note: {note}")
    for problem in found.problems:
        print_line(console, f"stale: {problem}")
    if not found.problems:
        print_line(console, "up to date")
