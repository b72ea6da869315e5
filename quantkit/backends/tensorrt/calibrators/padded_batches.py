"""Batches for TensorRT's calibrators: full, of one shape, finite, FP32 or integers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Sized
from contextlib import ExitStack, closing
from typing import Literal

import numpy as np

from quantkit.errors import CalibrationError, DatasetError
from quantkit.notices import Notice, Notify, announcing
from quantkit.types import Array, Batch, TensorSpec

LastBatch = Literal["pad", "drop"]

_KEPT = (np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.bool_))
"""TensorRT calibrates every other input in FP32, whatever the network's type (NVIDIA's Polygraphy, calibrator.py)."""


class PaddedBatches:
    """Re-iterable batches of exactly one shape and type.

    Args:
        make_batches: reads the data from the start, in batches of the inputs' batch size; the last one may be smaller.
        inputs: name, type and full shape (calibration profile) of the network's inputs.
        num_samples: number of samples that `make_batches` yields.
        last_batch: whether a partial last batch is padded with the first samples, or dropped.
        skipped: unreadable samples so far, filled by `make_batches`; they are not counted.
        axes: dimension of an input that is the batch, if not the first; None for one that is the same for all samples.
        notify: called when a batch is completed or dropped.

    Raises:
        CalibrationError: a dimension is not fixed, inputs differ in batch size, or no full batch is left.
    """

    def __init__(
        self,
        make_batches: Callable[[], Iterable[Batch]],
        inputs: Sequence[TensorSpec],
        *,
        num_samples: int,
        last_batch: LastBatch = "pad",
        skipped: Sized = (),
        axes: Mapping[str, int | None] | None = None,
        notify: Notify | None = None,
    ) -> None:
        self._axes = axes or {}
        for spec in inputs:
            is_scalar = not spec.shape and self._axis(spec.name) is None
            if not (spec.shape or is_scalar) or not all(isinstance(d, int) and d > 0 for d in spec.shape):
                raise CalibrationError(f"input {spec.name!r} has no fixed shape to calibrate with: {list(spec.shape)}")
        placed = {spec.name: self._axis(spec.name) for spec in inputs}
        sizes = {s.name: s.shape[axis] for s in inputs if (axis := placed[s.name]) is not None}
        if len(set(sizes.values())) != 1:
            raise CalibrationError(f"inputs differ in batch size: {sizes}: TensorRT calibrates with one")
        self.batch_size = int(str(next(iter(sizes.values()))))
        self.inputs = tuple(
            TensorSpec(s.name, s.dtype if s.dtype in _KEPT else np.dtype(np.float32), s.shape) for s in inputs
        )
        self._make_batches = make_batches
        self._num_samples = num_samples
        self._last_batch = last_batch
        self._skipped = skipped
        self._notify = announcing(notify)
        if len(self) == 0:
            raise CalibrationError(
                f"{num_samples} samples do not fill a batch of {self.batch_size}: use more samples or a smaller "
                "--batch-size"
            )

    def __len__(self) -> int:
        """Number of batches; it decreases when samples turn out to be unreadable."""
        samples = max(0, self._num_samples - len(self._skipped))
        return samples // self.batch_size if self._last_batch == "drop" else -(-samples // self.batch_size)

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yields the batches from the start.

        Raises:
            CalibrationError: an input is missing, or has another shape per sample than the calibration profile.
            DatasetError: a value is not finite or does not fit the input's type, naming sample and input.
        """
        first: Batch | None = None
        batches = self._make_batches()
        with ExitStack() as stack:
            if isinstance(batches, Generator):
                stack.enter_context(closing(batches))
            for batch in batches:
                if len(batch) > self.batch_size:
                    raise CalibrationError(f"a batch of {len(batch)} samples where {self.batch_size} were planned")
                missing = self.batch_size - len(batch)
                if missing and self._last_batch == "drop":
                    self._notify(
                        Notice(
                            "info",
                            "padding",
                            f"the last {len(batch)} samples are not used: they fill no batch of {self.batch_size}",
                        )
                    )
                    return
                converted = self._convert(batch)
                if missing:
                    self._notify(
                        Notice("info", "padding", f"the last batch is completed with {missing} samples of the first")
                    )
                    converted = self._pad(converted, converted if first is None else first)
                first = converted if first is None else first
                yield converted

    def _convert(self, batch: Batch) -> Batch:
        inputs: dict[str, Array] = {}
        for spec in self.inputs:
            if spec.name not in batch.inputs:
                have = ", ".join(map(repr, batch.inputs))
                raise CalibrationError(f"the network takes input {spec.name!r}, but the data have {have}")
            array = batch.inputs[spec.name]
            axis = self._axis(spec.name)
            if _without(array.shape, axis) != _without(spec.shape, axis):
                raise CalibrationError(
                    f"input {spec.name!r}: samples of shape {list(_without(array.shape, axis))} do not fit the "
                    f"calibration profile {list(spec.shape)}"
                )
            inputs[spec.name] = _cast(array, spec, batch.ids, axis)
        return Batch(inputs=inputs, ids=batch.ids, targets=batch.targets, axes=batch.axes)

    def _axis(self, name: str) -> int | None:
        return self._axes.get(name, 0)

    def _pad(self, batch: Batch, first: Batch) -> Batch:
        """Pads `batch` to the batch size with the samples of `first`, repeated."""
        rows = np.arange(self.batch_size - len(batch)) % len(first)
        inputs = {}
        for name, array in batch.inputs.items():
            axis = self._axis(name)
            if axis is not None:
                array = np.concatenate([array, np.take(first.inputs[name], rows, axis)], axis)
            inputs[name] = array
        return Batch(inputs=inputs, ids=(*batch.ids, *(first.ids[row] for row in rows)), axes=batch.axes)


def _without(shape: Sequence[object], axis: int | None) -> tuple[object, ...]:
    """The shape of a sample: without the batch."""
    return tuple(shape) if axis is None else (*shape[:axis], *shape[axis + 1 :])


def _cast(array: Array, spec: TensorSpec, ids: Sequence[str], axis: int | None) -> Array:
    """Converts `array` to the input's type; raises if that changes a value beyond rounding."""
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.ascontiguousarray(array, dtype=spec.dtype).reshape(array.shape)  # a scalar stays one
    if spec.dtype.kind == "f":
        wrong = ~np.isfinite(result)
        what = "NaN or infinite in FP32"
    elif result.dtype == array.dtype:
        return result
    else:
        wrong = result != array
        what = f"no {spec.dtype}"
    if wrong.any():
        row = 0 if axis is None else int(np.argwhere(wrong)[0][axis])
        raise DatasetError(f"{ids[row]}: input {spec.name!r} has a value that is {what}: {array[wrong][0]}")
    return result
