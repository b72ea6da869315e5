"""INT8 post-training quantization for TensorRT and ONNX Runtime.

    import quantkit

    table = quantkit.calibrate("model.onnx", "images/")
    quantkit.quantize("model.onnx", table, "model.int8.onnx")
    report = quantkit.evaluate("model.onnx", "validation/", table=table)

Importing this package imports nothing heavy: names load what they need when they are first used (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from quantkit._version import __version__

if TYPE_CHECKING:
    from quantkit.backends.tensorrt.build.build_options import BuildOptions
    from quantkit.calibration.table import load_table, save_table
    from quantkit.commands.build import build
    from quantkit.commands.build_best import build_best
    from quantkit.commands.calibrate import calibrate
    from quantkit.commands.evaluate import evaluate
    from quantkit.commands.quantize import quantize, write_tensorrt_cache
    from quantkit.commands.sensitivity import sensitivity
    from quantkit.commands.tune import tune
    from quantkit.errors import QuantKitError
    from quantkit.evaluation.tasks.task import TaskOptions
    from quantkit.graph.float_model import FloatModel
    from quantkit.notices import Notice
    from quantkit.reporting import load_report, write_report
    from quantkit.types import CalibrationTable, Preprocessing, Report
    from quantkit.types.options import CalibrationOptions, EvaluationOptions, ImageOptions

__all__ = [
    "BuildOptions",
    "CalibrationOptions",
    "CalibrationTable",
    "EvaluationOptions",
    "FloatModel",
    "ImageOptions",
    "Notice",
    "Preprocessing",
    "QuantKitError",
    "Report",
    "TaskOptions",
    "__version__",
    "build",
    "build_best",
    "calibrate",
    "evaluate",
    "load_report",
    "load_table",
    "quantize",
    "save_table",
    "sensitivity",
    "tune",
    "write_report",
    "write_tensorrt_cache",
]

_HOMES = {
    "BuildOptions": "quantkit.backends.tensorrt.build.build_options",
    "CalibrationOptions": "quantkit.types.options",
    "CalibrationTable": "quantkit.types",
    "EvaluationOptions": "quantkit.types.options",
    "FloatModel": "quantkit.graph.float_model",
    "ImageOptions": "quantkit.types.options",
    "Notice": "quantkit.notices",
    "Preprocessing": "quantkit.types",
    "QuantKitError": "quantkit.errors",
    "Report": "quantkit.types",
    "TaskOptions": "quantkit.evaluation.tasks.task",
    "build": "quantkit.commands.build",
    "build_best": "quantkit.commands.build_best",
    "calibrate": "quantkit.commands.calibrate",
    "evaluate": "quantkit.commands.evaluate",
    "load_report": "quantkit.reporting",
    "load_table": "quantkit.calibration.table",
    "quantize": "quantkit.commands.quantize",
    "save_table": "quantkit.calibration.table",
    "sensitivity": "quantkit.commands.sensitivity",
    "tune": "quantkit.commands.tune",
    "write_report": "quantkit.reporting",
    "write_tensorrt_cache": "quantkit.commands.quantize",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
