"""Variants that are asked for by name: whether the model can be quantized so, and rounded on calibration data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

from quantkit.backends import find_backend
from quantkit.calibration.plan_file import load_plan
from quantkit.calibration.table import load_table
from quantkit.commands.format_rounding import is_rounded, keep_rounding
from quantkit.commands.quantize import check_quantizable
from quantkit.errors import BackendError, ModelError
from quantkit.evaluation.limits import Limits
from quantkit.evaluation.models import OTHER_FORMATS, choose_variants
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import float_precision, open_file
from quantkit.machine import open_regular
from quantkit.notices import Notify
from quantkit.processor import products_saturate
from quantkit.types import SCHEMES, CalibrationTable, PathLike
from quantkit.types.options import EvaluationOptions, ImageOptions, QuantizeOptions, Target
from quantkit.types.quantization import Format


def check_variants(
    model: FloatModel,
    options: EvaluationOptions,
    table: CalibrationTable | PathLike | None,
    limits: Limits | None = None,
) -> None:
    """Refuses what is asked for by name and cannot be had, before anything is calibrated or measured.

    A variant that the model cannot have is left out instead where others are asked for, and no limit.

    Raises:
        EvaluationError: there is no such variant, or it needs a table.
        ModelError: the model cannot be quantized so, or the file of a variant is missing.
        BackendError: an engine cannot be read.
        CalibrationError: the plan cannot be read.
    """
    if isinstance(options.plan, str | Path):
        load_plan(options.plan)
    for file in (options.models or {}).values():
        open_file(find_backend(file)[1]).close()
    for name, file in (options.engines or {}).items():
        try:
            open_regular(find_backend(file)[1]).close()
        except OSError as error:
            raise BackendError(f"--engine {name}: cannot read {file}: {error.strerror or error}") from error
    names = choose_variants(options.variants, table, float_precision(model.graph))
    refused = _refused(model, options, names if options.variants is not None else ())
    others = {*names[1:], *(options.models or {}), *(options.engines or {})} - refused.keys()
    if refused and (limits or not others):
        raise next(iter(refused.values()))


def _refused(model: FloatModel, options: EvaluationOptions, names: Iterable[str]) -> dict[str, ModelError]:
    """Those among the names of variants that the model cannot have, with the reason."""
    found = {}
    for name in names:
        if name in SCHEMES or name == "int8-cpu":
            try:
                check_quantizable(model, how_to_make(name, options))
            except ModelError as error:
                found[name] = error
    return found


def round_variants(
    model: FloatModel, table: PathLike, data: PathLike, options: EvaluationOptions, notify: Notify
) -> None:
    """Rounds weights of the formats that are asked for by name on calibration data, and keeps them beside the table."""
    names = () if options.variants is None else choose_variants(options.variants, table)
    others = [name for name in names if name in OTHER_FORMATS]
    refused = _refused(model, options, others)
    for name in others:
        if name not in refused and not is_rounded(model, load_table(table), how_to_make(name, options)):
            said = options.preprocess if isinstance(options.preprocess, ImageOptions) else None
            keep_rounding(model, table, how_to_make(name, options), data, said, notify)


def how_to_make(name: str, options: EvaluationOptions) -> QuantizeOptions:
    """A variant that is made of a table."""
    target: Target = "cpu" if name == "int8-cpu" else "tensorrt"
    return QuantizeOptions(
        target=target,
        format=cast(Format, name if name in OTHER_FORMATS else "int8"),
        exclude=options.exclude,
        quantize_all=options.quantize_all,
        reduce_range=target == "cpu" and products_saturate(),
    )
