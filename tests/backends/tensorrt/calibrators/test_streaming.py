"""The calibrator's own logic, called directly. Through NVIDIA's bindings: test_calibrator_trampoline."""

import types

import numpy as np
import pytest

from quantkit.backends.tensorrt.calibrators.streaming import cache_header, make_calibrator
from quantkit.backends.tensorrt.library import Library
from quantkit.caches.formats.tensorrt_cache import ALGORITHMS, cache_text, parse_cache
from quantkit.errors import BackendError, CalibrationError
from quantkit.types import Batch


class Base:
    """Stands for a class of the bindings: its methods must not be found before ours."""

    def __init__(self):
        self.made = True

    def get_batch(self, names):
        raise NotImplementedError


def make_library(version=(10, 16, 1), **names):
    module = types.SimpleNamespace(
        **(names or {"IInt8EntropyCalibrator2": Base, "IInt8MinMaxCalibrator": type("Other", (Base,), {})})
    )
    return Library(module=module, name="tensorrt", version=version)


LIBRARY = make_library()


class Feed:
    """Hands out the number of each batch as its pointer."""

    def __init__(self, raise_at=None, error=None):
        self.closed, self.passes = 0, 0
        self._raise_at, self._error = raise_at, error

    def stream(self, batches):
        self.passes += 1
        try:
            for number, batch in enumerate(batches, start=1):
                if number == self._raise_at:
                    raise self._error
                yield {name: 1000 * i + number for i, name in enumerate(batch.inputs)}
        finally:
            self.closed += 1


def make_batches(number=3, names=("x",)):
    return [Batch(inputs={n: np.zeros((2, 1), np.float32) for n in names}, ids=("a", "b")) for _ in range(number)]


def make(batches=None, feed=None, **options):
    batches = make_batches() if batches is None else batches
    return make_calibrator(LIBRARY, batches, feed or Feed(), batch_size=2, **options)


def calibrate(calibrator, names=("x",), limit=100):
    """What TensorRT does, in its order."""
    cache = calibrator.read_calibration_cache()
    if cache is None:
        while calibrator.get_batch(list(names)) is not None and calibrator.consumed_batches < limit:
            pass
        cache = b"TRT-101601-EntropyCalibration2\nx: 3c010a14\n"
    calibrator.write_calibration_cache(memoryview(cache))


def test_calibrator_class_is_created_once_per_library():
    entropy, other, minmax = make(), make(), make(algorithm="minmax")
    assert isinstance(entropy, Base)
    assert entropy.made
    assert type(entropy) is type(other)
    assert type(entropy).__name__ == "EntropyCalibrator"
    assert type(minmax).__name__ == "MinMaxCalibrator"
    assert entropy.get_batch_size() == 2


def test_pointers_come_by_name_in_the_order_asked_for():
    calibrator = make(make_batches(names=("x", "y")))
    assert calibrator.get_batch(["y", "x"]) == [1001, 1]
    assert calibrator.get_batch(["x"]) == [2]
    assert all(type(pointer) is int for pointer in calibrator.get_batch(["x", "y"]))


def test_calibration_consumes_all_batches():
    feed = Feed()
    calibrator = make(feed=feed)
    calibrate(calibrator)
    calibrator.check()
    assert calibrator.consumed_batches == calibrator.expected_batches == 3
    assert parse_cache(calibrator.cache.decode()).amax["x"] == pytest.approx(1, rel=1e-3)
    assert feed.closed == 1


def test_the_next_build_gets_the_cache_of_the_first():
    feed = Feed()
    calibrator = make(feed=feed)
    for _ in range(2):
        calibrate(calibrator)
        calibrator.check()
    assert feed.passes == 1
    assert calibrator.read_calibration_cache() == calibrator.cache


def test_the_next_build_after_a_broken_one_reads_the_data_from_the_start():
    feed = Feed()
    calibrator = make(feed=feed)
    calibrate(calibrator, limit=2)
    with pytest.raises(CalibrationError, match="2 of 3 planned"):
        calibrator.check()
    assert calibrator.cache is None
    calibrate(calibrator)
    calibrator.check()
    assert feed.passes == 2


def test_an_iterator_serves_one_pass_only():
    batches = iter(make_batches())
    calibrator = make(batches, num_batches=3)
    assert [calibrator.get_batch(["x"]) for _ in range(4)] == [[1], [2], [3], None]
    assert calibrator.get_batch(["x"]) is None
    with pytest.raises(CalibrationError, match="only once"):
        calibrator.check()


