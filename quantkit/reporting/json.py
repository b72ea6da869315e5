"""The report as JSON: `quantkit.types.Report` field by field, readable by any program and back without loss."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from quantkit.errors import EvaluationError, QuantKitError, joined_lines
from quantkit.machine import read_file
from quantkit.reporting.plausibility import check_numbers
from quantkit.types import SCHEMES, Report

_FORMAT_VERSION = 2
_READ_VERSIONS = (1, 2)
"""Version 2 added fields with defaults: task, score, classes, changes, tensors, layers, intervals of latencies."""

_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
"""JSON has no such numbers. A metric may be one (the SQNR of equal outputs is inf): it is written as this string."""

_MAY_BE_NON_FINITE = {
    "changes": ("severity",),
    "tensors": ("sqnr_db", "own_sqnr_db", "amax", "minimum", "maximum", "clipped", "histogram_top"),
}

_TOO_LARGE = 1 << 63

_ON_A_LINE = ("classes", "changes", "tensors", "layers", "units")


def report_json(report: Report) -> str:
    """Writes a report as JSON, keys in the order of the types; equal reports give equal text.

    Indented, but with one line for each class, changed sample, tensor and layer, and for each list of numbers: text
    that two runs can be compared in. A number that is not finite becomes the string "inf", "-inf" or "nan" where the
    report may hold one: metrics, scores of classes, and what is said of changed samples and tensors.

    Raises:
        EvaluationError: another number of the report is not finite.
    """
    content = msgspec.to_builtins(report, enc_hook=_python_number)
    if report.preprocessing is not None:
        content["preprocessing"] = report.preprocessing.declared()
    _replace(content, _text_if_not_finite)
    _refuse_non_finite(content, "report")
    return _indented(content, "", level=0) + "\n"


def load_report(path: str | os.PathLike[str]) -> Report:
    """Reads what `report_json` wrote.

    Raises:
        EvaluationError: naming the file, and the field where one is missing, unknown, of the wrong type or refused.
    """
    try:
        content = msgspec.json.decode(read_file(path))
        _check_format_version(content)
        msgspec.convert(content, _Outline)
        _upgrade(content)
        _replace(content, _number_if_not_finite)
        report = msgspec.convert(content, Report, strict=True)
        _refuse_unknown(content, report, "$")
        _refuse_huge(msgspec.to_builtins(report))
        check_numbers(report)
    except OSError as error:
        reason = "it is a folder; pass the report.json in it" if Path(path).is_dir() else error.strerror or error
        raise EvaluationError(f"cannot read the report {path}: {reason}") from error
    except msgspec.ValidationError as error:
        raise EvaluationError(f"{path} is not a quantkit report: {joined_lines(error)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EvaluationError(f"{path} is not valid JSON: {joined_lines(error)}") from error
    except OverflowError as error:
        raise EvaluationError(f"{path} is not a quantkit report: a number in it is too large") from error
    except QuantKitError as error:
        raise EvaluationError(f"{path} is not a usable report: {joined_lines(error)}") from error
    return report


class _Evaluated(msgspec.Struct):
    metrics: dict[str, Any]


class _Scored(msgspec.Struct):
    scores: dict[str, Any]


class _Outline(msgspec.Struct):
    """What a report of any version must be for `_upgrade` and `_replace`."""

    evaluations: list[_Evaluated]
    classes: list[_Scored] = []
    changes: list[dict[str, Any]] = []
    tensors: list[dict[str, Any]] = []


def _python_number(value: Any) -> Any:
    """A metric of another's making may be numpy's."""
    if isinstance(value, np.generic):
        return value.item()
    raise EvaluationError(f"a report cannot store {value!r}")


def _replace(content: dict[str, Any], change: Callable[[Any], Any]) -> None:
    """Changes every value of the report that may be a number that is not finite, in place."""
    for evaluation in content["evaluations"]:
        evaluation["metrics"] = {name: change(value) for name, value in evaluation["metrics"].items()}
    for scored in content.get("classes", ()):
        scored["scores"] = {name: change(value) for name, value in scored["scores"].items()}
    for part, names in _MAY_BE_NON_FINITE.items():
        for entry in content.get(part, ()):
            entry.update({name: change(entry[name]) for name in names if name in entry})


def _text_if_not_finite(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _number_if_not_finite(value: Any) -> Any:
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _indented(value: Any, name: str, *, level: int) -> str:
    """JSON with two spaces a level; what `_ON_A_LINE` names, and lists of plain values, on one line an entry."""
    inside, outside = "  " * (level + 1), "  " * level
    if isinstance(value, dict) and value:
        lines = (f"{_one(key)}: {_indented(entry, key, level=level + 1)}" for key, entry in value.items())
        return "{\n" + ",\n".join(inside + line for line in lines) + f"\n{outside}}}"
    if isinstance(value, (list, tuple)) and value and not all(isinstance(entry, (int, float)) for entry in value):
        entries = (_one(e) if name in _ON_A_LINE else _indented(e, "", level=level + 1) for e in value)
        return "[\n" + ",\n".join(inside + entry for entry in entries) + f"\n{outside}]"
    return _one(value)


def _one(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def _refuse_non_finite(content: Any, where: str) -> None:
    if isinstance(content, dict):
        for name, value in content.items():
            _refuse_non_finite(value, f"{where}.{name}")
    elif isinstance(content, (list, tuple)):
        for i, value in enumerate(content):
            _refuse_non_finite(value, f"{where}[{i}]")
    elif isinstance(content, float) and not math.isfinite(content):
        raise EvaluationError(f"{where} is {content}: JSON stores finite numbers only")


def _check_format_version(content: Any) -> None:
    version = content.get("format_version") if isinstance(content, dict) else None
    if version is not None and version not in _READ_VERSIONS:
        raise EvaluationError(
            f"format_version {version} is not 1 to {_FORMAT_VERSION}: read it with the quantkit that wrote it"
        )


def _upgrade(content: Any) -> None:
    """Completes an older report, in place: version 1 judged by top-1 wherever there were labels."""
    for evaluation in content["evaluations"]:
        # Reports without `device` are of these runtimes.
        runtime = str(evaluation.get("backend")).partition(" ")[0]
        evaluation.setdefault("device", {"onnxruntime": "cpu", "TensorRT": "gpu", "TensorRT-RTX": "gpu"}.get(runtime))
        evaluation.setdefault("target", _made_for(evaluation))
    if content.get("format_version") == 1:
        content["format_version"] = _FORMAT_VERSION
        if not any("top1" in evaluation["metrics"] for evaluation in content["evaluations"]):
            content["score"] = None


def _made_for(evaluation: dict[str, Any]) -> str | None:
    """The target that a report without it tells by name and times."""
    name, is_representative = evaluation.get("name"), evaluation.get("representative", True)
    if evaluation.get("precision") == "fp32" or (evaluation["device"] == "gpu" and is_representative):
        return None
    if name == "int8-cpu" or (evaluation.get("latency") and is_representative):
        return "cpu"
    return "tensorrt" if name in ("fp16", *SCHEMES) or not is_representative else None


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


def _refuse_huge(content: Any) -> None:
    """An integer beyond 64 bits counts nothing, and no number can be made of its digits everywhere."""
    if isinstance(content, (dict, list, tuple)):
        for value in content.values() if isinstance(content, dict) else content:
            _refuse_huge(value)
    elif isinstance(content, int) and not -_TOO_LARGE < content < _TOO_LARGE:
        raise OverflowError
