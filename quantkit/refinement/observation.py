"""Inner tensors of a float model, by name, batch by batch."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.graph.pieces import GraphPieces
from quantkit.types import Array


def observe(
    pieces: GraphPieces, wanted: Iterable[str], batches: Iterable[Mapping[str, Array]]
) -> Generator[dict[str, Array], None, None]:
    """Runs the batches and yields, for each, its inputs and the wanted tensors.

    Args:
        pieces: of the prepared float model.
        wanted: names of tensors; inputs and names that the model does not have are left out.
        batches: inputs by name.
    """
    made = [name for name in dict.fromkeys(wanted) if name in pieces.producers]
    runner: OnnxRuntimeRunner | None = None
    try:
        for batch in batches:
            if made and runner is None:
                dtypes = {name: np.asarray(array).dtype for name, array in batch.items()}
                model = pieces.cut(pieces.between(batch, made), made, dtypes=dtypes)
                runner = OnnxRuntimeRunner(model, spinning=False, fuse_qdq=False)
            read = {spec.name for spec in runner.inputs} if runner else set()
            feeds = {name: array for name, array in batch.items() if name in read}
            yield {**batch, **(runner.run(feeds) if runner else {})}
    finally:
        if runner is not None:
            runner.close()


@dataclass(frozen=True)
class ChannelValues:
    """What each channel of an activation holds, [C] each: smallest and largest value, mean, variance."""

    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]


def channel_values(
    pieces: GraphPieces, axes: Mapping[str, int], batches: Sequence[Mapping[str, Array]]
) -> dict[str, ChannelValues]:
    """What the channels of activations hold over all batches; nothing else is kept.

    Args:
        pieces: of the prepared float model.
        axes: axis of the channels by activation, from the end.
        batches: inputs.
    """
    extremes: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = {}
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for values in observe(pieces, axes, batches):
        for name, axis in axes.items():
            array = np.asarray(values[name], np.float32)
            rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
            low, high = rows.min(axis=1), rows.max(axis=1)
            count = np.full(len(rows), float(rows.shape[1]))
            moments = np.stack([count, rows.sum(axis=1, dtype=np.float64), np.einsum("cn,cn->c", rows, rows)])
            if name in extremes:
                low, high = np.minimum(extremes[name][0], low), np.maximum(extremes[name][1], high)
                moments += sums[name]
            extremes[name], sums[name] = (low, high), moments
    found = {}
    for name, (low, high) in extremes.items():
        count, total, squares = sums[name]
        mean = total / count
        found[name] = ChannelValues(low, high, mean, np.maximum(squares / count - mean**2, 0))
    return found
