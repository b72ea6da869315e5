"""Calibrators (IInt8Calibrator) of TensorRT up to 10 that stream batches.

NVIDIA's bindings swallow every exception of a callback, even KeyboardInterrupt, and take a wrong return value for the
end of the data. Therefore callbacks never raise: they keep the exception and signal the end of the data, and `check`
raises after the build.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from functools import lru_cache
from typing import Any, Literal, Protocol

from quantkit.backends.tensorrt.library import PIP_LINE_OF_CALIBRATORS, Library
from quantkit.errors import BackendError, CalibrationError
from quantkit.types import Batch

Algorithm = Literal["entropy", "minmax"]

_ALGORITHMS: dict[str, tuple[str, str, str]] = {
    "entropy": ("EntropyCalibrator", "IInt8EntropyCalibrator2", "EntropyCalibration2"),
    "minmax": ("MinMaxCalibrator", "IInt8MinMaxCalibrator", "MinMaxCalibration"),
}
"""Name of our class, of TensorRT's, and of the algorithm in a cache's header."""


class Feed(Protocol):
    """Device memory that batches are copied to: `quantkit.backends.cuda.memory.DeviceFeed`, or a fake."""

    def stream(self, batches: Iterable[Batch]) -> Generator[dict[str, int], None, None]:
        """Yields device pointers by input name, valid until the next ones are requested."""


class Calibrator:
    """Calibration callbacks; `make_calibrator` combines them with TensorRT's own class.

    Attributes:
        cache: cache that TensorRT wrote after a complete calibration, else None.
        consumed_batches: batches that TensorRT consumed in the current or last pass.
        error: the first exception in a callback.
        rejection_reason: why the given cache is not used, else None.
    """

    def __init__(
        self, batches: Iterable[Batch], feed: Feed, *, batch_size: int, num_batches: int | None, header: str
    ) -> None:
        self.cache: bytes | None = None
        self.consumed_batches = 0
        self.error: BaseException | None = None
        self.rejection_reason: str | None = None
        self._batches = batches
        self._feed = feed
        self._batch_size = batch_size
        self._num_batches = num_batches
        self._header = header
        self._given: bytes | None = None
        self._offered = False  # a cache was given to TensorRT
        self._asked = False  # it requested data all the same
        self._stream: Generator[dict[str, int], None, None] | None = None
        self._passes = 0

    @property
    def expected_batches(self) -> int:
        """Number of batches of a complete pass; it decreases when samples prove to be unreadable."""
        if self._num_batches is not None:
            return self._num_batches
        assert isinstance(self._batches, Sized)  # make_calibrator saw to it
        return len(self._batches)

    def check(self) -> None:
        """Ends the pass over the data and raises what a callback had to hold back; to be called after every build.

        Raises:
            CalibrationError: TensorRT consumed fewer or more batches than expected.
            BaseException: the first exception in a callback, including KeyboardInterrupt and SystemExit.
        """
        self._end_pass()
        if self.error is not None:
            raise self.error
        offered, asked = self._offered, self._asked
        self._offered = self._asked = False
        if offered and not asked:
            return  # TensorRT accepted the cache and needs no data
        delivered = self.consumed_batches if asked else 0
        if delivered != self.expected_batches:
            hint = ", although it was offered a cache" if offered else "" if asked else ": it did not ask for any"
            raise CalibrationError(
                f"TensorRT took {delivered} of {self.expected_batches} planned calibration batches{hint}: "
                "nothing of this build may be used"
            )

    # TensorRT calls these in the thread that builds. On error they return what the bindings interpret as "none".

    def get_batch_size(self) -> int:
        """Leading dimension of the batches."""
        return self._batch_size

    def get_batch(self, names: Sequence[str], *_: object) -> list[int] | None:
        """Device pointers in the order of `names`, None at the end."""
        if self.error is not None:
            return None
        self._asked = True
        try:
            return self._next_pointers(names)
        except BaseException as error:
            self._fail(error)
            return None

    def read_calibration_cache(self, *_: object) -> bytes | None:
        """Cache of an earlier build with this object, else the given cache if it fits this library."""
        if self.error is not None:
            return None
        content = self.cache if self.cache is not None else self._given
        self._offered = content is not None
        return content

    def write_calibration_cache(self, cache: Any, *_: object) -> None:
        """Copies the cache, whose memory belongs to TensorRT, unless the pass was incomplete."""
        try:
            content = bytes(cache)
            if self.error is None and (
                self.consumed_batches == self.expected_batches or (self._offered and not self._asked)
            ):
                self.cache = content
        except BaseException as error:
            self._fail(error)

    def load_cache(self, cache: bytes) -> None:
        """Sets the cache for TensorRT; a cache of another version or algorithm is rejected, with the reason."""
        found = cache.split(b"\n", 1)[0].decode("utf-8", "replace")
        if found == self._header:
            self._given, self.rejection_reason = cache, None
        else:
            self.rejection_reason = f"the cache is {found[:60]!r}, not {self._header!r}: TensorRT calibrates again"

    def _next_pointers(self, names: Sequence[str]) -> list[int] | None:
        if self._stream is None:
            self._begin_pass()
        assert self._stream is not None
        pointers = next(self._stream, None)
        if pointers is None:
            self._end_pass()
            return None
        missing = [name for name in names if name not in pointers]
        if missing:
            have = ", ".join(map(repr, pointers))
            raise CalibrationError(f"TensorRT asks for input {missing[0]!r}, but the data have {have}")
        # A list, of plain ints, as long as `names`: the bindings do not check what they copy.
        result = [int(pointers[name]) for name in names]
        self.consumed_batches += 1
        return result

    def _begin_pass(self) -> None:
        if self._passes and isinstance(self._batches, Iterator):
            raise CalibrationError("TensorRT calibrates a second time, but the batches can be read only once")
        self._passes += 1
        self.consumed_batches = 0
        self._stream = self._feed.stream(self._batches)

    def _end_pass(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        try:
            self._end_pass()
        except BaseException as another:
            self.error.__context__ = another


def make_calibrator(
    library: Library,
    batches: Iterable[Batch],
    feed: Feed,
    *,
    batch_size: int,
    num_batches: int | None = None,
    algorithm: Algorithm = "entropy",
    cache: bytes | None = None,
) -> Calibrator:
    """A calibrator for `IBuilderConfig.int8_calibrator`: a subclass of TensorRT's own, made now, not at import.

    Args:
        library: TensorRT 8.6 to 10.
        batches: full batches of the calibration profile's shapes (`PaddedBatches`); an iterator serves one build.
        feed: device memory that they go through.
        batch_size: their leading dimension.
        num_batches: expected number; None: `len(batches)` after the build, when skipped samples are known.
        algorithm: "entropy" (IInt8EntropyCalibrator2) or "minmax" (IInt8MinMaxCalibrator).
        cache: an earlier calibration cache; if it is not of this library and algorithm, `rejection_reason` says so.

    Returns:
        An object of class EntropyCalibrator or MinMaxCalibrator. Call its `check()` after every build.

    Raises:
        BackendError: this TensorRT has no calibrators.
        CalibrationError: an unknown algorithm, or the number of batches is unknown.
    """
    if algorithm not in _ALGORITHMS:
        raise CalibrationError(f"TensorRT has no calibrator {algorithm!r}: choose {' or '.join(_ALGORITHMS)}")
    if not library.has_calibrators:
        raise BackendError(
            f"{library.title} has no calibrators: use the INT8 model with Q/DQ (quantkit quantize), or "
            f"{PIP_LINE_OF_CALIBRATORS}"
        )
    if num_batches is None and not isinstance(batches, Sized):
        raise CalibrationError("a calibrator needs num_batches, or batches that have a length")
    if (num_batches is not None and num_batches < 1) or batch_size < 1:
        raise CalibrationError(f"{num_batches} batches of {batch_size} samples are nothing to calibrate with")
    name, base, _ = _ALGORITHMS[algorithm]
    calibrator: Calibrator = _join(name, getattr(library.module, base))(
        batches,
        feed,
        batch_size=batch_size,
        num_batches=num_batches,
        header=cache_header(library, algorithm),
    )
    if cache is not None:
        calibrator.load_cache(cache)
    return calibrator


def cache_header(library: Library, algorithm: Algorithm = "entropy") -> str:
    """Header (first line) of the calibration caches that this library accepts for this algorithm."""
    return f"TRT-{library.cache_version}-{_ALGORITHMS[algorithm][2]}"


@lru_cache
def _join(name: str, base: Any) -> Callable[..., Calibrator]:
    """A class of that name that derives from ours and TensorRT's."""

    def __init__(self: Any, *args: Any, **options: Any) -> None:  # noqa: N807
        base.__init__(self)  # the bindings refuse an object without it
        Calibrator.__init__(self, *args, **options)

    # Ours first: the bindings look methods up by name, and must not find the abstract ones.
    members = {"__init__": __init__, "__doc__": Calibrator.__doc__}
    made: Callable[..., Calibrator] = type(name, (Calibrator, base), members)
    return made
