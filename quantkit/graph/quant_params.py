"""Scales and zero points of a plan's activations, from calibrated ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from quantkit.errors import CalibrationError
from quantkit.numerics import SMALLEST_SCALE, QuantParams, half_scale, value_bounds
from quantkit.types import UINT8, QdqPlan, TensorRange


def activation_params(plan: QdqPlan, ranges: Mapping[str, TensorRange]) -> dict[str, QuantParams]:
    """Symmetric parameters, in the format of its edges, for every activation of a TensorRT plan.

    Raises:
        CalibrationError: naming the tensors that the table has no range for.
    """
    shared = shared_ranges(plan, ranges)
    return {edge.tensor: QuantParams.from_amax(shared[edge.tensor].amax, edge.format) for edge in plan.activations}


def cpu_params(value_range: TensorRange, *, low: float = -math.inf, high: float = math.inf) -> QuantParams:
    """UINT8 parameters of one activation for ONNX Runtime's x86 kernels, which multiply UINT8 by INT8.

    The calibrated range is clipped to amax and to [low, high] and extended to include 0. A non-negative range gets zero
    point 0, so that saturation replaces a Relu; the largest quantized value never stands for more than `high`, so that
    it replaces a Clip. Other ranges are asymmetric: they span all 256 values, and 0 is represented exactly.

    Args:
        value_range: calibrated.
        low: the values below it need not be represented; at most 0.
        high: the values above it need not be represented; at least 0.

    Example:
        >>> params = cpu_params(TensorRange(amax=2.0, minimum=-0.5, maximum=2.0))
        >>> round(float(params.scale), 4), params.zero_point
        (0.0098, 51)
    """
    levels = value_bounds(UINT8)[1]
    minimum = min(0.0, max(value_range.low, -value_range.amax, low))
    maximum = max(0.0, min(value_range.high, value_range.amax, high))
    if maximum == minimum:
        maximum = value_range.amax if high >= value_range.amax else high or 1.0
    scale = np.float32((maximum - minimum) / levels)
    if minimum == 0.0 and scale * np.float32(levels) > np.float32(high):
        scale = np.nextafter(scale, np.float32(0))
    scale = max(scale, SMALLEST_SCALE)
    return QuantParams(
        scale=np.asarray(scale, np.float32),
        zero_point=int(np.clip(np.rint(-minimum / scale), 0, levels)),
        format=UINT8,
    )


def shared_ranges(plan: QdqPlan, ranges: Mapping[str, TensorRange]) -> dict[str, TensorRange]:
    """Ranges of the plan's tensors; every member of a group gets the group's widest range.

    A member without a range of its own, which a table of an older version may lack, is a copy of others.

    Raises:
        CalibrationError: naming the tensors that the table has no range for.
    """
    needed = dict.fromkeys(edge.tensor for edge in plan.activations)
    known = ranges.keys() | {name for group in plan.groups if group & ranges.keys() for name in group}
    if missing := [name for name in needed if name not in known]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CalibrationError(f"the calibration table has no range for tensor {missing[0]!r}{more}: calibrate again")
    shared = {name: ranges[name] for name in needed if name in ranges}
    for group in plan.groups:
        members = [ranges[name] for name in group if name in ranges]
        widest = TensorRange(
            amax=max(r.amax for r in members),
            minimum=min(r.low for r in members),
            maximum=max(r.high for r in members),
        )
        shared |= {name: widest for name in group if name in needed}
    return shared


def fp16_params(params: QuantParams) -> QuantParams:
    """The same parameters with scales that are exact in FP16, rounded up so that no more values are clipped."""
    return replace(params, scale=half_scale(params.scale))
