"""The memory of one execution context: each input and output on both sides of the bus, its shape and its address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quantkit.backends.cuda.streams import DeviceBuffer, PinnedBuffer
from quantkit.backends.tensorrt.library import Library
from quantkit.backends.tensorrt.runtime.bindings import Binding, shape_text
from quantkit.backends.tensorrt.runtime.output_allocator import make_output_allocator
from quantkit.errors import BackendError
from quantkit.types import Array


@dataclass
class _Tensor:
    """An input or output and its buffers. `shape` is None until it is set, or if TensorRT determines it."""

    binding: Binding
    device: DeviceBuffer
    host: PinnedBuffer
    shape: tuple[int, ...] | None = None
    address: int = 0
    values: Array = field(default_factory=lambda: np.empty(0))


class EngineMemory:
    """Feeds a context and reads it. Buffers are kept from call to call; what did not change is not told again.

    Args:
        library: that made the context.
        driver: pycuda's.
        context: a `trt.IExecutionContext`.
        bindings: its inputs and outputs.
        stream: on which the copies are queued; idle whenever `place` is called.
        name: of the engine, for messages.
    """

    def __init__(
        self, library: Library, driver: Any, *, context: Any, bindings: Sequence[Binding], stream: Any, name: str
    ) -> None:
        self._library, self._driver, self._context, self._stream, self._name = library, driver, context, stream, name
        tensors = [_Tensor(b, DeviceBuffer(driver), PinnedBuffer(driver)) for b in bindings]
        self._inputs = [t for t in tensors if t.binding.is_input]
        self._outputs = [t for t in tensors if not t.binding.is_input]
        self._allocator: Any = None
        self._is_placed = False
        self.layout: tuple[tuple[int, tuple[int, ...] | None], ...] = ()
        """Every address and shape: what a captured graph holds fast."""

    @property
    def is_fixed(self) -> bool:
        """Whether all shapes are known before execution, and all tensors are in device memory."""
        return all(t.shape is not None and not t.binding.on_host for t in (*self._inputs, *self._outputs))

    def place(self, arrays: Mapping[str, Array]) -> None:
        """Takes one batch, checked already, into page-locked memory, and makes room for it and its outputs.

        Raises:
            BackendError: TensorRT rejects a shape.
        """
        for tensor in self._inputs:
            if self._place_input(tensor, arrays[tensor.binding.name]):
                self._is_placed = False
        if not self._is_placed:
            self._check_complete()
            for tensor in self._outputs:
                self._place_output(tensor)
            self._is_placed = True
        self.layout = tuple((t.address, t.shape) for t in (*self._inputs, *self._outputs))

    def upload(self) -> None:
        """Queues the copies of the inputs."""
        for tensor in self._inputs:
            if not tensor.binding.on_host:
                tensor.device.upload(tensor.values, self._stream)

    def download(self) -> None:
        """Queues the copies of the outputs; the computation has been queued before."""
        for tensor in self._outputs:
            if tensor.shape is None:
                self._download_allocated(tensor)
            elif not tensor.binding.on_host:
                tensor.device.download(tensor.values, self._stream)

    def outputs(self) -> dict[str, Array]:
        """Copies of the outputs; the stream has done everything."""
        return {t.binding.name: t.values.copy() for t in self._outputs}

    def raise_error(self) -> None:
        """Raises, once, the error of an output allocation."""
        if self._allocator is None or self._allocator.error is None:
            return
        error, self._allocator.error = self._allocator.error, None
        try:
            raise error
        finally:
            del error  # else this frame and the exception would hold each other, and what they know, for long

    def drop_context(self) -> None:
        """Lets go of TensorRT's context."""
        self._context = None

    def free(self) -> None:
        """Gives all memory back; calling it twice is fine. The context is gone, or will not run any more."""
        for tensor in (*self._inputs, *self._outputs):
            tensor.values = np.empty(0)
            tensor.device.free()
            tensor.host.free()
        if self._allocator is not None:
            self._allocator.free()

    def _place_input(self, tensor: _Tensor, array: Array) -> bool:
        """Returns whether anything changed that TensorRT's shapes depend on."""
        binding = tensor.binding
        tensor.values = tensor.host.view(array.shape, binding.spec.dtype)
        np.copyto(tensor.values, array)
        address = tensor.host.address if binding.on_host else tensor.device.reserve(array.nbytes)
        self._set_address(tensor, address)
        if tensor.shape == array.shape:
            return binding.on_host
        tensor.shape = None
        if not self._context.set_input_shape(binding.name, array.shape):
            raise BackendError(
                f"{self._name}: TensorRT refuses shape {shape_text(array.shape)} of input {binding.name!r}"
            )
        tensor.shape = array.shape
        return True

    def _check_complete(self) -> None:
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:
            shapes = ", ".join(f"{t.binding.name}:{shape_text(t.shape or ())}" for t in self._inputs)
            raise BackendError(f"{self._name}: these shapes do not fit together: {shapes}") from error
        if missing:
            raise BackendError(f"{self._name}: TensorRT requires a shape or values of {missing[0]!r}")

    def _place_output(self, tensor: _Tensor) -> None:
        binding = tensor.binding
        shape = tuple(int(d) for d in self._context.get_tensor_shape(binding.name))
        if -1 in shape:
            if self._allocator is None:
                self._allocator = make_output_allocator(self._library, self._driver)
            if not self._context.set_output_allocator(binding.name, self._allocator):
                raise BackendError(
                    f"{self._name}: TensorRT refuses to leave the memory of {binding.name!r} to quantkit"
                )
            return
        tensor.shape = shape
        tensor.values = tensor.host.view(shape, binding.spec.dtype)
        on_host = binding.on_host
        self._set_address(tensor, tensor.host.address if on_host else tensor.device.reserve(tensor.values.nbytes))

    def _set_address(self, tensor: _Tensor, address: int) -> None:
        if address == tensor.address:
            return
        if not self._context.set_tensor_address(tensor.binding.name, address):
            raise BackendError(f"{self._name}: TensorRT refuses the memory of {tensor.binding.name!r}")
        tensor.address = address

    def _download_allocated(self, tensor: _Tensor) -> None:
        name, dtype = tensor.binding.name, tensor.binding.spec.dtype
        shape = self._allocator.shapes.get(name)
        if shape is None:
            raise BackendError(f"{self._name}: TensorRT did not report the shape of output {name!r}")
        if shape != tensor.values.shape:
            # The buffer may move, which it must not while a copy of the query before is on its way.
            self._stream.synchronize()
            tensor.values = tensor.host.view(shape, dtype)
        if tensor.values.nbytes:
            self._allocator.buffers[name].download(tensor.values, self._stream)
