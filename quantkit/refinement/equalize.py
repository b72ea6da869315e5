"""Factors that bring the channels of an activation to equal ranges, or part of the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from quantkit.errors import CalibrationError
from quantkit.graph.passes.input_channels import WeightRows

_TINY = np.finfo(np.float64).tiny

_SQUARINGS = 5 * (3,) + 5 * (4,) + 5 * (5,) + 5 * (6,)
"""In each step of a fit: the maximum over values counts as their norm of order 2 to this power, which is smooth."""

_MOST_WEIGHTS = 1 << 20
"""Rows times channels that factors are fitted to: of more rows some are taken."""

_LARGEST_RATIO = 1 << 16
"""Between two factors: what no weight asks for would become ever smaller."""


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


def least_error_scales(
    rows: Sequence[WeightRows],
    variance: npt.NDArray[np.float64],
    channel_amax: npt.ArrayLike,
    *,
    weight_share: float = 1.0,
    max_ratio: float = 64,
) -> npt.NDArray[np.float32]:
    """The factors that leave least of what `rounding_error` expects, the part of the weights times `weight_share`.

    Powers of the two ranges, as SmoothQuant takes them, see one weight of each channel. But a row's step is set by its
    largest weight alone, which another channel may hold: in a re-parameterised network each row has one large weight,
    of the identity, in a channel of its own. The logarithm of the error is a convex function of those of the factors.
    Its gradient is what each channel asks for by its weights, against what it costs by its values: factors move by the
    ratio of the two until they balance.

    Args:
        rows: the weights of each reader.
        variance: of each channel of the activation, [C].
        channel_amax: the largest magnitude of each channel, [C].
        weight_share: of the error of the weights, which rounding with error feedback lessens.
        max_ratio: a channel with a smaller part of the largest range than 1 / `max_ratio` can hold as much as that.

    Returns:
        [C]; they keep the range of the whole activation.

    Example: the second channel has the largest weight, and hardly any values that it would round
        >>> rows = [(np.array([[1.0, 100.0]]), np.array([[0, 1]]))]
        >>> least_error_scales(rows, np.array([1.0, 1e-4]), [1.0, 0.05]).round(1)
        array([ 0.4, 20. ], dtype=float32)
    """
    seen = np.asarray(channel_amax, np.float64)
    if not seen.max(initial=0) > 0:
        return np.ones(seen.shape, np.float32)
    reach = np.maximum(seen, seen.max() / max_ratio)
    largest, counts, energy = _of_channels(rows, len(reach))
    factors, best = np.ones(len(reach)), (np.inf, np.ones(len(reach)))
    for step, squarings in enumerate(_SQUARINGS):
        amax, width, costs_of_range = _smooth_max((factors * reach)[None], squarings)
        row_amax, row_width, asked_of_rows = _smooth_max(largest / factors, squarings)
        power, squares = factors**2 * variance, energy / factors**2
        by_row = weight_share * (counts @ power)
        error = by_row @ row_amax**2 + amax[0] ** 2 * squares.sum()
        if not np.isfinite(error):
            break
        best = min(best, (error, factors), key=lambda found: found[0])
        asked = (by_row * row_width**2) @ asked_of_rows + width[0] ** 2 * squares
        costs = weight_share * (row_width**2 @ counts) * power + width[0] ** 2 * squares.sum() * costs_of_range[0]
        ratio = np.maximum(asked, _TINY) / np.maximum(costs, _TINY)
        factors = factors * np.clip(ratio ** (1 / (4 + 2 * step)), 0.5, 2)
    found = np.maximum(best[1], best[1].max() / _LARGEST_RATIO)
    return np.asarray(found * (seen.max() / (found * reach).max()), np.float32)


def _of_channels(
    rows: Sequence[WeightRows], num_channels: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Largest weight of each row and channel, [R, C], number of weights there, and sum of squares of each channel."""
    thin = -(-sum(len(magnitudes) for magnitudes, _ in rows) * num_channels // _MOST_WEIGHTS)
    largest, counts, energy = [], [], np.zeros(num_channels)
    for magnitudes, channels in ((m[::thin], c[::thin]) for m, c in rows):
        places = np.arange(len(magnitudes))[:, None], channels
        largest.append(np.zeros((len(magnitudes), num_channels)))
        counts.append(np.zeros((len(magnitudes), num_channels)))
        np.maximum.at(largest[-1], places, magnitudes)
        np.add.at(counts[-1], places, 1)
        energy += np.bincount(channels.ravel(), np.square(magnitudes).ravel(), num_channels)
    return np.concatenate(largest), np.concatenate(counts), energy


def _smooth_max(
    values: npt.NDArray[np.float64], squarings: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """For rows of values [R, C]: maxima [R], norms [R], and derivatives of the norms by logarithms [R, C]."""
    largest = np.maximum(values.max(axis=1), _TINY)
    powers = values / largest[:, None]
    for _ in range(squarings):
        powers *= powers
    total = np.maximum(powers.sum(axis=1), _TINY)
    return largest, largest * total ** (1 / 2**squarings), powers / total[:, None]


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
