import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.caches.formats.detect import cache_from_table, ranges_json, read_ranges
from quantkit.caches.formats.tensorrt_cache import TensorRTCache
from quantkit.caches.range_cache import RangeCache, amax_from_bits, difference, rename, table_from_cache
from quantkit.calibration.refinement_file import save_refinement
from quantkit.calibration.table import save_table
from quantkit.errors import CalibrationError
from quantkit.numerics import QuantParams
from quantkit.types import CalibrationTable, Refinement, TensorRange
from quantkit.types.calibration import NOT_LISTED, bits_from_amax

USABLE_BITS = st.integers(1, 0x7F7FFFFF)
NAMES = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1)


def cache_of(name="a", **amax: float) -> RangeCache:
    return RangeCache(name, "json", {n: TensorRange(x) for n, x in amax.items()})


@given(USABLE_BITS)
def test_every_scale_survives_the_way_over_amax(bits):
    amax = amax_from_bits(bits)
    assert bits_from_amax(amax) == bits
    assert TensorRange(amax).is_valid
    scale = QuantParams.from_amax(amax).scale
    assert struct.unpack(">I", struct.pack(">f", scale))[0] == bits


@given(st.integers(0, 2**32 - 1))
def test_any_bits_are_a_scale_or_are_flagged(bits):
    value = struct.unpack(">f", struct.pack(">I", bits))[0]
    assert TensorRange(amax_from_bits(bits)).is_valid == (math.isfinite(value) and value > 0)


def test_difference_counts_bins_of_what_was_seen():
    first = RangeCache("a", "table", {"x": TensorRange(1.0, -4.0, 2.0)})
    found = difference(first, cache_of(x=1.5))
    assert found.tensors[0].ratio == 1.5
    assert found.tensors[0].bins == 0.5 / 4 * 2048


def test_difference_shows_the_furthest_apart_first():
    found = difference(cache_of(a=1, b=1, c=1, d=1, e=1), cache_of(a=1, b=1.1, c=0.25, d=2, f=1))
    assert [t.name for t in found.tensors] == ["c", "d", "b", "a"]
    assert (found.only_first, found.only_second) == (("e",), ("f",))
    assert found.num_identical == 1
    assert not found.is_same
    assert difference(cache_of(a=1), cache_of(a=1)).is_same


@pytest.mark.parametrize("bits", [0, 0x7F800000, 0x7FC00000, 0xBF800000])
def test_difference_of_what_is_no_range(bits):
    odd = RangeCache("b", "tensorrt", {"x": TensorRange(amax_from_bits(bits))})
    assert len(difference(odd, cache_of(x=1)).tensors) == 1
    assert difference(odd, odd).is_same


def test_rename():
    assert list(rename(cache_of(a=1, b=2), {"a": "z"}).tensors) == ["z", "b"]
    with pytest.raises(CalibrationError, match="'q'"):
        rename(cache_of(a=1), {"q": "z"})
    with pytest.raises(CalibrationError, match="'b'"):
        rename(cache_of(a=1, b=2), {"a": "b"})


def test_table_names_no_data_and_says_where_it_came_from():
    ranges = {
        "x": TensorRange(2.0),
        "z": TensorRange(0.0),
        "n": TensorRange(math.nan),
    }
    cache = RangeCache("m.calib", "tensorrt", ranges, method="entropy", version=8601, algorithm="EntropyCalibration2")
    table = table_from_cache(cache, ranges, missing={"y": NOT_LISTED}, model_hash="h", model_name="m", versions={})
    assert table.settings["calibrator"] == "TensorRT 8.6.1 cache"
    assert (table.dataset_fingerprint, table.num_samples, table.preprocessing) == ("", 0, None)
    assert dict(table.tensors) == {"x": TensorRange(2.0, -2.0, 2.0)}
    assert dict(table.skipped) == {"z": "zero in the cache", "n": NOT_LISTED, "y": NOT_LISTED}
    assert table.always_zero == ("z",)


@given(st.dictionaries(NAMES, st.integers(0, 2**32 - 1), min_size=1, max_size=6))
def test_json_keeps_every_bit(tmp_path_factory, scale_bits):
    folder = tmp_path_factory.mktemp("json")
    tensors = {n: TensorRange(amax_from_bits(b), note="odd") for n, b in scale_bits.items()}
    path = folder / "x.json"
    path.write_text(ranges_json(RangeCache("x", "tensorrt", tensors)), encoding="utf-8")
    back = read_ranges(path)
    # Not of the number given: a float makes a signaling NaN quiet.
    assert {n: r.scale_bits for n, r in back.tensors.items()} == {n: r.scale_bits for n, r in tensors.items()}
    assert list(back.tensors) == list(scale_bits)
    again = RangeCache("x", "tensorrt", back.tensors)
    assert ranges_json(again) == path.read_text(encoding="utf-8")


