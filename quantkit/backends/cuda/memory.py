"""Copies batches to device memory ahead of their reader: pinned staging memory and two device buffers per input."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.errors import BackendError
from quantkit.types import Array, Batch, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

_NUM_BUFFERS = 2
"""The reader has one while the other is filled."""

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: else each copy would wait for the legacy stream, which TensorRT may use


class DeviceFeed:
    """Device memory that batches of one shape stream through.

    While the reader works on one buffer, a thread takes the next batch from the iterator, copies it to pinned memory
    and from there to the other buffer. Nothing is allocated after construction.

    Args:
        inputs: name, element type and full shape, batch dimension included, of every input.
        context: the GPU.
        overlap: False does everything in the reader's thread while the reader waits: for measurements.

    Raises:
        BackendError: a dimension is not fixed, or memory is short; everything is freed.
    """

    def __init__(self, inputs: Sequence[TensorSpec], *, context: PrimaryContext, overlap: bool = True) -> None:
        self.inputs = tuple(inputs)
        self.size_bytes = sum(_size_bytes(spec) for spec in inputs) * (_NUM_BUFFERS if overlap else 1)
        self._context = context
        self._overlap = overlap
        self._undo: list[Callable[[], None]] = []
        self._slots: list[_Slot] = []
        self._copier: _Copier | None = None
        self._closed = False
        try:
            self._allocate()
        except BaseException:
            self.free()
            raise

    def stream(self, batches: Iterable[Batch]) -> Generator[dict[str, int], None, None]:
        """Copies batches to the GPU in order.

        The iterator is advanced in another thread and closed there when the stream ends, fails or is closed.

        Args:
            batches: arrays of exactly the shapes and types that the feed was made for; others in a batch are ignored.

        Yields:
            Device pointer by input name. The memory behind it is complete, and stays untouched until the next
            pointers are requested; by then everything that reads it must have been queued on the GPU.

        Raises:
            BackendError: the feed is freed or streams already, a batch does not fit, or the GPU fails.
        """
        if self._closed:
            raise BackendError("the device memory is freed already")
        if self._copier is not None:
            raise BackendError("the device memory is in use by another stream")
        self._copier = copier = _Copier(self._context, self._slots, batches, threaded=self._overlap)
        try:
            while (slot := copier.next()) is not None:
                yield slot.pointers
                if self._closed:
                    raise BackendError("the device memory is freed already")
                # The reader may only have queued its work: this buffer is filled again as soon as it is handed back.
                self._context.synchronize()
                copier.hand_back(slot)
        finally:
            copier.stop()
            self._copier = None

    def free(self) -> None:
        """Stops the stream and frees everything; calling it twice is fine."""
        self._closed = True
        if self._copier is not None:
            self._copier.stop()
        if not self._undo:
            return
        with self._context:
            with suppress(BackendError):  # of a GPU that failed: there is nothing left to wait for
                self._context.synchronize()
            while self._slots:
                self._slots.pop().forget()
            while self._undo:
                self._undo.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.free()

    def _allocate(self) -> None:
        driver = self._context.driver
        with self._context:
            for _ in range(_NUM_BUFFERS if self._overlap else 1):
                pointers: dict[str, int] = {}
                staging: dict[str, Array] = {}
                for spec in self.inputs:
                    with self._explain_shortage("GPU"):
                        memory = driver.mem_alloc(max(1, _size_bytes(spec)))
                    self._undo.append(memory.free)
                    pointers[spec.name] = int(memory)
                    with self._explain_shortage("host"):
                        pinned = driver.pagelocked_empty(_fixed_shape(spec), spec.dtype)
                    self._undo.append(pinned.base.free)
                    staging[spec.name] = pinned
                self._slots.append(_Slot(driver, driver.Stream(_NON_BLOCKING), pointers, staging))

    @contextmanager
    def _explain_shortage(self, where: str) -> Iterator[None]:
        driver = self._context.driver
        try:
            yield
        except driver.MemoryError as error:
            free, total = self._context.memory_bytes()
            have = f" and {_mebibytes(free)} of {_mebibytes(total)} are free" if where == "GPU" else ""
            batch = self.inputs[0].shape[0] if self.inputs[0].shape else 1
            raise BackendError(
                f"the {where} is out of memory: batches of {batch} take {self.size_bytes} bytes "
                f"({_mebibytes(self.size_bytes)}){have}: use a smaller --batch-size"
            ) from error
        except driver.Error as error:
            raise BackendError(f"CUDA cannot allocate {self.size_bytes} bytes: {error}") from error


class _Slot:
    """One buffer: device memory and pinned memory of every input, and the stream that copies between them."""

    def __init__(self, driver: Any, stream: Any, pointers: dict[str, int], staging: dict[str, Array]) -> None:
        self.pointers = pointers
        self._driver = driver
        self._stream = stream
        self._staging = staging

    def fill(self, batch: Batch) -> None:
        """Copies a batch to the device and waits for the copy."""
        try:
            for name, pinned in self._staging.items():
                array = batch.inputs.get(name)
                if array is None:
                    raise BackendError(f"a batch has no input {name!r}: it has {', '.join(sorted(batch.inputs))}")
                if array.shape != pinned.shape or array.dtype != pinned.dtype:
                    raise BackendError(
                        f"input {name!r}: a batch of {array.dtype} {list(array.shape)} does not fit memory for "
                        f"{pinned.dtype} {list(pinned.shape)}"
                    )
                np.copyto(pinned, array)
                self._driver.memcpy_htod_async(self.pointers[name], pinned, self._stream)
            self._stream.synchronize()
        except self._driver.Error as error:
            raise BackendError(f"CUDA cannot copy a batch to the GPU: {error}") from error

    def forget(self) -> None:
        """Drops the stream and the arrays over pinned memory, which must not outlive it."""
        self._stream = None
        self._staging = {}


class _Copier:
    """Fills buffers from an iterator, in a thread of its own or, for measurements, in the caller's."""

    def __init__(
        self, context: PrimaryContext, slots: Sequence[_Slot], batches: Iterable[Batch], *, threaded: bool
    ) -> None:
        self._context = context
        self._empty: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        self._filled: queue.SimpleQueue[_Slot | BaseException | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        for slot in slots:
            self._empty.put(slot)
        self._inline: Generator[_Slot, None, None] | None = None
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._run, args=(batches,), name="quantkit-copy", daemon=True)
            self._thread.start()
        else:
            self._inline = self._fill_all(batches)

    def next(self) -> _Slot | None:
        """The next filled buffer, None at the end; raises what the iterator or the copy raised."""
        if self._inline is not None:
            return next(self._inline, None)
        item = self._filled.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def hand_back(self, slot: _Slot) -> None:
        """Says that nobody reads this buffer any more."""
        self._empty.put(slot)

    def stop(self) -> None:
        """Ends the thread and closes the iterator; a batch that is being decoded is waited for."""
        self._stopped.set()
        self._empty.put(None)
        if self._inline is not None:
            self._inline.close()
        if self._thread is not None:
            self._thread.join()

    def _run(self, batches: Iterable[Batch]) -> None:
        try:
            for slot in self._fill_all(batches):
                self._filled.put(slot)
            self._filled.put(None)
        except BaseException as error:
            self._filled.put(error)

    def _fill_all(self, batches: Iterable[Batch]) -> Generator[_Slot, None, None]:
        with closing(_closable(batches)) as iterator:
            for batch in iterator:
                slot = self._empty.get()
                if slot is None or self._stopped.is_set():
                    return
                with self._context:
                    slot.fill(batch)
                del batch
                yield slot


def _closable(batches: Iterable[Batch]) -> Generator[Batch, None, None]:
    """The batches, through a generator that closes theirs where it has a `close`."""
    iterator = iter(batches)
    try:
        yield from iterator  # closing this one closes a generator behind it
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _fixed_shape(spec: TensorSpec) -> tuple[int, ...]:
    shape = tuple(d for d in spec.shape if isinstance(d, int) and d >= 0)
    if len(shape) != len(spec.shape):
        raise BackendError(f"input {spec.name!r} has no fixed shape for calibration: {list(spec.shape)}")
    return shape


def _size_bytes(spec: TensorSpec) -> int:
    return int(np.prod(_fixed_shape(spec), dtype=np.int64)) * spec.dtype.itemsize


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
