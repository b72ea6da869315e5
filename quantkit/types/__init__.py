"""The types that the stages of quantkit pass to each other. numpy is imported for type checkers only.

How a value is computed is left to the stage that computes it; how it is stored, to `quantkit.calibration.table` and
`quantkit.reporting`.
"""

from __future__ import annotations

from quantkit.types.calibration import (
    CalibrationTable,
    HistogramRule,
    TensorRange,
    TensorStatistics,
)
from quantkit.types.data import (
    Array,
    Batch,
    BoxAnnotations,
    Boxes,
    ColorOrder,
    Dataset,
    Interpolation,
    Layout,
    MaskAnnotations,
    PathLike,
    Preprocessing,
    Resize,
    Sample,
    TensorSpec,
)
from quantkit.types.evaluation import (
    TOP1,
    ChangedSample,
    ClassScore,
    Evaluation,
    Interval,
    Latency,
    LayerPlacement,
    Report,
    Score,
    TensorQuality,
)
from quantkit.types.gate_check import GateCheck
from quantkit.types.plan import PlanPoint, QuantizationPlan
from quantkit.types.quantization import (
    BLOCK_SIZES,
    FP8,
    INT8,
    OLDEST_QDQ_OPSET,
    SCHEMES,
    UINT8,
    Format,
    Precision,
    QdqEdge,
    QdqPlan,
    QuantFormat,
    QuantizedModel,
    QuantScheme,
    block_format,
    title_of,
    weight_format,
)
from quantkit.types.refinement import Refinement, RoundedWeight
from quantkit.types.running import QueryTimes, Runner, SharedModel, TimedRunner
from quantkit.types.sensitivity import RankedUnit, SensitivityRanking

__all__ = [
    "BLOCK_SIZES",
    "FP8",
    "INT8",
    "OLDEST_QDQ_OPSET",
    "SCHEMES",
    "TOP1",
    "UINT8",
    "Array",
    "Batch",
    "BoxAnnotations",
    "Boxes",
    "CalibrationTable",
    "ChangedSample",
    "ClassScore",
    "ColorOrder",
    "Dataset",
    "Evaluation",
    "Format",
    "GateCheck",
    "HistogramRule",
    "Interpolation",
    "Interval",
    "Latency",
    "LayerPlacement",
    "Layout",
    "MaskAnnotations",
    "PathLike",
    "PlanPoint",
    "Precision",
    "Preprocessing",
    "QdqEdge",
    "QdqPlan",
    "QuantFormat",
    "QuantScheme",
    "QuantizationPlan",
    "QuantizedModel",
    "QueryTimes",
    "RankedUnit",
    "Refinement",
    "Report",
    "Resize",
    "RoundedWeight",
    "Runner",
    "Sample",
    "Score",
    "SensitivityRanking",
    "SharedModel",
    "TensorQuality",
    "TensorRange",
    "TensorSpec",
    "TensorStatistics",
    "TimedRunner",
    "block_format",
    "title_of",
    "weight_format",
]