def test_table_as_cache(tmp_path):
    table = CalibrationTable(
        tensors={"x": TensorRange(1.0, -3.0, 2.0)},
        skipped={"z": "zero on every sample"},
        model_hash="h",
        dataset_fingerprint="d",
        num_samples=3,
        settings={"method": "mse"},
    )
    cache = read_ranges(save_table(table, tmp_path / "m.calib.json"))
    assert cache == cache_from_table(table, name="m.calib.json")
    assert (cache.method, cache.form, cache.table) == ("mse", "table", table)
    assert cache.tensors["x"].note == "seen to 3"
    assert cache.tensors["z"].note == "zero on every sample"


def test_json_that_was_edited_in_one_place_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(ranges_json(cache_of(x=1.0)).replace('"amax": 1.0', '"amax": 2.0'))
    with pytest.raises(CalibrationError, match=r"'x'.*differ"):
        read_ranges(path)


@pytest.mark.parametrize("content", [b"[]", b"{}", b"{", b'{"CLS": "TensorsData"}', b"", b"\xff\xfe", b"{" * 100000])
def test_what_is_no_cache_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "odd"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match="odd"):
        read_ranges(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_KEYS = ("amax", "hex", "minimum", "maximum", "flag", "lowest", "highest")
ENTRY = st.fixed_dictionaries(dict.fromkeys(_KEYS, JSON))
DOCUMENT = st.fixed_dictionaries(
    {
        "format": st.sampled_from(["quantkit ranges", "quantkit calibration table", "x"]),
        "CLS": st.sampled_from(["TensorsData", "x"]),
        "data": st.dictionaries(st.text(max_size=2), ENTRY | JSON, max_size=2) | JSON,
        "tensors": st.dictionaries(st.text(max_size=2), ENTRY | JSON, max_size=2) | JSON,
        "calibration_method": JSON,
        "format_version": st.just(1) | JSON,
    }
)


@given(
    st.binary(max_size=200)
    | st.binary(max_size=60).map(lambda b: b"TRT-8601-MinMaxCalibration\n" + b)
    | st.binary(max_size=60).map(lambda b: b'{"' + b)
    | DOCUMENT.map(lambda d: json.dumps(d).encode())
)
def test_any_bytes_are_ranges_or_an_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "x"
    path.write_bytes(content)
    try:
        cache = read_ranges(path)
    except CalibrationError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert cache.tensors or cache.form == "tensorrt"
        ranges_json(cache).encode()


def test_text_of_tensorrt_is_kept_bit_for_bit(tmp_path):
    text = TensorRTCache(8601, "EntropyCalibration2", {"a: b": 0x3C010A14, "z": 0}).text()
    (tmp_path / "c").write_text(text)
    cache = read_ranges(tmp_path / "c")
    assert (
        TensorRTCache(cache.version, cache.algorithm, {n: r.scale_bits for n, r in cache.tensors.items()}).text()
        == text
    )
    assert (cache.title, cache.method) == ("TensorRT 8.6.1 cache", "entropy")
    assert np.float32(cache.tensors["a: b"].amax) == np.float32(127) * np.float32(cache.tensors["a: b"].scale)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"hello world",
            r"x\.txt contains no ranges: its first line, 'hello world', is neither that of a TensorRT cache",
        ),
        (b"", r"x\.txt contains no ranges: it is empty$"),
        (b"a 1.5\nb\n", r"x\.txt, line 2: 'b' is not a tensor|x\.txt, line 2: ' b' is not a tensor"),
        (
            b"TRT-8601-EntropyCalibration2\na: 3d2z\n",
            r"/.*x\.txt, line 2: 'a: 3d2z' is not 'tensor: hexadecimal scale'",
        ),
        (b'{"format": "quantkit ranges", "format_version": 2}', "has format version 2, this quantkit reads version 1"),
        (b"quantkit statistics 1 12 0\n", "contains statistics, not ranges"),
    ],
)
def test_what_is_wrong_and_where(tmp_path, content, message):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(CalibrationError, match=message) as error:
        read_ranges(tmp_path / "x.txt")
    assert "\n" not in str(error.value)


def test_rounded_weights_are_told_from_ranges(tmp_path):
    path = save_refinement(Refinement(), tmp_path / "net.calib.fp8.weights", table="0" * 64)
    with pytest.raises(CalibrationError, match="contains rounded weights, not ranges: name the table"):
        read_ranges(path)
