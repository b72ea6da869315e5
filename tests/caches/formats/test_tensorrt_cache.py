import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.caches.formats.tensorrt_cache import ALGORITHMS, TensorRTCache, cache_text, library_version, parse_cache
from quantkit.errors import CalibrationError

NAMES = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), min_size=1)


@given(
    st.integers(5000, 109999),
    st.sampled_from(ALGORITHMS),
    st.dictionaries(NAMES, st.integers(0, 2**32 - 1), max_size=20),
)
def test_round_trip_byte_for_byte(version, algorithm, scale_bits):
    text = TensorRTCache(version, algorithm, scale_bits).text()
    cache = parse_cache(text)
    assert cache == TensorRTCache(version, algorithm, scale_bits)
    assert list(cache.scale_bits) == list(scale_bits)
    assert cache.text() == text


def test_known_lines():
    text = cache_text({"prob": 1.00024414, "a: b": 127.0, "zero": 0.0}, tensorrt_version="7.2.2")
    assert text == "TRT-7202-EntropyCalibration2\nprob: 3c010a14\na: b: 3f800000\nzero: 0\n"
    assert parse_cache(text).amax["a: b"] == 127


@given(st.floats(1e-30, 1e30))
def test_scale_is_amax_over_127_in_float32(amax):
    value = cache_text({"x": amax}, tensorrt_version="10.3.0").splitlines()[1].partition(": ")[2]
    scale = struct.unpack(">f", struct.pack(">I", int(value, 16)))[0]
    assert scale == np.float32(amax / 127)
    rounded = np.float32(amax)
    assert np.float32(float(rounded) / 127) == rounded / np.float32(127)


@pytest.mark.parametrize(
    ("version", "number"),
    [("5.1.2", 5102), ("8.6.1", 8601), ("9.2.0", 9200), ("10.3.0", 100300), ("10.16.1.11", 101601), ("10.0.1", 100001)],
)
def test_version_numbers(version, number):
    assert library_version(version) == number


@pytest.mark.parametrize("version", ["11.0.0", "4.0.1", "latest", "", "8", "8.6", "10.0"])
def test_versions_without_calibrator_are_refused(version):
    with pytest.raises(CalibrationError, match="--tensorrt-version"):
        library_version(version)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1"),
        ("hello\n", "line 1"),
        ("TRT-8601-EntropyCalibration2\nx: 3c0", "truncated"),
        ("TRT-8601-EntropyCalibration2\nx 3c010a14\n", "line 2"),
        ("TRT-8601-EntropyCalibration2\nx: 3C010A14\n", "line 2"),
        ("TRT-8601-EntropyCalibration2\nx: 3c010a1400\n", "line 2"),
        ("TRT-8601-EntropyCalibration2\nx: 1\nx: 2\n", "line 3.*twice"),
        ("TRT-8601-EntropyCalibration2\n\nx: 1\n", "line 2"),
    ],
)
def test_what_is_no_cache_is_refused_with_the_line(text, message):
    with pytest.raises(CalibrationError, match=message):
        parse_cache(text, name="my.cache")


@pytest.mark.parametrize("name", ["a\nb", "a\rb"])
def test_names_that_a_cache_cannot_hold(name):
    with pytest.raises(CalibrationError, match="line break"):
        cache_text({name: 1.0}, tensorrt_version="8.6.1")


def test_unknown_algorithm_and_bad_range():
    with pytest.raises(CalibrationError, match="EntropyCalibration2"):
        cache_text({"x": 1.0}, tensorrt_version="8.6.1", algorithm="Magic")
    for bad in (float("nan"), float("inf"), -1.0):
        with pytest.raises(CalibrationError, match="'x'"):
            cache_text({"x": bad}, tensorrt_version="8.6.1")


@given(st.integers(1, 0x7F7FFFFF))
def test_amax_over_127_is_the_scale_again(bits):
    amax = TensorRTCache(8601, "EntropyCalibration2", {"x": bits}).amax
    assert parse_cache(cache_text(amax, tensorrt_version="8.6.1")).scale_bits == {"x": bits}
