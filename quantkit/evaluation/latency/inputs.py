"""Inputs for a measurement without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from quantkit.errors import EvaluationError
from quantkit.registry import suggest
from quantkit.types import Array, TensorSpec


def random_inputs(
    specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]], *, batch_size: int = 1
) -> dict[str, Array]:
    """Floats from 0 to 1 and integers 0, which are an index everywhere; the same in every call.

    Args:
        specs: of the inputs.
        shapes: by name, where the model does not say them.
        batch_size: of a dynamic first dimension that `shapes` does not say.

    Raises:
        EvaluationError: a shape is of no input, or a dimension is not given.
    """
    names = [spec.name for spec in specs]
    if unknown := shapes.keys() - set(names):
        raise EvaluationError(f"--shapes: the model has no input {min(unknown)!r}: {suggest(min(unknown), names)}")
    rng = np.random.default_rng(0)
    inputs: dict[str, Array] = {}
    for spec in specs:
        shape = shapes.get(spec.name) or _complete(spec, batch_size)
        is_float = np.issubdtype(spec.dtype, np.floating)
        inputs[spec.name] = rng.random(shape).astype(spec.dtype) if is_float else np.zeros(shape, spec.dtype)
    return inputs


def _complete(spec: TensorSpec, batch_size: int) -> tuple[int, ...]:
    first, *rest = spec.shape or (1,)
    if any(not isinstance(n, int) for n in rest):
        shown = "x".join(str(n) if isinstance(n, int) else "?" for n in spec.shape)
        raise EvaluationError(f"input {spec.name!r} is {shown}: say its shape with --shapes {spec.name}:1x...")
    return (first if isinstance(first, int) else batch_size, *(n for n in rest if isinstance(n, int)))
