"""Inputs whose batch is not the first dimension, and inputs that are the same for every sample.

Recurrent models take a state [layers, N, size] and a sample rate beside [N, length] of sound. Data sets always count
samples along the first dimension; batches are stacked where the model has theirs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantkit.datasets.dataset_view import DatasetView
from quantkit.datasets.fingerprint import content_hash
from quantkit.errors import DatasetError
from quantkit.types import Array, Sample, TensorSpec


@dataclass(frozen=True, eq=False)
class PlacedSamples(DatasetView):
    """A view of a data set whose samples say where their batch goes, with inputs that never change.

    Attributes:
        axes: where the model has the batch, by input, if it is not the first dimension; None where it has none.
        constants: arrays by input, fed with every sample.
    """

    axes: Mapping[str, int | None]
    constants: Mapping[str, Array]

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return replace(sample, inputs={**sample.inputs, **self.constants}, axes=self.axes)

    @property
    def remarks(self) -> Sequence[str]:
        """Those of the data set, and what is constant."""
        constants = [f"input {name!r} is {array.item():g} for every sample" for name, array in self.constants.items()]
        return (*super().remarks, *constants)

    def content_hash(self, index: int) -> str:
        """That of the sample, with the constants if there are any."""
        own = content_hash(self.dataset, index)
        if not self.constants:
            return own
        words = [f"{name}={array.item()!r}" for name, array in sorted(self.constants.items())]
        return hashlib.sha256("\n".join([own, *words]).encode()).hexdigest()


def find_batch_axes(inputs: Sequence[TensorSpec], declared: Mapping[str, int]) -> dict[str, int | None]:
    """Where each input has the batch, if it is not the first dimension.

    What is declared counts; else a later dimension with the name of the first input's first one, or its size if it is
    1. A scalar has none.

    Args:
        inputs: of the model.
        declared: axis by input.

    Raises:
        DatasetError: no such input or axis.
    """
    specs = {spec.name: spec for spec in inputs}
    for name, axis in declared.items():
        if name not in specs:
            raise DatasetError(f"--batch-axis {name}={axis}: the model has no such input; it has {', '.join(specs)}")
        if not 0 <= axis < len(specs[name].shape):
            raise DatasetError(f"--batch-axis {name}={axis}: the input has {len(specs[name].shape)} dimensions")
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else None
    found: dict[str, int | None] = {}
    for spec in inputs:
        if spec.name in declared:
            found[spec.name] = declared[spec.name]
        elif not spec.shape:
            found[spec.name] = None
        elif isinstance(batch, str) and batch != "?" and batch in spec.shape[1:] and spec.shape[0] != batch:
            found[spec.name] = spec.shape.index(batch)
        elif batch == 1 and isinstance(spec.shape[0], int) and spec.shape[0] != 1 and 1 in spec.shape:
            found[spec.name] = spec.shape.index(1)
    return {name: axis for name, axis in found.items() if axis != 0}


def doubtful_batch_axis(spec: TensorSpec) -> int | None:
    """The first dynamic dimension of an input whose first one is fixed, not to 1: maybe its batch."""
    if not spec.shape or not isinstance(spec.shape[0], int) or spec.shape[0] == 1:
        return None
    return next((axis for axis, size in enumerate(spec.shape) if not isinstance(size, int)), None)


def first_axes(inputs: Sequence[TensorSpec], axes: Mapping[str, int | None]) -> list[TensorSpec]:
    """The inputs as data sets have them: the batch as the first dimension."""
    moved = []
    for spec in inputs:
        axis = axes.get(spec.name, 0)
        rest = spec.shape if axis is None else (*spec.shape[:axis], *spec.shape[axis + 1 :])
        moved.append(spec if axis == 0 else replace(spec, shape=(None, *rest)))
    return moved


def constant_inputs(inputs: Sequence[TensorSpec], values: Mapping[str, float]) -> dict[str, Array]:
    """The arrays of inputs that are the same number for every sample.

    Raises:
        DatasetError: no such input, one of a shape that is not known, or a number that its type cannot hold.
    """
    specs = {spec.name: spec for spec in inputs}
    arrays = {}
    for name, value in values.items():
        if name not in specs:
            raise DatasetError(f"--constant {name}={value:g}: the model has no such input; it has {', '.join(specs)}")
        spec = specs[name]
        shape = [n for n in spec.shape if isinstance(n, int)]
        if len(shape) != len(spec.shape) or any(n != 1 for n in shape):
            raise DatasetError(f"--constant {name}={value:g}: the input is no single number but {list(spec.shape)}")
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.full(shape, value).astype(spec.dtype)
        held = array.reshape(()).item()
        if held != value and (spec.dtype.kind != "f" or not math.isfinite(held)):
            raise DatasetError(f"--constant {name}={value:g}: {spec.dtype} cannot hold it")
        arrays[name] = array
    return arrays
