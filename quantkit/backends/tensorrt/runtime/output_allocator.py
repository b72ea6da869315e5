"""Memory for outputs with data-dependent shapes (NonZero, NMS), allocated while TensorRT runs."""

from __future__ import annotations

from typing import Any

from quantkit.backends.cuda.streams import DeviceBuffer
from quantkit.backends.tensorrt.library import Library


def make_output_allocator(library: Library, driver: Any) -> Any:
    """A `trt.IOutputAllocator` for any number of outputs.

    Args:
        library: whose interface is implemented.
        driver: pycuda's, of the context that is current whenever TensorRT runs.

    Returns:
        The allocator, with `buffers: dict[str, DeviceBuffer]`, `shapes: dict[str, tuple[int, ...]]` and
        `error: BaseException | None`, each filled by TensorRT's calls, and `free()`.
    """
    trt = library.module

    class GrowingAllocator(trt.IOutputAllocator):  # type: ignore[misc, name-defined]
        """Called from C++, through which no exception may pass: it is kept, and TensorRT gets a null pointer."""

        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.buffers: dict[str, DeviceBuffer] = {}
            self.shapes: dict[str, tuple[int, ...]] = {}
            self.error: BaseException | None = None

        def reallocate_output(self, tensor_name: str, memory: Any, size: int, alignment: int) -> int:
            """TensorRT 8.6 and 9. pycuda's memory is aligned to 256 bytes, the most that TensorRT asks for."""
            try:
                return self.buffers.setdefault(tensor_name, DeviceBuffer(driver)).reserve(int(size))
            except BaseException as error:
                self.error = error
                return 0

        def reallocate_output_async(self, tensor_name: str, memory: Any, size: int, alignment: int, stream: Any) -> int:
            """TensorRT 10 and later. Freeing the old memory waits for the GPU, so that nothing still writes there."""
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            """The shape that the output got."""
            try:
                self.shapes[tensor_name] = tuple(int(d) for d in shape)
            except BaseException as error:
                self.error = error

        def free(self) -> None:
            """Gives the memory back."""
            for buffer in self.buffers.values():
                buffer.free()

    return GrowingAllocator()
