"""Options that commands share, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DATA_PANEL = "Data"

ModelArgument = Annotated[Path, typer.Argument(help="ONNX model in FP32, opset 11 to 24.", show_default=False)]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder of images (sub-folders are classes), list of images (.txt, .csv, .jsonl), or arrays (.npy, .npz).",
        show_default=False,
        rich_help_panel=DATA_PANEL,
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the choice of samples.", rich_help_panel=DATA_PANEL)]
ClassesOption = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        help="Text file with the class names in the order of the model's outputs.",
        rich_help_panel=DATA_PANEL,
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Fail on an unreadable image instead of leaving it out.", rich_help_panel=DATA_PANEL),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Decoding threads (default: CPUs).", rich_help_panel=DATA_PANEL)
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="Node name, pattern (*), or operator type to leave in float. Repeatable."),
]
ReduceRangeOption = Annotated[
    bool | None,
    typer.Option(
        "--reduce-range/--no-reduce-range",
        help="Weights of 7 bits, for target cpu (default: where this processor has no VNNI).",
        show_default=False,
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and results.")]


def read_classes(path: Path | None) -> list[str] | None:
    """Class names, one a line."""
    if path is None:
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {error}", param_hint="--classes") from None
    return [name for name in names if name]
