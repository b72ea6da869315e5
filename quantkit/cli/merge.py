"""`quantkit cache merge`: statistics of parts of the data become the table of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantkit.caches.merge import merge_statistics
from quantkit.cli.generate import with_options
from quantkit.cli.output import make_printer
from quantkit.storage import check_writable
from quantkit.types.options import MergeOptions, MessageOptions

__all__ = ["merge"]


@with_options
def merge(
    statistics: Annotated[
        list[Path],
        typer.Argument(help="MODEL.calib.stats of each part (calibrate --keep-statistics).", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The table: MODEL.calib.json.", show_default=False)],
    options: MergeOptions,
    messages: MessageOptions,
) -> None:
    """Merge the statistics of parts of a data set into the calibration table of the whole, without model or data.

    The histograms merge exactly. Give every part the same --batch-size, one that divides its number of images, for the
    table of one run bit for bit; and give parts of an array in the order of their rows. `quantkit quantize --table`
    makes the INT8 model of it.
    """
    if output.is_dir():
        raise typer.BadParameter(f"{output} is a folder: give the table's name", param_hint="--output")
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
