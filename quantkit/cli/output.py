"""What commands print."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from quantkit.caches.files import CalibrationFiles
from quantkit.calibration.methods import METHODS
from quantkit.cli.as_json import echo_json, echo_written
from quantkit.errors import OutputError
from quantkit.graph.float_model import FloatModel
from quantkit.machine import read_text
from quantkit.notices import Notice, Notify, group_by_reason, visible
from quantkit.refinement.quality import describe_quality
from quantkit.types import INT8, SCHEMES, CalibrationTable, PathLike, QuantizedModel, Refinement
from quantkit.types.options import QuantizeOptions
from quantkit.urls import without_credentials

_SHOWN_REASONS = 8

_FILES = (
    *(".onnx", ".engine", ".plan", ".trt", ".json", ".calib", ".html", ".toml", ".txt", ".cache", ".csv", ".jpg"),
    *(".md", ".npy", ".npz", ".pdf", ".png", ".pt", ".pth", ".tflite", ".xml", ".yaml", ".zip"),
)
"""Suffixes that make -o a file, also of files that no command writes."""

_HISTOGRAMS = {
    "exact": "exact: independent of order and split; mostly within 10% of TensorRT's rule",
    "tensorrt": "TensorRT's rule: ranges depend on the order of the images",
}
"""Measured on five models: docs/explanation/calibration.md."""


def print_calibration(
    model: FloatModel,
    table: CalibrationTable,
    quantized: QuantizedModel,
    options: QuantizeOptions,
    *,
    files: CalibrationFiles,
    kept: Container[Path],
    quiet: bool,
    as_json: bool = False,
) -> None:
    """A short table, if not quiet, and the paths of the files: which were written, which were `kept` as they are.

    With `as_json`, they go to stderr, and a document with the same facts to stdout.
    """
    values = [table.settings.get(option.name) for option in METHODS[table.method].own_options]
    method = " ".join([table.method, *(str(value) for value in values if value is not None)])
    rows = [
        ("samples", str(table.num_samples)),
        ("method", method),
        ("histogram", _HISTOGRAMS[str(table.settings["histogram"])]),
        ("tensors with a range", str(len(table.tensors))),
        *(_refined_rows(table, quantized) if SCHEMES[quantized.format].activations == INT8 else ()),
        *_quantized_rows(model, quantized),
    ]
    if quality := _quality(table, options):
        rows.append(("INT8 output", describe_quality(quality)))
    for label, value in () if quiet else rows:
        typer.echo(f"  {label:24}{value}", err=as_json)
    outputs = _describe_files(table, quantized, files)
    if as_json:
        written = [{"path": p, "content": what, "is_written": p not in kept} for p, what in outputs.items()]
        facts = {"num_samples": table.num_samples, "settings": table.settings, "num_tensors": len(table.tensors)}
        echo_json({**facts, **_quantized_document(model, quantized, table, options), "files": written})
    for path, what in outputs.items():
        typer.echo(f"{'kept ' if path in kept else 'wrote'} {path}  {what}", err=as_json)


def _describe_files(table: CalibrationTable, quantized: QuantizedModel, files: CalibrationFiles) -> dict[Path, str]:
    """What each file that a calibration leaves holds."""
    outputs = {files.table: "calibration table"}
    if table.refinement is not None:
        outputs[files.refinement] = _refinement_contents(table.refinement)
    if quantized.format != "int8" and files.rounding(quantized.format).is_file():
        outputs[files.rounding(quantized.format)] = f"weights rounded to {quantized.format.upper()}"
    if files.tensorrt_cache.is_file():
        header = read_text(files.tensorrt_cache).partition("\n")[0]
        outputs[files.tensorrt_cache] = f"TensorRT calibration cache ({header})"
    outputs[quantized.path] = f"{quantized.format.upper()} model"
    return outputs


def _refinement_contents(refinement: Refinement) -> str:
    found = {
        "rounded weights": refinement.weights,
        "corrected biases": refinement.biases,
        "shifts": refinement.shifts,
        "channel scales": refinement.channel_scales,
    }
    return ", ".join(what for what, values in found.items() if values) or "empty: weights are rounded to nearest"


def _refined_rows(table: CalibrationTable, quantized: QuantizedModel) -> list[tuple[str, str]]:
    """What was found on samples: how weights were rounded, what stays in float and why."""
    rows = []
    if table.refinement is not None:
        count = len(table.refinement.weights)
        rounding = f"{count} rounded with error feedback" if count else "rounded to nearest"
        rows.append(("weights", rounding))
    return rows + _float_rows(table, quantized)


def _float_rows(table: CalibrationTable, quantized: QuantizedModel) -> list[tuple[str, str]]:
    """The activations that stay in float for the sake of accuracy, with what each would cost."""
    named = _left_in_float(table, quantized)
    if not named:
        return []
    rows = [("activations in float", f"{len(named)}")]
    rows += [("", f"{name}: {reason}") for name, reason in named[:_SHOWN_REASONS]]
    if len(named) > _SHOWN_REASONS:
        rows.append(("", f"{len(named) - _SHOWN_REASONS} more: quantkit cache show lists them"))
    return rows


def _left_in_float(table: CalibrationTable, quantized: QuantizedModel) -> list[tuple[str, str]]:
    """With the reasons of its format: INT8 and FP8 each have a choice of their own."""
    chosen = table.for_scheme(SCHEMES[quantized.format]).float_tensors
    return [(name, reason) for name, reason in chosen.items() if name in quantized.skipped]


def print_quantized(
    model: FloatModel,
    quantized: QuantizedModel,
    table: CalibrationTable,
    options: QuantizeOptions,
    *,
    list_float: bool,
    quiet: bool = False,
    as_json: bool = False,
) -> None:
    """What is quantized, what is not and why, if not quiet, and the path; or the same as a document."""
    if as_json:
        echo_written([quantized.path], as_json=True, **_quantized_document(model, quantized, table, options))
        return
    if quiet and not list_float:
        typer.echo(f"wrote {quantized.path}")
        return
    for label, value in [*_float_rows(table, quantized), *_quantized_rows(model, quantized)]:
        typer.echo(f"  {label:24}{value}")
    if list_float:
        for name, reason in quantized.skipped.items():
            typer.echo(f"  {name}: {reason}")
    elif quantized.skipped:
        groups = list(group_by_reason(quantized.skipped).items())
        typer.echo(f"  {len(quantized.skipped)} tensors stay in float:")
        for reason, names in groups[:_SHOWN_REASONS]:
            typer.echo(f"  {len(names):6}  {reason}")
        if others := sum(len(names) for _, names in groups[_SHOWN_REASONS:]):
            typer.echo(f"  {others:6}  for other reasons (--list-float names each)")
    typer.echo(f"wrote {quantized.path}")


def _quality(table: CalibrationTable, options: QuantizeOptions) -> Mapping[str, float] | None:
    """What the output of the model with these options is worth, where calibration measured that model."""
    measured = QuantizeOptions(rounding=options.rounding, high_precision="fp32")
    made = replace(options, high_precision=options.float_precision, exclude=tuple(options.exclude))
    as_rounded = table.settings.get("rounding") in (None, options.rounding)
    has_weights = table.refinement is not None or "rounding" not in table.settings
    return table.quality if table.quality and made == measured and as_rounded and has_weights else None


def _quantized_document(
    model: FloatModel, quantized: QuantizedModel, table: CalibrationTable, options: QuantizeOptions
) -> dict[str, Any]:
    """What is quantized, what is not and why."""
    return {
        "model": model.name,
        "model_hash": model.hash,
        "format": quantized.format,
        "num_quantized": quantized.num_quantized,
        "num_weighted": quantized.num_weighted,
        "weight_share": quantized.weight_share,
        "work_share": quantized.work_share,
        "float_size_bytes": model.size_bytes,
        "size_bytes": quantized.size_bytes,
        "quality": _quality(table, options),
        "float_tensors": dict(_left_in_float(table, quantized)),
        "skipped": quantized.skipped,
    }


def _quantized_rows(model: FloatModel, quantized: QuantizedModel) -> list[tuple[str, str]]:
    before, after = model.size_bytes, quantized.size_bytes
    name = quantized.format.upper()
    shares = {"weights": quantized.weight_share, "multiply-adds": quantized.work_share}
    parts = [f"{100 * share:.3g}% of {what}" for what, share in shares.items() if share is not None]
    return [
        (f"operators in {name}", f"{quantized.num_quantized} of {quantized.num_weighted}"),
        *([(f"{name} share", ", ".join(parts))] if parts else []),
        ("model size", f"{megabytes(before)} → {megabytes(after)} ({_ratio(before, after)})"),
    ]


def _ratio(before: int, after: int) -> str:
    return f"{before / after:.1f}x smaller" if before >= after else f"{after / before:.1f}x larger"


def megabytes(size: int) -> str:
    """A size in bytes for people."""
    if size < 1e6:
        return f"{size / 1e3:.2f} kB" if size < 1e4 else f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.2f} MB" if size < 1e8 else f"{size / 1e6:.0f} MB"


def output_path(output: Path | None, default: Path, *also: str, data: Sequence[PathLike | None] = ()) -> Path:
    """Where -o wants what is at `default` without it: a name that ends as a file does is the file, else the folder.

    Args:
        output: as given.
        default: its suffix is that of a file.
        also: other suffixes that the command writes.
        data: what the command reads; -o must not name its folder.

    Raises:
        BadParameter: the name ends as another command's file does.
        OutputError: it is the folder of the data.
    """
    if output is None:
        return default
    if str(output) == "-":
        raise typer.BadParameter("files cannot go to standard output: name a file or folder", param_hint="--output")
    if output.is_dir() or output.suffix.lower() not in _FILES:
        if any(read is not None and os.path.isdir(read) and output.is_dir() and output.samefile(read) for read in data):
            raise OutputError(f"Refusing to write into the folder of the data {output}; choose another path with -o.")
        return output / default.name
    if output.suffix not in (default.suffix, *also):
        raise typer.BadParameter(f"{output} is neither a {default.suffix} file nor a folder", param_hint="--output")
    return output


def command_line() -> str | None:
    """What was typed, None where this is no command."""
    program = Path(sys.argv[0])
    is_command = program.stem == "quantkit" or (program.name == "__main__.py" and program.parent.name == "quantkit")
    return shlex.join(["quantkit", *map(without_credentials, sys.argv[1:])]) if is_command else None


def make_printer(quiet: bool) -> Notify:
    """Prints notices to stderr; if quiet, warnings only."""

    def notify(notice: Notice) -> None:
        if not quiet or notice.kind == "warning":
            typer.echo(visible(str(notice)), err=True)

    return notify
