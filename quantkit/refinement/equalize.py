"""Factors that bring the channels of an activation to equal ranges, or part of the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from quantkit.errors import CalibrationError
from quantkit.graph.passes.input_channels import WeightRows


def equalizing_scales(
    channel_amax: npt.ArrayLike, weight_amax: npt.ArrayLike | None = None, *, alpha: float = 1.0, max_ratio: float = 256
) -> npt.NDArray[np.float32]:
    """What each channel is to be multiplied by before it is quantized.

    The factor of channel c is weight_amax[c]^(1 - alpha) / channel_amax[c]^alpha: the inverse of SmoothQuant's divisor
    (Xiao et al., ICML 2023, equation 4). With alpha 1 every channel gets the range of the largest, as cross-layer
    equalization does before depthwise convolutions (Nagel et al., ICCV 2019). The factors are normalized so that the
    range of the whole activation stays what it was.

    Args:
        channel_amax: the largest magnitude of each channel of the activation: [C].
        weight_amax: that of the weights of each channel, over all readers: [C]. Not needed with alpha 1.
        alpha: how much of the difficulty goes into the weights: 0 to 1.
        max_ratio: channels, and weights, with a smaller part of the largest range than 1 / `max_ratio` are treated as
            if they had that: noise is not blown up to full range, and the factors differ by no more than this.

    Returns:
        [C]. A channel that was always zero gets the smallest factor: what it will hold is not known.

    Raises:
        CalibrationError: alpha is not in [0, 1], or below 1 without weights.

    Example:
        >>> equalizing_scales([4.0, 1.0, 0.5, 0.0])
        array([1., 4., 8., 1.], dtype=float32)
    """
    if not 0 <= alpha <= 1 or (alpha < 1 and weight_amax is None):
        raise CalibrationError(f"alpha {alpha} is not between 0 and 1, or below 1 without the ranges of the weights")
    ranges = np.asarray(channel_amax, np.float64)
    if not ranges.max(initial=0) > 0:
        return np.ones(ranges.shape, np.float32)
    weights = _bounded(np.ones_like(ranges) if weight_amax is None else np.asarray(weight_amax, np.float64), max_ratio)
    factors = weights ** (1 - alpha) / _bounded(ranges, max_ratio) ** alpha
    factors[ranges == 0] = factors[ranges > 0].min()
    return np.asarray(factors * (ranges.max() / (factors * ranges).max()), np.float32)


def rounding_error(
    rows: Sequence[WeightRows],
    variance: npt.NDArray[np.float64],
    factors: npt.NDArray[np.floating],
    amax: float,
) -> tuple[float, float]:
    """What rounding does to the outputs of the readers of an activation, in expectation: sums of squared errors.

    An activation that is rounded in steps of d has an error of d^2 / 12 (Widrow, 1956), and so have weights.

    Args:
        rows: the weights of each reader.
        variance: of each channel of the activation, [C]: the bias takes up what is constant.
        factors: that the channels are multiplied by, and their weights divided by: [C].
        amax: range of the activation behind them.

    Returns:
        From rounding the activation, and from rounding the weights, each row with a scale of its own.

    Example:
        >>> weights, channels = np.array([[1.0, 0.01]]), np.array([[0, 1]])
        >>> rounding_error([(weights, channels)], np.array([0.01, 100.0]), np.array([1.0, 1.0]), 30.0)[1] > 0.0005
        True
    """
    exact = np.asarray(factors, np.float64)
    of_activation = of_weights = 0.0
    for magnitudes, channels in rows:
        scaled = magnitudes / exact[channels]
        of_activation += float(np.square(scaled).sum()) * (amax / 127) ** 2 / 12
        power = (exact**2 * variance)[channels].sum(axis=1)
        of_weights += float(np.square(scaled.max(axis=1, initial=0) / 127) @ power) / 12
    return of_activation, of_weights


def _bounded(ranges: npt.NDArray[np.float64], max_ratio: float) -> npt.NDArray[np.float64]:
    largest = ranges.max()
    return np.maximum(ranges, largest / max_ratio) if largest > 0 else np.ones_like(ranges)
