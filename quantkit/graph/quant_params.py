"""From calibrated ranges to the scales that a plan needs. Where they go is the plan's; how they get there, `qdq`'s."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from quantkit.errors import CalibrationError
from quantkit.numerics import QuantParams
from quantkit.types import QdqPlan, TensorRange

__all__ = ["SMALLEST_FP16_SCALE", "activation_params", "cpu_params", "fp16_params", "shared_ranges"]

SMALLEST_FP16_SCALE = 2.0**-24
"""Smallest positive FP16 number: a scale below it would become 0, which TensorRT refuses."""

_SMALLEST_SCALE = np.float32(2.0**-100)


def activation_params(plan: QdqPlan, ranges: Mapping[str, TensorRange]) -> dict[str, QuantParams]:
    """Symmetric INT8 parameters (amax / 127, zero point 0) for every activation of a TensorRT plan.

    Raises:
        CalibrationError: naming the tensors that the table has no range for.
    """
    shared = shared_ranges(plan, ranges)
    return {edge.tensor: QuantParams.from_amax(shared[edge.tensor].amax) for edge in plan.activations}


def cpu_params(value_range: TensorRange, *, low: float = -math.inf, high: float = math.inf) -> QuantParams:
    """UINT8 parameters of one activation for ONNX Runtime's x86 kernels, which multiply UINT8 by INT8.

    The range is what was seen, clipped to amax and to [low, high], and always holds 0. A range from 0 upwards gets zero
    point 0, so that saturation does the work of a Relu; the last code never lies above `high`, so that it does that of
    a Clip. A range below 0 is spread over all 256 codes, 0 exactly on one of them.

    Args:
        value_range: calibrated.
        low: no code is needed below it; at most 0.
        high: no code is needed above it; at least 0.
    """
    minimum = min(0.0, max(value_range.minimum, -value_range.amax, low))
    maximum = max(0.0, min(value_range.maximum, value_range.amax, high))
    if maximum == minimum:
        maximum = value_range.amax if high >= value_range.amax else high or 1.0
    scale = np.float32((maximum - minimum) / 255)
    if minimum == 0.0 and scale * np.float32(255) > np.float32(high):
        scale = np.nextafter(scale, np.float32(0))
    scale = max(scale, _SMALLEST_SCALE)
    return QuantParams(
        scale=np.asarray(scale, np.float32),
        zero_point=int(np.clip(np.rint(-minimum / scale), 0, 255)),
        dtype=np.dtype(np.uint8),
    )


def shared_ranges(plan: QdqPlan, ranges: Mapping[str, TensorRange]) -> dict[str, TensorRange]:
    """Ranges of the plan's tensors, with the widest of its group for each member of a group.

    Raises:
        CalibrationError: naming the tensors that the table has no range for.
    """
    needed = dict.fromkeys(edge.tensor for edge in plan.activations)
    if missing := [name for name in needed if name not in ranges]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CalibrationError(f"the calibration table has no range for tensor {missing[0]!r}{more}: calibrate again")
    shared = {name: ranges[name] for name in needed}
    for group in plan.groups:
        members = [ranges[name] for name in group if name in ranges]
        widest = TensorRange(
            amax=max(r.amax for r in members),
            minimum=min(r.minimum for r in members),
            maximum=max(r.maximum for r in members),
        )
        shared |= {name: widest for name in group if name in shared}
    return shared


def fp16_params(params: QuantParams) -> QuantParams:
    """The same parameters with scales that FP16 holds exactly, rounded up so that nothing is clipped more."""
    wide = np.maximum(params.scale, np.float32(SMALLEST_FP16_SCALE))
    half = wide.astype(np.float16)
    half = np.where(half.astype(np.float32) < wide, np.nextafter(half, np.float16(np.inf)), half)
    return QuantParams(
        scale=half.astype(np.float32),
        zero_point=params.zero_point,
        axis=params.axis,
        dtype=params.dtype,
        narrow=params.narrow,
    )
