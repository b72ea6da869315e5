"""`quantkit cache merge`: one calibration table from the statistics of several parts of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantkit.caches.merge import merge_statistics
from quantkit.cli.generate import with_options
from quantkit.cli.output import make_printer
from quantkit.storage import check_writable
from quantkit.types.options import MergeOptions, MessageOptions


@with_options
def merge(
    statistics: Annotated[
        list[Path],
        typer.Argument(
            metavar="STATISTICS...",
            help="MODEL.calib.stats of each part, from `calibrate --keep-statistics`.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Calibration table to write (.json).", show_default=False)
    ],
    options: MergeOptions,
    messages: MessageOptions,
) -> None:
    """Merge the statistics of several parts of a data set into one calibration table.

    Needs neither the model nor the data. Histograms merge exactly. The table is identical to that of a single run if
    all parts were calibrated with the same --batch-size and it divides their numbers of samples. Pass parts of an array
    in the order of their rows. Create the INT8 model with `quantkit quantize --table`.
    """
    if output.is_dir():
        raise typer.BadParameter(f"{output} is a folder, expected a file name", param_hint="--output")
    check_writable(output.parent)
    table = merge_statistics(
        statistics,
        output,
        method=options.method,
        keep_statistics=options.keep_statistics,
        progress=not messages.quiet,
        notify=make_printer(messages.quiet),
        **options.method_options,
    )
    parts = "1 part" if len(statistics) == 1 else f"{len(statistics)} parts"
    typer.echo(f"  {'samples':24}{table.num_samples} in {parts}")
    typer.echo(f"  {'tensors with a range':24}{len(table.tensors)}")
    typer.echo(f"wrote {output}  calibration table")
