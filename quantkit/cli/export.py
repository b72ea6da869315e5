"""The commands `export triton`, `export deepstream` and `export trtexec`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from quantkit.backends.tensorrt.build.build_options import BuildOptions, ShapeOptions
from quantkit.backends.tensorrt.build.profiles import parse_profiles
from quantkit.cli.arguments import ModelArgument
from quantkit.cli.as_json import JsonOption, echo_json, echo_written
from quantkit.cli.generate import with_options
from quantkit.cli.group import Group
from quantkit.cli.output import make_printer, output_path
from quantkit.commands.export import export_deepstream, export_triton, trtexec_command
from quantkit.types.options import DeepStreamOptions, MessageOptions, TritonOptions, TrtexecOptions

export_app = typer.Typer(
    help="Write what Triton, DeepStream or trtexec needs to run or build a model.",
    no_args_is_help=True,
    add_completion=False,
    cls=Group,
)


@export_app.callback()
def _export() -> None:
    """Write what Triton, DeepStream or trtexec needs to run or build a model."""


@export_app.command()
@with_options
def triton(
    model: ModelArgument,
    options: TritonOptions,
    messages: MessageOptions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Triton model repository.")] = Path("model_repository"),
    as_json: JsonOption = False,
) -> None:
    """Write a Triton repository: config.pbtxt with shapes, types and dynamic batching, and the engine or ONNX model."""
    made = export_triton(model, output_path(output, Path("config.pbtxt")).parent, options)
    if not messages.quiet:
        batching = f"dynamic batching up to {made.max_batch}" if made.max_batch else "no batching: a dimension is fixed"
        typer.echo(f"  {'batches':24}{batching}", err=as_json)
    echo_written(made.files, as_json=as_json, max_batch=made.max_batch)


@export_app.command()
@with_options
def deepstream(
    model: ModelArgument,
    options: DeepStreamOptions,
    messages: MessageOptions,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File (.txt) or folder (default: MODEL.nvinfer.txt next to the model)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the [property] lines of DeepStream's nvinfer, with the calibration cache and the preprocessing."""
    path = output_path(output, model.with_name(f"{model.stem}.nvinfer.txt"))
    echo_written([export_deepstream(model, path, options, make_printer(messages.quiet))], as_json=as_json)


@export_app.command()
@with_options
def trtexec(
    model: ModelArgument,
    options: TrtexecOptions,
    shapes: ShapeOptions,
    build: BuildOptions,
    messages: MessageOptions,
    as_json: JsonOption = False,
) -> None:
    """Print the trtexec command that builds the engine, for people who build on the device."""
    build = replace(build, profiles=parse_profiles(shapes.min_shapes, shapes.opt_shapes, shapes.max_shapes))
    command = trtexec_command(model, options, build)
    if as_json:
        echo_json({"command": command, "arguments": shlex.split(command)})
    else:
        typer.echo(command)
