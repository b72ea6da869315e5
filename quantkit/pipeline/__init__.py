"""The story of quantkit: images and a model → calibration table → INT8 model → engine, report.

Wires the stages and shows progress; what a stage does is left to the stage, and nothing here touches a tensor's values.
"""

from quantkit.pipeline.building import BuiltEngine, EngineLibrary, build
from quantkit.pipeline.calibration import calibrate
from quantkit.pipeline.data import ImageOptions, Order, Tell
from quantkit.pipeline.evaluation import VARIANTS, evaluate
from quantkit.pipeline.merging import merge_statistics
from quantkit.pipeline.native_calibration import CalibratorName
from quantkit.pipeline.quantization import (
    DEFAULT_TENSORRT_VERSION,
    HighPrecision,
    Target,
    check_quantizable,
    quantize,
    write_tensorrt_cache,
)
from quantkit.pipeline.tasks import TaskOptions

__all__ = [
    "DEFAULT_TENSORRT_VERSION",
    "VARIANTS",
    "BuiltEngine",
    "CalibratorName",
    "EngineLibrary",
    "HighPrecision",
    "ImageOptions",
    "Order",
    "Target",
    "TaskOptions",
    "Tell",
    "build",
    "calibrate",
    "check_quantizable",
    "evaluate",
    "merge_statistics",
    "quantize",
    "write_tensorrt_cache",
]
