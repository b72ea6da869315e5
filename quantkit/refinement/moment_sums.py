"""Sums that moments are made of, where columns are added to them: on the host, or on a GPU.

Products of the columns of a wide layer are most of what rounding its weight computes. On a GPU they are a model that
ONNX Runtime runs, of the same formulas, and whose sums stay there from one run to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.device_runner import DeviceRunner
from quantkit.backends.onnxruntime import OnnxRuntimeRunner, chosen_gpu
from quantkit.errors import OutOfDeviceMemoryError
from quantkit.graph.moments_model import moments_model

_Columns = npt.NDArray[np.float32]
_Sums = npt.NDArray[np.float64]

_WIDE = 256
"""Inputs of an output channel from which on a GPU adds up faster than the columns get there."""


class MomentSums(Protocol):
    """Sums over columns x^ of quantized inputs and d, the float inputs less these, each as often as it counts."""

    def add(self, x: _Columns, quantized: _Columns, counts: _Columns) -> None:
        """Adds columns [G, K, P] of float and of quantized inputs, which count [P] times."""

    def values(self) -> tuple[_Sums, _Sums]:
        """Sums [2, G, K] of x^ and d, and sums of x^ x^T, d x^T and perhaps d d^T, [2 or 3, G, K, K]."""


MakeSums = Callable[[int, int, bool], MomentSums]
"""From groups G, width K and whether d d^T is among them."""


@dataclass(frozen=True)
class HostSums:
    """Adds products of single precision to sums of double precision; the attributes are what `values` returns."""

    sums: _Sums
    products: _Sums

    @classmethod
    def of_nothing(cls, groups: int, width: int, with_error: bool) -> HostSums:
        """Sums of no columns; the arguments are those of `MakeSums`."""
        return cls(np.zeros((2, groups, width)), np.zeros((2 + with_error, groups, width, width)))

    def add(self, x: _Columns, quantized: _Columns, counts: _Columns) -> None:
        """Adds columns."""
        both = np.asarray(quantized, np.float32), x - quantized
        self.sums[...] += [(columns * counts).sum(2, dtype=np.float64) for columns in both]
        of_quantized, of_difference = (columns * np.sqrt(counts) for columns in both)
        # A matrix times its own transpose takes half the time.
        pairs = (of_quantized, of_quantized), (of_difference, of_quantized), (of_difference, of_difference)
        for total, (left, right) in zip(self.products, pairs, strict=False):
            total += left @ right.swapaxes(1, 2)

    def values(self) -> tuple[_Sums, _Sums]:
        """What was added up."""
        return self.sums, self.products


_OF_COLUMNS, _OF_PRODUCTS = ("q", "d"), ("qq", "dq", "dd")


class DeviceSums:
    """The same, by a runner of `moments_model` whose results stay on a GPU; where its memory is short, on the host.

    Args:
        runner: of the model with or without d d^T.
        groups: G, of the layer.
        width: K, inputs of an output channel.
        with_error: whether d d^T is among them.
    """

    def __init__(self, runner: OnnxRuntimeRunner, groups: int, width: int, with_error: bool) -> None:
        self._runner, self._host = runner, HostSums.of_nothing(groups, width, with_error)
        self._added: dict[str, Any] = {}

    def add(self, x: _Columns, quantized: _Columns, counts: _Columns) -> None:
        """Adds columns."""
        columns: dict[str, Any] = {"x": x, "quantized": quantized, "counts": counts}
        sums = {spec.name: np.zeros((1, 1, 1)) for spec in self._runner.inputs if spec.name not in columns}
        sums |= {name.replace("new", "sum"): value for name, value in self._added.items()}
        try:
            found = self._runner.run({**columns, **sums})
        except OutOfDeviceMemoryError:
            self._host.add(x, quantized, counts)
        else:
            self._added = {spec.name: found[spec.name] for spec in self._runner.outputs}

    def values(self) -> tuple[_Sums, _Sums]:
        """What was added up, on the host from now on."""
        sums, products = self._host.values()
        for number, name in enumerate(_OF_COLUMNS if self._added else ()):
            sums[number] += np.asarray(self._added[f"new_{name}"])[:, :, 0]
        for total, name in zip(products, _OF_PRODUCTS if self._added else (), strict=False):
            total += np.asarray(self._added[f"new_{name}"])
        self._added = {}
        return sums, products


@contextmanager
def sums_where_they_pay() -> Iterator[MakeSums]:
    """Makes sums: of wide layers on the GPU of `using_gpu`, if there is one, of others on the host."""
    gpu = chosen_gpu()
    with ExitStack() as stack:
        runners: Mapping[bool, OnnxRuntimeRunner] = {}
        if gpu is not None:
            context = PrimaryContext(gpu)
            runners = {
                with_error: stack.enter_context(DeviceRunner(moments_model(with_error=with_error), context))
                for with_error in (False, True)
            }

        def make(groups: int, width: int, with_error: bool) -> MomentSums:
            if not runners or width < _WIDE:
                return HostSums.of_nothing(groups, width, with_error)
            return DeviceSums(runners[with_error], groups, width, with_error)

        yield make
