"""Statistics of activations that lie on a GPU: the kernels of histogram.cu, which read each value once.

The result is that of `quantkit.calibration.statistics` for the rule "exact", bit for bit. The kernels are shipped as
PTX, which the driver compiles for the GPU at hand: neither CUDA's compiler nor a library of kernels is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.cuda.device_array import DeviceArray
from quantkit.backends.cuda.streams import DeviceBuffer, PinnedBuffer, make_stream, report_cuda_errors
from quantkit.backends.cuda.upload import Uploader
from quantkit.types import Array, TensorStatistics

BINS = 8192
_NO_EXPONENT = -1000
_THREADS = {"count_batch": 512, "widen": 1024}
_BLOCKS_PER_MULTIPROCESSOR = 2
_WHAT = "statistics on the GPU"

_TENSOR = np.dtype([("values", "u8"), ("first", "u8"), ("size", "u8"), ("is_half", "u4"), ("state", "u4")])
_STATE = np.dtype(
    [("minimum", "u4"), ("maximum", "u4"), ("exponent", "i4"), ("counted", "i4"), ("has_grown", "u4"), ("bad", "u4")]
)
_EMPTY = np.array((0xFFFFFFFF, 0, _NO_EXPONENT, _NO_EXPONENT, 0, 0), _STATE)


class DeviceHistograms:
    """Histograms of some tensors in the memory of a GPU, to which batches are added.

    Adding returns at once: the GPU counts while the host prepares the next batch, and the arrays are held until then.

    Args:
        context: of the GPU.
        tensors: names.

    Raises:
        BackendError: memory is short, or the driver takes no PTX of this version.
    """

    def __init__(self, context: PrimaryContext, tensors: Iterable[str]) -> None:
        self._context, self._index = context, {name: i for i, name in enumerate(tensors)}
        self._driver = driver = context.driver
        self._held: dict[str, DeviceArray] = {}
        self._uploader = Uploader(context)
        self._states_bytes = len(self._index) * _STATE.itemsize
        with context, report_cuda_errors(driver, _WHAT):
            module = driver.module_from_buffer(Path(__file__).with_name("histogram.ptx").read_bytes() + b"\0")
            self._kernels = {name: module.get_function(name) for name in _THREADS}
            processors = driver.Device(context.device).get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT)
            self._blocks = _BLOCKS_PER_MULTIPROCESSOR * int(processors)
            self._stream = make_stream(driver)
            self._tensors, self._states, self._histograms = (DeviceBuffer(driver) for _ in range(3))
            self._staged_tensors, self._staged_states = PinnedBuffer(driver), PinnedBuffer(driver)
            self._states.reserve(self._states_bytes)
            self._histograms.reserve(len(self._index) * BINS * 8)
            self._driver.memset_d8_async(self._histograms.address, 0, len(self._index) * BINS * 8, self._stream)
            states: Any = self._staged_states.view((len(self._index),), _STATE)
            states[...] = _EMPTY
            self._states.upload(states, self._stream)
            self._stream.synchronize()

    def add(self, values: Mapping[str, DeviceArray | Array]) -> None:
        """Begins to count the values of a batch; waits for the batch before it.

        Args:
            values: by tensor, of any shape; on the GPU, or arrays of the host, which are copied there.
        """
        self.wait()
        present = {name: self._on_device(array) for name, array in values.items() if array.size}
        if not present:
            return
        self._held = present
        sizes = np.array([array.size for array in present.values()], np.uint64)
        with self._context, report_cuda_errors(self._driver, _WHAT):
            table: Any = self._staged_tensors.view((len(present),), _TENSOR)
            table["values"] = [array.address for array in present.values()]
            table["first"], table["size"] = np.cumsum(sizes) - sizes, sizes
            table["is_half"] = [array.dtype == np.float16 for array in present.values()]
            table["state"] = [self._index[name] for name in present]
            self._tensors.reserve(table.nbytes)
            self._tensors.upload(table, self._stream)
            self._count(len(present), int(sizes.sum()), is_second=False)
            arguments = [np.uint64(b.address) for b in (self._tensors, self._states, self._histograms)]
            self._launch("widen", len(present), *arguments)
            self._count(len(present), int(sizes.sum()), is_second=True)
            self._states.download(self._staged_states.view((len(self._index),), _STATE), self._stream)

    def wait(self) -> tuple[str, ...]:
        """Waits for what was begun. Returns the tensors that held NaN or infinity, in any batch so far."""
        if self._held:
            with self._context, report_cuda_errors(self._driver, _WHAT):
                try:
                    self._stream.synchronize()
                finally:
                    self._held = {}
        bad = self._state("bad")
        return tuple(name for name, i in self._index.items() if bad[i])

    def statistics(self) -> dict[str, TensorStatistics]:
        """The statistics of all batches so far, by tensor."""
        self.wait()
        histograms = np.empty((len(self._index), BINS), np.int64)
        with self._context, report_cuda_errors(self._driver, _WHAT):
            self._driver.memcpy_dtoh(histograms, self._histograms.address)
        low_bits, high_bits, exponents = (self._state(name) for name in ("minimum", "maximum", "exponent"))
        lows, highs = _from_ordered(low_bits), _from_ordered(high_bits)
        found = {}
        for name, i in self._index.items():
            exponent, is_empty = int(exponents[i]), low_bits[i] > high_bits[i]
            found[name] = TensorStatistics(
                histogram=histograms[i],
                bin_width=0.0 if exponent == _NO_EXPONENT else 2.0**exponent,
                minimum=math.inf if is_empty else float(lows[i]) + 0.0,  # 0 has no sign
                maximum=-math.inf if is_empty else float(highs[i]) + 0.0,
            )
        return found

    def _state(self, name: str) -> npt.NDArray[Any]:
        """A field of all states, as the last batch left them."""
        states: Any = self._staged_states.view((len(self._index),), _STATE)
        return np.array(states[name])

    def _on_device(self, array: DeviceArray | Array) -> DeviceArray:
        if isinstance(array, DeviceArray) and array.dtype in (np.float32, np.float16):
            return array
        return self._uploader.upload(np.asarray(array, np.float32))

    def free(self) -> None:
        """Gives the memory back; calling it twice is fine."""
        with self._context:
            with suppress(self._driver.Error):  # of a GPU that failed: there is nothing left to wait for
                self._stream.synchronize()
            self._held = {}
            self._uploader.close()
            for buffer in (self._tensors, self._states, self._histograms, self._staged_tensors, self._staged_states):
                buffer.free()

    def _count(self, num_tensors: int, num_values: int, *, is_second: bool) -> None:
        self._launch(
            "count_batch",
            self._blocks,
            np.uint64(self._tensors.address),
            np.int32(num_tensors),
            np.uint64(num_values),
            np.uint64(self._states.address),
            np.uint64(self._histograms.address),
            np.int32(is_second),
        )

    def _launch(self, kernel: str, blocks: int, *arguments: Any) -> None:
        self._kernels[kernel](*arguments, block=(_THREADS[kernel], 1, 1), grid=(blocks, 1), stream=self._stream)


def _from_ordered(bits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Floats from integers of the same order."""
    return np.where(bits & 0x80000000, bits & 0x7FFFFFFF, ~bits).astype(np.uint32).view(np.float32)
