"""The command `bench`: times models and engines without data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.as_json import JsonOption, echo_json, members
from quantkit.cli.generate import with_options
from quantkit.cli.text import make_console, print_table
from quantkit.commands.bench import bench as time_models
from quantkit.reporting.formatting import (
    MISSING,
    format_interval,
    format_significant,
    format_speedup,
    format_throughput,
)
from quantkit.storage import check_writable, write_text
from quantkit.types.options import BenchOptions, MessageOptions

if TYPE_CHECKING:
    from quantkit.commands.bench import Bench


@with_options
def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL", help="ONNX models or engines; speed-ups are over the first.")
    ],
    options: BenchOptions,
    messages: MessageOptions,
    export_times: Annotated[
        Path | None, typer.Option("--export-times", metavar="FILE", help="Write the time of each call (JSON, ms).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time models or engines on random inputs: no data, no accuracy.

    Options are named as in trtexec. Times are those of whole calls on the host's clock, with copies to and from a
    device; several models take turns. `quantkit evaluate` also measures accuracy, and times engines by CUDA events.
    """
    if export_times is not None:
        check_writable(export_times)
    found = time_models(models, replace(options, progress=not messages.quiet))
    if export_times is not None:
        write_text(export_times, json.dumps({name: list(times) for name, times in found.times.items()}) + "\n")
    if as_json:
        shown = {name: {**members(x), "percentiles": found.percentiles[name]} for name, x in found.latencies.items()}
        echo_json({"inputs": found.shapes, "models": shown})
    else:
        _print(found, options.percentile)
    if export_times is not None:
        typer.echo(f"wrote {export_times}", err=as_json)


def _print(found: Bench, percentiles: tuple[float, ...]) -> None:
    inputs = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in found.shapes.items())
    typer.echo(f"random inputs: {inputs}")
    rows = []
    first = next(iter(found.latencies.values()))
    for name, latency in found.latencies.items():
        pair = latency.speedup_interval
        is_first = latency is first
        ratio = MISSING if is_first else f"{format_speedup(first.median_ms / latency.median_ms)}x"
        bounds = MISSING if is_first else "no interval" if pair is None else format_interval(*map(format_speedup, pair))
        times = [format_significant(found.percentiles[name][p]) for p in percentiles]
        rows.append(
            (
                name,
                format_significant(latency.median_ms),
                *times,
                ratio,
                bounds,
                format_throughput(latency.throughput),
                str(latency.iterations),
            )
        )
    heads = [f"p{p:g}" for p in percentiles]
    headings = ("Model", "Median ms", *heads, "Speed-up", "95% interval", "Samples/s", "Calls")
    print_table(make_console(), headings, rows, right=range(1, len(headings)))
