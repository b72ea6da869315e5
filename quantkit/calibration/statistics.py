"""Collecting `TensorStatistics`: the histogram of magnitudes of one tensor, updated batch by batch.

Two rules decide the width of a bin.

"exact" (default): `EXACT_BINS` bins of a power-of-two width, doubled by adding neighbors as soon as a value does not
fit. Scaling by a power of two is exact in binary floating point and bins are closed on the right, so that the result is
the same, bit for bit, for any order, batch size and split of the data, and merging statistics is exact.

"tensorrt": what IInt8EntropyCalibrator2 does: 2048 bins over [0, largest magnitude of the first batch], doubled
likewise. The result depends on what the first batch was (20 orders of the 500 images behind a LeNet cache of
TensorRT: up to 14.5% of a threshold).

The exact rule has a compiled form, `_magnitudes.c`, three times as fast. It is left out where there was no compiler.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.errors import CalibrationError
from quantkit.types import HistogramRule, TensorStatistics

EXACT_BINS = 8192
"""Four times TensorRT's resolution: the thresholds of a method never depend on where a power of two falls."""

TENSORRT_BINS = 2048
"""NVIDIA, GTC 2017, S7310, and every cache that TensorRT wrote since 5.1."""

_CHUNK = 32768
"""Values handled at once: the intermediate arrays stay in the second-level cache, twice as fast as whole tensors."""

_SMALLEST_EXPONENT = -126
"""A narrower bin would overflow its reciprocal; magnitudes below 2^-113 land in the first bin."""


KERNEL: Any = None
"""The compiled form of the exact rule; None where it was not built: NumPy counts."""
with suppress(ImportError):
    KERNEL = importlib.import_module("quantkit.calibration._magnitudes")


def new_statistics(rule: HistogramRule = "exact") -> TensorStatistics:
    """Empty statistics of one tensor."""
    bins = EXACT_BINS if rule == "exact" else TENSORRT_BINS
    return TensorStatistics(histogram=np.zeros(bins, np.int64), rule=rule)


def update(statistics: TensorStatistics, values: npt.NDArray[np.floating]) -> None:
    """Adds the values of one tensor for one batch, in place.

    Args:
        statistics: of that tensor.
        values: any shape; FP16 and FP64 are taken as FP32.

    Raises:
        FloatingPointError: a value is NaN or infinite; the statistics are unchanged. The caller knows which sample.
    """
    flat = np.require(values, np.float32, ("C", "A")).reshape(-1)
    if flat.size == 0:
        return
    if KERNEL is None or statistics.rule != "exact":
        low, high = _count_with_numpy(statistics, flat)
    else:
        added = KERNEL.add_magnitudes(statistics.histogram, statistics.bin_width, flat)
        statistics.bin_width, low, high = added
    statistics.minimum = min(statistics.minimum, low)
    statistics.maximum = max(statistics.maximum, high)


