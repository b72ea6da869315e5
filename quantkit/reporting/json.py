"""The report as JSON: `quantkit.types.Report` field by field, readable by any program and back without loss."""

from __future__ import annotations

import math
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import msgspec

from quantkit.errors import EvaluationError, QuantKitError
from quantkit.types import Report

__all__ = ["load_report", "report_json"]

_FORMAT_VERSION = 2
_READ_VERSIONS = (1, 2)
"""Version 2 added fields with defaults: task, score, classes, changes, tensors, layers, intervals of latencies."""

_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
"""JSON has no such numbers. A metric may be one (the SQNR of equal outputs is inf): it is written as this string."""


def report_json(report: Report) -> str:
    """Writes a report as JSON, indented, keys in the order of the types; equal reports give equal text.

    A metric that is not finite becomes the string "inf", "-inf" or "nan".

    Raises:
        EvaluationError: another number of the report is not finite.
    """
    content = msgspec.to_builtins(report)
    for evaluation in content["evaluations"]:
        evaluation["metrics"] = {name: _text_if_not_finite(value) for name, value in evaluation["metrics"].items()}
    _refuse_non_finite(content, "report")
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n"


def load_report(path: str | os.PathLike[str]) -> Report:
    """Reads what `report_json` wrote.

    Raises:
        EvaluationError: naming the file, and the field where one is missing, unknown, of the wrong type or refused.
    """
    try:
        content = msgspec.json.decode(Path(path).read_bytes())
        _check_format_version(content)
        for evaluation in content["evaluations"]:
            metrics = evaluation["metrics"]
            evaluation["metrics"] = {k: _NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in metrics.items()}
        report = msgspec.convert(content, Report, strict=True)
        _refuse_unknown(content, report, "$")
    except OSError as error:
        raise EvaluationError(f"cannot read the report {path}: {error.strerror or error}") from error
    except msgspec.ValidationError as error:
        raise EvaluationError(f"{path} is no quantkit report: {_one_line(error)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} is not valid JSON: {_one_line(error)}") from error
    except (KeyError, TypeError, AttributeError):
        raise EvaluationError(
            f"{path} is no quantkit report: `evaluations` must be a list, each with `metrics`"
        ) from None
    except QuantKitError as error:
        raise EvaluationError(f"{path} is no usable report: {_one_line(error)}") from error
    return report


def _text_if_not_finite(value: float) -> float | str:
    if math.isnan(value):
        return "nan"
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def _refuse_non_finite(content: Any, where: str) -> None:
    if isinstance(content, dict):
        for name, value in content.items():
            _refuse_non_finite(value, f"{where}.{name}")
    elif isinstance(content, (list, tuple)):
        for i, value in enumerate(content):
            _refuse_non_finite(value, f"{where}[{i}]")
    elif isinstance(content, float) and not math.isfinite(content):
        raise EvaluationError(f"{where} is {content}: JSON holds finite numbers only")


def _check_format_version(content: Any) -> None:
    version = content.get("format_version") if isinstance(content, dict) else None
    if version is not None and version not in _READ_VERSIONS:
        raise EvaluationError(
            f"format_version {version} is not 1 to {_FORMAT_VERSION}: read it with the quantkit that wrote it"
        )


def _refuse_unknown(content: Any, value: Any, where: str) -> None:
    """A misspelt optional field would otherwise be dropped without a word."""
    if is_dataclass(value):
        known = {f.name for f in fields(value)}
        if unknown := sorted(content.keys() - known):
            raise EvaluationError(f"unknown field `{unknown[0]}` - at `{where}`")
        for name in content:
            _refuse_unknown(content[name], getattr(value, name), f"{where}.{name}")
    elif isinstance(value, tuple):
        for i, (inner, item) in enumerate(zip(content, value, strict=True)):
            _refuse_unknown(inner, item, f"{where}[{i}]")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
