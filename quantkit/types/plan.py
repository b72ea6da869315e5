"""A quantization plan: which tensors stay in float so that the score keeps a budget, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class PlanPoint:
    """One evaluated choice of tensors.

    Attributes:
        num_float: tensors left in float, those of the calibration among them.
        quantized_work: share of the multiply-adds in INT8 or another format, 0 to 1.
        score: of the quantized model.
        loss: how much worse than FP32's the score is: in the score's own unit, or, of a budget in percent, as a
            fraction of FP32's score.
        interval: 95% interval of the loss; None where there is none.
        num_other: tensors in another format than INT8.
    """

    num_float: int
    quantized_work: float
    score: float
    loss: float
    interval: tuple[float, float] | None = None
    num_other: int = 0


@dataclass(frozen=True)
class QuantizationPlan:
    """Tensors to leave in float on top of a calibration table.

    Attributes:
        model_name: file name of the model.
        model_hash: of the float model.
        table_checksum: of the calibration table that it was found for.
        float_tensors: activations whose readers stay in float, with the reason.
        float_nodes: operators that run in float for that.
        max_drop: the budget, as given.
        verdict: "met", "missed", or "unknown": the 95% interval of the loss includes the budget.
        explanation: of the verdict, one sentence.
        score_name: metric of the score.
        is_fraction: whether the score is a fraction, shown in percent.
        loss_unit: "pt" (points) or "%" (of FP32's score), as which 100 times the loss is shown; empty: the score's own.
        point: what the plan's own choice scored.
        front: all that was evaluated, the fewest tensors in float first.
        dataset_fingerprint: of the validation data.
        num_samples: of the validation data.
        formats: activations whose readers are quantized to another format than INT8, with its name.
    """

    model_name: str
    model_hash: str
    table_checksum: str
    float_tensors: Mapping[str, str]
    float_nodes: tuple[str, ...]
    max_drop: str
    verdict: Literal["met", "missed", "unknown"]
    explanation: str
    score_name: str
    is_fraction: bool
    loss_unit: Literal["pt", "%", ""]
    point: PlanPoint
    front: tuple[PlanPoint, ...]
    dataset_fingerprint: str
    num_samples: int
    formats: Mapping[str, Literal["fp8"]] = field(default_factory=dict)
