"""Arguments and options that commands share."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from quantkit.urls import data_path

DATA_PANEL = "Data"

ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="ONNX model in FP32, opset 7 or newer.", show_default=False)
]


PARSES_DATA: dict[str, Any] = {"parser": data_path, "metavar": "PATH"}
"""How options that take data are parsed: a path or a URL."""

DataOption = Annotated[
    os.PathLike[str],
    typer.Option(
        "--data",
        help="Folder of images (sub-folders are classes), list of images (.txt, .csv, .jsonl), tars, YOLO data.yaml, "
        "or arrays (.npy, .npz). Also a URL (s3://, gs://, https://).",
        **PARSES_DATA,
        show_default=False,
        rich_help_panel=DATA_PANEL,
    ),
]


def with_parameters(run: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """Has typer read these parameters as arguments and options of a command."""
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return run
