"""Inner tensors of a float model, by name, batch by batch."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.graph.pieces import GraphPieces
from quantkit.types import Array

__all__ = ["channel_extremes", "observe"]


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


def channel_extremes(
    pieces: GraphPieces, axes: Mapping[str, int], batches: Sequence[Mapping[str, Array]]
) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Smallest and largest value of each channel, [C] each, over all batches; nothing else is kept.

    Args:
        pieces: of the prepared float model.
        axes: axis of the channels by activation, from the end.
        batches: inputs.
    """
    found: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = {}
    for values in observe(pieces, axes, batches):
        for name, axis in axes.items():
            array = np.asarray(values[name], np.float32)
            others = tuple(i for i in range(array.ndim) if i != array.ndim + axis)
            low, high = array.min(axis=others), array.max(axis=others)
            if name in found:
                low, high = np.minimum(found[name][0], low), np.maximum(found[name][1], high)
            found[name] = low, high
    return found
