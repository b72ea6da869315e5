"""What `quantkit inspect --json` prints: one object, whose "kind" says which fields it has."""

from __future__ import annotations

import fnmatch
from typing import Any

from quantkit.backends.tensorrt.inspection.engine_layers import QuantizedShare
from quantkit.caches.inspection import CacheInspection, Sort, TableInspection, select_tensors
from quantkit.cli.as_json import members
from quantkit.commands.inspect import EngineInspection, Inspection
from quantkit.graph.inspection import ModelInspection
from quantkit.graph.qdq_lint import Operator
from quantkit.types import CalibrationTable


def json_from_inspection(result: Inspection, *, sort: Sort, pattern: str | None) -> dict[str, Any]:
    """A dictionary of what JSON can hold; times in ms, sizes in bytes, shares from 0 to 1."""
    if isinstance(result, EngineInspection):
        return _engine(result, pattern)
    if isinstance(result, ModelInspection):
        return _model(result, pattern)
    if isinstance(result, CacheInspection):
        return {
            "kind": "calibration cache",
            "path": str(result.path),
            "header": result.header,
            "tensorrt_version": result.tensorrt_version,
            "algorithm": result.algorithm,
            "meaning": list(result.meaning),
            "tensors": select_tensors(result.tensors, sort=sort, pattern=pattern),
        }
    return _table(result, sort, pattern)


def _engine(result: EngineInspection, pattern: str | None) -> dict[str, Any]:
    engine_layers = result.engine_layers
    reasons = {id(item.layer): item.reason for item in engine_layers.left_in_float}
    time = engine_layers.time_coverage
    return {
        "kind": "engine",
        "path": str(result.path),
        "source": engine_layers.source,
        "made_of": dict(result.made_of),
        "targets": list(engine_layers.targets),
        "memory_bytes": dict(engine_layers.memory_bytes),
        "has_details": engine_layers.has_details,
        "int8_weighted_layers": _share(engine_layers.weighted_coverage),
        "int8_layers": _share(engine_layers.layer_coverage),
        "int8_ms": None if time is None else _share(time),
        "total_ms": engine_layers.total_ms,
        "reformats": len(engine_layers.reformats),
        "reformat_ms": engine_layers.reformat_ms,
        "notes": list(engine_layers.notes),
        "layers": [
            {**members(layer), "is_int8": layer.is_quantized, "float_reason": reasons.get(id(layer))}
            for layer in engine_layers.layers
            if pattern is None or any(fnmatch.fnmatchcase(n, pattern) for n in (layer.name, *layer.onnx_nodes))
        ],
    }


def _model(result: ModelInspection, pattern: str | None) -> dict[str, Any]:
    operators = [o for o in result.operators if pattern is None or fnmatch.fnmatchcase(o.name, pattern)]
    fields = members(result)
    return {
        "kind": "model",
        **fields,
        "path": str(result.path),
        "num_weighted": result.num_weighted,
        "num_int8": result.num_quantized,
        "operators": [_operator(o) for o in operators],
    }


def _operator(operator: Operator) -> dict[str, Any]:
    return {"is_int8" if key == "is_quantized" else key: value for key, value in members(operator).items()}


def _share(share: QuantizedShare) -> dict[str, float]:
    return {"int8": share.quantized, "total": share.total}


def _table(result: TableInspection, sort: Sort, pattern: str | None) -> dict[str, Any]:
    return {
        "kind": "calibration table",
        "path": str(result.path),
        **json_from_origin(result.table),
        "tensors": select_tensors(result.tensors, sort=sort, pattern=pattern),
    }


def json_from_origin(table: CalibrationTable) -> dict[str, Any]:
    """What a table belongs to."""
    return {
        "model_name": table.model_name,
        "model_hash": table.model_hash,
        "dataset_fingerprint": table.dataset_fingerprint,
        "num_samples": table.num_samples,
        "settings": dict(table.settings),
        "versions": dict(table.versions),
        "preprocessing": None if table.preprocessing is None else table.preprocessing.declared(),
    }
