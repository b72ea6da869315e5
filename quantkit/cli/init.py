"""The command `init`: a commented configuration file for a model and its data."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.arguments import PARSES_DATA, DataOption, ModelArgument
from quantkit.cli.as_json import JsonOption, echo_written
from quantkit.cli.output import output_path
from quantkit.commands.init import ModelFacts, look_at
from quantkit.datasets.presets import PRESETS
from quantkit.datasets.yolo_data import YAML_SUFFIXES
from quantkit.errors import OutputError
from quantkit.notices import visible
from quantkit.storage import check_writable, write_text
from quantkit.types import PathLike
from quantkit.types.options import CalibrationOptions

_DETAILS = {
    "detect": ('# labels = "data.yaml"', '# detections = "yolov8"'),
    "segment": ('# labels = "masks"',),
}
"""Options that a task needs and that nobody can guess."""


def init(
    model: ModelArgument,
    data: DataOption,
    val: Annotated[
        os.PathLike[str] | None,
        typer.Option("--val", help="Data to evaluate on (default: those of --data).", **PARSES_DATA),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Configuration (.toml) or folder.")] = Path(
        "quantkit.toml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a commented quantkit.toml for a model and its data.

    Input size, channels and the task are read from the model, classes from the data. Every other option is what
    `quantkit config` prints.
    """
    output = output_path(output, Path("quantkit.toml"))
    if output.exists() and not force:
        raise OutputError(f"{output} exists: pass --force to overwrite it, or another name with -o")
    check_writable(output)
    facts = look_at(model, data)
    write_text(output, _text(model, data, val or data, facts))
    echo_written([output], as_json=as_json, facts=facts)
    typer.echo(f"next: {shlex.join(['quantkit', 'data', 'check', str(model), '--data', str(data)])}", err=True)
    typer.echo(f"then: {shlex.join(['quantkit', 'calibrate', str(model), '--config', str(output)])}", err=True)


def _text(model: Path, data: PathLike, val: PathLike, facts: ModelFacts) -> str:
    comments = [
        f"quantkit calibrate {model} --config ...; then evaluate likewise.",
        "Options on the command line take precedence.",
        *(f"Input {line}" for line in facts.inputs),
        *(f"Output {line}" for line in facts.outputs),
        f"Data: {facts.data}",
    ]
    yolo = next((path for path in (val, data) if Path(path).suffix.lower() in YAML_SUFFIXES), None)
    calibrate = [
        f"data = {_quote(data)}",
        "# The most samples to use; 100 to 500 that look like those in deployment are often enough.",
        f"num_samples = {CalibrationOptions.num_samples}",
        '# "tensorrt", or "cpu" for ONNX Runtime.',
        'target = "tensorrt"',
    ]
    if facts.preprocessing is not None:
        calibrate += [
            f"# The default: {facts.preprocessing}",
            f"# If the model was trained otherwise: {', '.join(PRESETS)}, or scale, mean and std.",
            'preprocess = "yolo"' if yolo else '# preprocess = "imagenet"',
        ]
    evaluate = [f"data = {_quote(val)}"]
    if val == data and not yolo:  # a data.yaml names images for either
        evaluate.insert(0, "# Other samples than those of calibration are better.")
    evaluate += [f"# A guess: {facts.why}.", f'task = "{facts.task}"', *_DETAILS.get(facts.task, ())]
    if yolo and facts.task == "detect":
        evaluate[-2] = f"labels = {_quote(yolo)}"
    if facts.task == "classify" and not facts.is_labeled:
        evaluate.append("# The data have no labels: a folder for each class gives them.")
    evaluate.append('# Fail (exit code 3) if INT8 loses more: "1pt" is a point, "1%" relative to FP32.')
    evaluate.append('# max_drop = "1pt"')
    heads = "\n".join(f"# {visible(' '.join(line.split()))}" for line in comments)
    return "\n".join(
        [heads, "", "[calibrate]", *map(visible, calibrate), "", "[evaluate]", *map(visible, evaluate), ""]
    )


def _quote(path: PathLike) -> str:
    return json.dumps(str(path), ensure_ascii=False)