def _count_with_numpy(statistics: TensorStatistics, flat: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Either rule, and for the exact one what the kernel has to give, bit for bit. Returns the extremes."""
    low, high = float(flat.min()) + 0.0, float(flat.max()) + 0.0  # which zero comes first must not decide the sign
    if not (math.isfinite(low) and math.isfinite(high)):
        raise FloatingPointError("NaN or infinity")
    _widen(statistics, max(-low, high))
    if statistics.bin_width == 0:
        statistics.histogram[0] += flat.size
    elif statistics.rule == "exact":
        _count_exact(statistics, flat)
    else:
        _count_tensorrt(statistics, flat)
    return low, high


def merge(first: TensorStatistics, second: TensorStatistics) -> TensorStatistics:
    """Statistics of both parts of the data: exact, commutative and associative. The arguments are left alone.

    Raises:
        CalibrationError: the rule is "tensorrt", whose result depends on the order of the data.
    """
    if first.rule != "exact" or second.rule != "exact":
        raise CalibrationError("only statistics of the exact histogram can be merged: calibrate with --histogram exact")
    width = max(first.bin_width, second.bin_width)
    histogram = _widened(first, width) + _widened(second, width)
    return TensorStatistics(
        histogram=histogram,
        bin_width=width,
        minimum=min(first.minimum, second.minimum),
        maximum=max(first.maximum, second.maximum),
    )


def merge_tensors(
    first: Mapping[str, TensorStatistics], second: Mapping[str, TensorStatistics]
) -> dict[str, TensorStatistics]:
    """Statistics by tensor of both parts of the data. A tensor without any was not finite in that part: in both, then.

    Raises:
        CalibrationError: as `merge`.
    """
    pairs = ((name, one, second[name]) for name, one in first.items())
    return {name: merge(one, two) if one.count and two.count else new_statistics() for name, one, two in pairs}


def rebin(statistics: TensorStatistics, bins: int) -> tuple[npt.NDArray[np.int64], float]:
    """The histogram with `bins` bins that cover all values, by adding neighbors, and its bin width.

    The number of neighbors added is the smallest that covers the largest value, a function of the statistics alone.

    Args:
        statistics: with at least `bins` bins.
        bins: how many are wanted.

    Returns:
        int64 [bins] and the width of a bin.
    """
    histogram = statistics.histogram
    if histogram.size == bins or statistics.bin_width == 0:
        return histogram[:bins], statistics.bin_width
    occupied = int(np.flatnonzero(histogram)[-1]) + 1
    step = max(-(-occupied // bins), 1)
    padded = np.zeros(step * bins, np.int64)
    kept = min(padded.size, histogram.size)
    padded[:kept] = histogram[:kept]
    return padded.reshape(bins, step).sum(axis=1), statistics.bin_width * step


def _widen(statistics: TensorStatistics, amax: float) -> None:
    """Makes the histogram's range cover `amax`."""
    bins = statistics.histogram.size
    if amax == 0 or amax <= statistics.bin_width * bins:
        return
    if statistics.bin_width == 0:
        if statistics.rule == "exact":
            mantissa, exponent = math.frexp(amax / bins)
            exponent -= mantissa == 0.5
            statistics.bin_width = 2.0 ** max(exponent, _SMALLEST_EXPONENT)
        else:
            statistics.bin_width = amax / bins
        return
    width = statistics.bin_width
    while amax > width * bins:
        width *= 2
    statistics.histogram = _widened(statistics, width)
    statistics.bin_width = width


def _widened(statistics: TensorStatistics, width: float) -> npt.NDArray[np.int64]:
    """The histogram at a bin width that is the present one times a power of two."""
    histogram = statistics.histogram.copy()
    current = statistics.bin_width
    while 0 < current < width:
        half = histogram.reshape(-1, 2).sum(axis=1)
        histogram[: half.size] = half
        histogram[half.size :] = 0
        current *= 2
    return histogram


def _count_exact(statistics: TensorStatistics, flat: npt.NDArray[np.float32]) -> None:
    """Bin i is (i, i + 1] * width and bin 0 holds zeros too: index ceil(|x| / width) - 1."""
    bins = statistics.histogram.size
    inverse = np.float32(1 / statistics.bin_width)
    scaled = np.empty(min(_CHUNK, flat.size), np.float32)
    index = np.empty(scaled.size, np.int64)
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        x, k = scaled[: chunk.size], index[: chunk.size]
        np.multiply(chunk, inverse, out=x)
        np.abs(x, out=x)
        np.ceil(x, out=x)
        np.copyto(k, x, casting="unsafe")
        counts = np.bincount(k, minlength=bins + 1)
        statistics.histogram += counts[1:]
        statistics.histogram[0] += counts[0]


def _count_tensorrt(statistics: TensorStatistics, flat: npt.NDArray[np.float32]) -> None:
    """Index min(floor(|x| * bins / range), bins - 1), in float32 unless its largest number is below bins / range."""
    bins = statistics.histogram.size
    inverse = 1 / statistics.bin_width
    dtype = np.float32 if inverse <= float(np.finfo(np.float32).max) else np.float64
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK].astype(dtype, copy=False)
        index = (np.abs(chunk) * dtype(inverse)).astype(np.int64)
        np.minimum(index, bins - 1, out=index)
        statistics.histogram += np.bincount(index, minlength=bins)