@pytest.mark.parametrize("error", [ValueError("odd"), KeyboardInterrupt(), SystemExit(3), CalibrationError("a.jpg")])
def test_the_first_exception_is_kept_and_raised_by_check(error):
    calibrator = make(feed=Feed(raise_at=2, error=error))
    calibrate(calibrator)
    assert calibrator.error is error
    assert calibrator.cache is None
    assert calibrator.get_batch(["x"]) is None
    assert calibrator.read_calibration_cache() is None
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            calibrator.check()
        assert caught.value is error


@pytest.mark.parametrize("planned", [2, 4])
def test_unexpected_number_of_batches_fails(planned):
    calibrator = make(num_batches=planned)
    calibrate(calibrator)
    with pytest.raises(CalibrationError, match=f"3 of {planned} planned"):
        calibrator.check()
    assert calibrator.cache is None


def test_build_without_batches_fails():
    calibrator = make()
    with pytest.raises(CalibrationError, match="0 of 3 planned calibration batches: it did not ask"):
        calibrator.check()
    calibrate(calibrator)
    calibrator.check()
    with pytest.raises(CalibrationError, match="0 of 3 planned"):
        calibrator.check()


def test_unreadable_samples_lower_the_plan():
    class Batches(list):
        def __len__(self):
            return 2

    calibrator = make(Batches(make_batches(2)))
    calibrate(calibrator)
    calibrator.check()


def test_an_unknown_input_is_an_error():
    calibrator = make()
    assert calibrator.get_batch(["x", "z"]) is None
    with pytest.raises(CalibrationError, match="asks for input 'z', but the data have 'x'"):
        calibrator.check()


def test_matching_cache_is_passed_without_data():
    cache = cache_text({"x": 1.0}, tensorrt_version="10.16.1").encode()
    feed = Feed()
    calibrator = make(feed=feed, cache=cache)
    assert calibrator.rejection_reason is None
    calibrate(calibrator)
    calibrator.check()
    assert calibrator.cache == cache
    assert feed.passes == 0


def test_refused_cache_needs_data():
    calibrator = make((), num_batches=1, cache=cache_text({"x": 1.0}, tensorrt_version="10.16.1").encode())
    assert calibrator.read_calibration_cache() is not None
    assert calibrator.get_batch(["x"]) is None
    with pytest.raises(CalibrationError, match="although it was offered a cache"):
        calibrator.check()


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "10.16.0"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_foreign_cache_is_refused_with_the_reason(version, algorithm):
    text = cache_text({"x": 1.0}, tensorrt_version=version, algorithm=algorithm)
    calibrator = make(cache=text.encode())
    assert calibrator.read_calibration_cache() is None
    assert text.splitlines()[0] in calibrator.rejection_reason
    assert "TRT-101601-EntropyCalibration2" in calibrator.rejection_reason
    assert "\n" not in calibrator.rejection_reason


@pytest.mark.parametrize("cache", [b"", b"\xff\xfe\x00", b"TRT-101601-EntropyCalibration2x: 1\n", b"hello\n"])
def test_invalid_cache_is_refused(cache):
    calibrator = make(cache=cache)
    assert calibrator.read_calibration_cache() is None
    assert calibrator.rejection_reason


def test_cache_headers_match_version_and_algorithm():
    assert cache_header(make_library((8, 6, 1))) == "TRT-8601-EntropyCalibration2"
    assert cache_header(make_library((10, 0, 1)), "minmax") == "TRT-100001-MinMaxCalibration"


def test_a_cache_that_cannot_be_copied_is_an_error():
    calibrator = make()
    calibrator.write_calibration_cache(3.5)
    with pytest.raises(TypeError):
        calibrator.check()


def test_tensorrt_11_has_no_calibrator():
    library = make_library((11, 4, 0), ILogger=Base)
    with pytest.raises(BackendError, match=r"TensorRT 11.4.0 has no calibrators.*Q/DQ"):
        make_calibrator(library, make_batches(), Feed(), batch_size=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "percentile"}, "no calibrator 'percentile': choose entropy or minmax"),
        ({"num_batches": 0}, "nothing to calibrate"),
        ({"batches": iter(())}, "needs num_batches"),
    ],
)
def test_unplannable_data_is_refused(options, message):
    with pytest.raises(CalibrationError, match=message):
        make(**options)
