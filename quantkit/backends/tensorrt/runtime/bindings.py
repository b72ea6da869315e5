"""Inputs and outputs of an engine: type, shape, and which shapes its optimization profile allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quantkit.backends.tensorrt.library import Library
from quantkit.errors import BackendError
from quantkit.types import Array, TensorSpec

_NUMPY_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
"""TensorRT's type → numpy's. BF16, FP8, INT4 and FP4 have none: `trt.nptype` raises TypeError for them too."""


@dataclass(frozen=True)
class Binding:
    """One input or output.

    Attributes:
        spec: name, type and shape; a dimension that is known at run time only is None.
        is_input: else it is an output.
        on_host: TensorRT reads or writes it in the host's memory (a tensor that holds a shape).
        minimum, maximum: shapes that the profile allows, for inputs; empty for outputs.
    """

    spec: TensorSpec
    is_input: bool
    on_host: bool = False
    minimum: tuple[int, ...] = ()
    maximum: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Name of the tensor in the engine."""
        return self.spec.name

    def check(self, array: Array, engine: str) -> Array:
        """The array as the engine takes it: shape checked, cast within its kind.

        Floating values are cast to the engine's floating type, integers to its integer type if they fit.

        Args:
            array: what a caller wants to feed.
            engine: name of the engine, for messages.

        Raises:
            BackendError: naming the input, its shape or type, and what the engine takes.
        """
        self._check_shape(tuple(array.shape), engine)
        wanted = self.spec.dtype
        if array.dtype == wanted:
            return array
        if np.issubdtype(array.dtype, np.floating) and np.issubdtype(wanted, np.floating):
            return array.astype(wanted)
        if np.issubdtype(array.dtype, np.integer) and np.issubdtype(wanted, np.integer):
            limits = np.iinfo(wanted)
            if not array.size or (limits.min <= array.min() and array.max() <= limits.max):
                return array.astype(wanted)
            raise BackendError(
                f"{engine}: input {self.name!r} holds {array.min()} to {array.max()}, which {wanted} cannot hold"
            )
        raise BackendError(f"{engine}: input {self.name!r} is of type {array.dtype}, the engine takes {wanted}")

    def _check_shape(self, shape: tuple[int, ...], engine: str) -> None:
        low, high = self.minimum, self.maximum
        if len(shape) == len(low) and all(a <= d <= b for a, d, b in zip(low, shape, high, strict=True)):
            return
        text = f"{engine}: input {self.name!r} has shape {shape_text(shape)}; the engine takes {shape_text(low)}"
        if low == high:
            raise BackendError(f"{text} only")
        text += f" to {shape_text(high)}"
        fixed = [a == b for a, b in zip(low, high, strict=True)]
        if len(shape) != len(low) or any(f and d != a for f, d, a in zip(fixed, shape, low, strict=True)):
            raise BackendError(text)
        above = any(d > b for d, b in zip(shape, high, strict=True))
        option = "--max-shapes" if above else "--min-shapes"
        batch = shape[0] if not low[0] <= shape[0] <= high[0] else None
        limit = f"use --batch-size {high[0]} at most, or " if batch is not None and batch > high[0] else ""
        raise BackendError(f"{text}: {limit}build it with {option} {self.name}:{shape_text(shape)}")


def read_bindings(library: Library, engine: Any, *, profile: int, name: str) -> tuple[Binding, ...]:
    """The inputs and outputs of an engine, in its order.

    Args:
        library: that loaded it.
        engine: a `trt.ICudaEngine`.
        profile: which optimization profile the shapes are of.
        name: of the engine, for messages.

    Raises:
        BackendError: a tensor whose type numpy does not have, or whose memory is not laid out plainly.
    """
    # No comprehension: its closure would keep the engine alive behind an error, beyond the context.
    bindings = []
    for i in range(engine.num_io_tensors):
        bindings.append(_read_binding(library.module, engine, engine.get_tensor_name(i), profile, name))
    return tuple(bindings)


def shape_text(shape: tuple[int, ...]) -> str:
    """(1, 3, 8) → "1x3x8", as the options of TensorRT's tools have it."""
    return "x".join(map(str, shape)) or "scalar"


def _read_binding(trt: Any, engine: Any, tensor: str, profile: int, name: str) -> Binding:
    is_input = engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT
    side = "input" if is_input else "output"
    type_name = str(engine.get_tensor_dtype(tensor).name)
    if type_name not in _NUMPY_NAMES:
        raise BackendError(
            f"{name}: {side} {tensor!r} is {type_name}, which numpy does not have: export the model with a Cast to "
            f"float32 at that {side}, and build the engine again"
        )
    layout = engine.get_tensor_format(tensor)
    if layout != trt.TensorFormat.LINEAR:
        raise BackendError(
            f"{name}: {side} {tensor!r} is laid out as {layout.name}: build the engine without restricting the "
            "formats of its inputs and outputs, so that they are LINEAR"
        )
    shape = tuple(int(d) for d in engine.get_tensor_shape(tensor))
    low = high = shape if is_input else ()
    if is_input and -1 in shape:
        low, _, high = (tuple(int(d) for d in s) for s in engine.get_tensor_profile_shape(tensor, profile))
    return Binding(
        spec=TensorSpec(tensor, np.dtype(_NUMPY_NAMES[type_name]), tuple(None if d < 0 else d for d in shape)),
        is_input=is_input,
        on_host=engine.get_tensor_location(tensor) == trt.TensorLocation.HOST,
        minimum=low,
        maximum=high,
    )
