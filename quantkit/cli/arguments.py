"""Arguments and options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DATA_PANEL = "Data"

ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="ONNX model in FP32, opset 7 or newer.", show_default=False)
]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder of images (sub-folders are classes), list of images (.txt, .csv, .jsonl), tars, YOLO data.yaml, "
        "or arrays (.npy, .npz).",
        show_default=False,
        rich_help_panel=DATA_PANEL,
    ),
]
