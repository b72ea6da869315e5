"""Arrays in the memory of a GPU, as a runtime leaves them there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.types import Array


@dataclass(frozen=True)
class DeviceArray:
    """A contiguous array on a GPU. `numpy.asarray` copies it to the host.

    Attributes:
        address: of the first element.
        shape: in elements.
        dtype: element type.
        owner: keeps the memory; it is given back when nobody holds the array, or a part of it, any more.
        context: of the GPU.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    owner: Any = field(repr=False)
    context: PrimaryContext = field(repr=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.size * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> DeviceArray:
        """The first entries along the first axis, in the same memory; no other part of it can be had."""
        if rows.start or rows.step not in (None, 1):
            raise IndexError("only the first entries of an array on a GPU can be taken")
        count = len(range(self.shape[0])[rows])
        return replace(self, shape=(count, *self.shape[1:]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("an array on a GPU has to be copied")
        host = np.empty(self.shape, self.dtype)
        if host.nbytes:
            with self.context:
                self.context.driver.memcpy_dtoh(host, self.address)
        return host if dtype is None else host.astype(dtype, copy=False)
