"""A calibrator without data: it gives TensorRT an existing calibration cache, and fails if that is not accepted."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from quantkit.backends.tensorrt.calibrators.streaming import Algorithm, Calibrator, cache_header, make_calibrator
from quantkit.backends.tensorrt.library import Library
from quantkit.errors import CalibrationError
from quantkit.types import Batch

_ALGORITHMS: dict[str, Algorithm] = {"EntropyCalibration2": "entropy", "MinMaxCalibration": "minmax"}


def make_cache_calibrator(library: Library, cache: bytes, *, name: str) -> Calibrator:
    """A calibrator over `cache`, as TensorRT or quantkit wrote it.

    Args:
        library: TensorRT 8.6 to 10, of exactly the version in the cache's header: it ignores any other's.
        cache: content of the file.
        name: of the file, for messages.

    Raises:
        CalibrationError: the cache is of another version or of an unsupported calibrator.
    """
    header = cache.split(b"\n", 1)[0].decode("utf-8", "replace")
    algorithm = _ALGORITHMS.get(header.rpartition("-")[2])
    if algorithm is None:
        known = " or ".join(_ALGORITHMS)
        raise CalibrationError(f"{name}: {header[:60]!r} is not the header of a calibration cache of {known}")
    wanted = cache_header(library, algorithm)
    if header != wanted:
        raise CalibrationError(
            f"{name} says {header}, and {library.title} takes {wanted} only; its scales can be kept: quantkit cache "
            f"convert {name} --to tensorrt --tensorrt-version {'.'.join(map(str, library.version))}"
        )
    return make_calibrator(library, (), _NoData(), batch_size=1, num_batches=1, algorithm=algorithm, cache=cache)


class _NoData:
    def stream(self, batches: Iterable[Batch]) -> Generator[dict[str, int], None, None]:
        """Yields nothing."""
        yield from ()
