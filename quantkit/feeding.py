"""Running a batch of any size through a model, also one of a fixed batch size."""

from __future__ import annotations

import numpy as np

from quantkit.types import Array, Batch, Runner

__all__ = ["fixed_batch_size", "run_batch"]


def fixed_batch_size(runner: Runner) -> int | None:
    """The batch size that the model was exported with; None where it is dynamic."""
    leading = runner.inputs[0].shape[:1] if runner.inputs else ()
    return leading[0] if leading and isinstance(leading[0], int) else None


def run_batch(runner: Runner, batch: Batch) -> dict[str, Array]:
    """Runs one batch. A model of a fixed batch size gets pieces of it, the last one filled up with copies.

    What was filled up is cut off again: an output whose leading dimension is a multiple of the model's batch size is
    cut in proportion; one that does not depend on the batch is returned as the last piece gave it.

    Returns:
        Every output by name.
    """
    fixed = fixed_batch_size(runner)
    size = len(batch)
    if fixed is None or fixed == size:
        return runner.run(batch.inputs)
    pieces = [_run_piece(runner, batch, start, min(fixed, size - start), fixed) for start in range(0, size, fixed)]
    if len(pieces) == 1:
        return pieces[0][0]
    whole = {}
    for name in pieces[0][0]:
        parts = [outputs[name] for outputs, _ in pieces]
        whole[name] = np.concatenate(parts) if name in pieces[0][1] else parts[-1]
    return whole


def _run_piece(runner: Runner, batch: Batch, start: int, size: int, fixed: int) -> tuple[dict[str, Array], set[str]]:
    """Outputs of samples start .. start + size, and the names of those that have a row for each sample."""
    rows = start + np.arange(fixed) % size
    outputs = runner.run({name: np.ascontiguousarray(array[rows]) for name, array in batch.inputs.items()})
    batched = {name for name, array in outputs.items() if array.ndim and array.shape[0] % fixed == 0}
    return {n: a[: a.shape[0] // fixed * size] if n in batched else a for n, a in outputs.items()}, batched
