"""The few samples that trials and rounding run on: the same ones for every order of the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from quantkit.datasets import Selection
from quantkit.datasets.batching import batch_axes, leading_size, make_batches, take_rows
from quantkit.graph.float_model import FloatModel
from quantkit.graph.pieces import GraphPieces
from quantkit.refinement.observation import observe
from quantkit.types import Array, Dataset, TensorSpec

_BATCH = 16
REFINEMENT_BUDGET_BYTES = 2 << 30
_FAST_SAMPLES = 64
MOST_SAMPLES = {"balanced": 1024, "best": 2048}
TRIAL_SAMPLES = {"fast": (0, 0), "balanced": (48, 96), "best": (96, 192)}
"""On which ranges are tried: fewest and most, by effort."""

_PARTS = 4
"""At least so many batches, where there are as many samples: some suggest, others judge."""


@dataclass(frozen=True)
class SampleBatches:
    """Inputs of some samples, in batches that the model takes.

    Attributes:
        batches: inputs by name.
        axes: where an input has its samples, if not in the first dimension; None where it has none.
        is_fixed: the model takes batches of this size only.
    """

    batches: tuple[Mapping[str, Array], ...]
    axes: Mapping[str, int | None] = field(default_factory=dict)
    is_fixed: bool = False

    @property
    def num_samples(self) -> int:
        """In all batches."""
        return sum(map(self._size, self.batches))

    def first(self, num_samples: int) -> SampleBatches:
        """The batches that the first `num_samples` lie in."""
        kept, count = [], 0
        for batch in self.batches:
            if count >= num_samples:
                break
            kept.append(batch)
            count += self._size(batch)
        return replace(self, batches=tuple(kept))

    def within(self, sample_bytes: int) -> SampleBatches:
        """As many of the first samples as `REFINEMENT_BUDGET_BYTES` hold at so many bytes each.

        At least one, or one batch that the model needs whole.
        """
        count = max(REFINEMENT_BUDGET_BYTES // max(sample_bytes, 1), 1)
        if self.is_fixed or count >= self._size(self.batches[0]):
            fitting = max(int(count // self._size(self.batches[0])), 1)
            return replace(self, batches=self.batches[:fitting])
        return replace(self, batches=(self._rows(count),))

    @property
    def smallest(self) -> Mapping[str, Array]:
        """The inputs of the first sample, or of a batch that the model needs whole."""
        return self.batches[0] if self.is_fixed else self._rows(1)

    @property
    def num_smallest(self) -> int:
        """Samples in it."""
        return self._size(self.smallest)

    def _rows(self, count: int) -> Mapping[str, Array]:
        axes = {name: self.axes.get(name, 0) for name in self.batches[0]}
        return {
            name: array if (axis := axes[name]) is None else np.take(array, range(count), axis)
            for name, array in self.batches[0].items()
        }

    def _size(self, batch: Mapping[str, Array]) -> int:
        """Number of its samples."""
        axes = {name: self.axes.get(name, 0) for name in batch}
        return next(int(array.shape[axis]) for name, array in batch.items() if (axis := axes[name]) is not None)

    def split(self) -> tuple[SampleBatches, SampleBatches, SampleBatches]:
        """To choose on, to judge the choices by, and to tell what the result is worth: 5/8, 2/8, 1/8.

        Where there are too few batches, the last ones have to do for more than one.
        """
        rest, full = self.batches[-1:], self.batches[:-1]
        tells_little = self._size(rest[0]) < self._size(self.batches[0])
        batches = (*rest, *full) if tells_little else self.batches
        tail = max(len(batches) // 8, 1)
        parts = batches[: -3 * tail], batches[-3 * tail : -tail], batches[-tail:]
        return tuple(replace(self, batches=part or batches[-1:]) for part in parts)  # type: ignore[return-value]


def choose_samples(
    inputs: Sequence[TensorSpec],
    dataset: Dataset,
    contents: Iterable[tuple[str, str]],
    *,
    most: int,
    workers: int | None = None,
) -> SampleBatches:
    """Reads samples in the order of their content hashes, which no order of the data changes.

    Args:
        inputs: of the model. Where they fix a batch size, a last batch that is not full is filled up with copies.
        dataset: of the calibration.
        contents: id and content hash of each sample.
        most: how many at most.
        workers: decoding threads.

    Raises:
        DatasetError: none can be read.
    """
    hashes, batch_size = dict(contents), leading_size(inputs, batch_axes(dataset))
    order = sorted(range(len(dataset)), key=lambda i: (hashes[dataset.ids[i]], dataset.ids[i]))[:most]
    size = batch_size or min(_BATCH, -(-len(order) // _PARTS))
    batches = []
    for batch in make_batches(Selection(dataset, tuple(order)), size, strict=False, workers=workers, skipped={}):
        rows: Mapping[str, Array] = batch.inputs
        if batch_size is not None and len(batch) < batch_size:
            rows = take_rows(batch, np.arange(batch_size) % len(batch))
        batches.append(rows)
    return SampleBatches(tuple(batches), batch_axes(dataset), is_fixed=batch_size is not None)


def affordable_samples(model: FloatModel, dataset: Dataset, *, effort: str) -> int:
    """How many samples two streams through a model can hold at once in `REFINEMENT_BUDGET_BYTES`, at least 16."""
    if effort == "fast":
        return _FAST_SAMPLES
    sample = next(iter(make_batches(dataset, 1, strict=False, workers=1, skipped={})))
    pieces = GraphPieces(model.prepared())
    fixed = leading_size(model.inputs, sample.axes) or 1
    inputs = take_rows(sample, np.zeros(fixed, np.intp))
    (values,) = observe(pieces, pieces.producers, [inputs])
    peak = pieces.peak_bytes({name: np.asarray(array).nbytes for name, array in values.items()})
    return int(np.clip(REFINEMENT_BUDGET_BYTES * fixed // max(2 * peak, 1), _BATCH, MOST_SAMPLES[effort]))
