"""What quantization does to each activation: its error, its own share of that, its range and its clipping.

Which tensors there are and how runners come to show them is left to `layer_analysis`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from quantkit.calibration.statistics import new_statistics, update
from quantkit.datasets.batching import run_padded
from quantkit.errors import EvaluationError
from quantkit.graph.moved_activations import UNMOVED, Movement
from quantkit.numerics import QuantParams, decibels, dequantize_array, quantize_array, value_bounds
from quantkit.types import Array, Batch, Runner, TensorQuality, TensorStatistics

MAGNITUDE_BINS = 64
"""At most so many bins has the histogram of a `TensorQuality`."""

_CHUNK = 1 << 13
"""Values handled at once. From 10,000 on OpenBLAS cuts a dot product among threads, to wait for those it has none for:
two to a hundred times slower; and so few stay in the first cache."""

_ROUNDING = 0.5
"""Steps beyond the range that rounding to the last code would cost inside of it too: they are not called clipped."""


@dataclass(frozen=True)
class ObservedTensor:
    """An activation with Q/DQ.

    Attributes:
        producer: as in `TensorQuality`.
        params: of its Q/DQ, one scale for all of it.
        low, high: what its producer, a Relu or Clip, bounds it to. Where a variant has no such node, because its codes
            end there too, the values before its Q lie beyond: they are saturated here, as the codes do it.
        movement: how the variant shifts and scales it before it is quantized. Errors are of the activation all the
            same, range and clipping of what is quantized.
    """

    producer: str
    params: QuantParams
    low: float = -math.inf
    high: float = math.inf
    movement: Movement = UNMOVED


def measure_tensors(
    baseline: Runner,
    variant: Runner,
    *,
    name: str,
    batches: Iterable[Batch],
    tensors: Mapping[str, ObservedTensor],
    aliases: Mapping[str, str] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[tuple[TensorQuality, ...], dict[str, str]]:
    """Runs the same batches through both models and compares the values of `tensors`; nothing of a batch is kept.

    Sums are over all values of all samples before a ratio is taken, in float64, as in `quantkit.evaluation.metrics`.

    Args:
        baseline: has every tensor among its outputs, or its inputs.
        variant: likewise, each value as it is before the tensor's own Q/DQ.
        name: of the variant.
        batches: read once; floating inputs are cast to what each runner takes.
        tensors: what to compare, by name, in the order of the result.
        aliases: tensor → its name among the variant's outputs, where that is another one.
        on_batch: called after each batch with its number of samples.

    Returns:
        The measured tensors, and those without a meaningful number: tensor → reason.

    Raises:
        EvaluationError: there are no samples, or a runner does not show a tensor.
    """
    aliases = aliases or {}
    tallies = {tensor: _Tally(observed) for tensor, observed in tensors.items()}
    count = 0
    for batch in batches:
        _add_batch(batch, baseline, variant, tallies, aliases)
        count += len(batch)
        if on_batch is not None:
            on_batch(len(batch))
    if not count:
        raise EvaluationError("there are no samples to compare activations on")
    reasons = {tensor: reason for tensor, tally in tallies.items() if (reason := tally.obstacle())}
    found = tuple(tally.quality(name, tensor) for tensor, tally in tallies.items() if tensor not in reasons)
    return found, reasons


def code_range(params: QuantParams) -> tuple[float, float]:
    """Smallest and largest value that per-tensor codes stand for; symmetric INT8 is taken as -127 to 127."""
    (low, high), scale = value_bounds(params.format), float(params.scale)
    return (max(low, -high) - params.zero_point) * scale, (high - params.zero_point) * scale


class _Tally:
    """The sums of one tensor."""

    def __init__(self, observed: ObservedTensor) -> None:
        self._observed, self._statistics = observed, new_statistics()
        self._signal = self._noise = self._own_noise = 0.0
        self._num_clipped = 0
        self._problem = ""

    def add(self, expected: Array, values: Array) -> None:
        """Adds one batch: the baseline's values and the variant's."""
        if self._problem:
            return
        if expected.shape != values.shape:
            self._problem = f"it has shape {expected.shape} in the baseline and {values.shape} here"
            return
        movement, x = self._observed.movement, np.asarray(expected, np.float32)
        if not _broadcasts(x.shape, movement.factor, movement.offset):
            self._problem = "it is shifted or scaled by another number of channels than it has"
            return
        y, quantized = np.asarray(values, np.float32), x
        if movement is not UNMOVED:  # else large arrays would be copied for nothing
            y, quantized = y / movement.folded, np.asarray(x * movement.factor + movement.offset, np.float32)
        unit = np.broadcast_to(np.asarray(1 / movement.factor, np.float32), x.shape)
        flat = [a.reshape(-1) for a in (x, y, quantized, unit)]
        try:
            update(self._statistics, flat[2])
        except FloatingPointError:
            self._problem = "it is NaN or infinite in the baseline"
            return
        for start in range(0, x.size, _CHUNK):
            self._add_chunk(*(a[start : start + _CHUNK] for a in flat))
        if not np.isfinite(self._noise):
            self._problem = "it is NaN or infinite here"

    def obstacle(self) -> str:
        """Why there is no number to be had; empty where there is."""
        if self._problem or self._statistics.count == 0:
            return self._problem or "it has no value"
        return "it is zero on every sample in the baseline, and not here" if self._noise and not self._signal else ""

    def quality(self, variant: str, tensor: str) -> TensorQuality:
        """What the sums say."""
        statistics = self._statistics
        amax = max(abs(end) for end in code_range(self._observed.params))
        histogram, top = _few_bins(statistics)
        return TensorQuality(
            variant=variant,
            tensor=tensor,
            producer=self._observed.producer,
            transform=self._observed.movement.text,
            sqnr_db=decibels(self._signal, self._noise) if self._noise else None,
            own_sqnr_db=decibels(self._signal, self._own_noise) if self._own_noise else None,
            amax=amax,
            minimum=statistics.minimum,
            maximum=statistics.maximum,
            clipped=self._num_clipped / statistics.count,
            histogram=histogram,
            histogram_top=top or amax,
        )

    def _add_chunk(
        self,
        x: npt.NDArray[np.float32],
        y: npt.NDArray[np.float32],
        quantized: npt.NDArray[np.float32],
        unit: npt.NDArray[np.float32],
    ) -> None:
        params = self._observed.params
        low, high = code_range(params)
        slack = _ROUNDING * float(params.scale)
        x64, q64 = x.astype(np.float64), quantized.astype(np.float64)
        noise, own = (
            np.clip(y, self._observed.low, self._observed.high) - x64,
            (dequantize_array(quantize_array(quantized, params), params) - q64) * unit,
        )
        self._signal += float(np.dot(x64, x64))
        self._noise += float(np.dot(noise, noise))
        self._own_noise += float(np.dot(own, own))
        self._num_clipped += int(np.count_nonzero((q64 < low - slack) | (q64 > high + slack)))


def _broadcasts(shape: tuple[int, ...], *arrays: Array) -> bool:
    try:
        return np.broadcast_shapes(shape, *(a.shape for a in arrays)) == shape
    except ValueError:
        return False


def _add_batch(
    batch: Batch, baseline: Runner, variant: Runner, tallies: Mapping[str, _Tally], aliases: Mapping[str, str]
) -> None:
    expected, values = _run(baseline, batch), _run(variant, batch)
    for tensor, tally in tallies.items():
        tally.add(_find(tensor, expected, batch), _find(aliases.get(tensor, tensor), values, batch))


def _few_bins(statistics: TensorStatistics) -> tuple[tuple[int, ...], float]:
    """At most `MAGNITUDE_BINS` bins that cover all values, by adding neighbors, and the upper edge of the last."""
    occupied = int(np.flatnonzero(statistics.histogram)[-1]) + 1
    step = -(-occupied // MAGNITUDE_BINS)
    bins = -(-occupied // step)
    fine = np.zeros(bins * step, np.int64)
    kept = min(fine.size, statistics.histogram.size)
    fine[:kept] = statistics.histogram[:kept]
    counts = fine.reshape(bins, step).sum(axis=1)
    return tuple(int(n) for n in counts), bins * step * statistics.bin_width


def _run(runner: Runner, batch: Batch) -> dict[str, Array]:
    inputs = {
        spec.name: np.ascontiguousarray(batch.inputs[spec.name], spec.dtype)
        if np.issubdtype(spec.dtype, np.floating)
        else batch.inputs[spec.name]
        for spec in runner.inputs
    }
    return run_padded(runner, replace(batch, inputs=inputs))


def _find(tensor: str, outputs: Mapping[str, Array], batch: Batch) -> Array:
    if tensor in outputs:
        return outputs[tensor]
    if tensor not in batch.inputs:
        raise EvaluationError(f"tensor {tensor!r} is neither an output nor an input of the model")
    return batch.inputs[tensor]
