"""Tables of ONNX Runtime, against those that it writes itself."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.caches.formats.detect import read_ranges
from quantkit.caches.formats.ort_tables import (
    flatbuffers_table,
    json_table,
    parse_flatbuffers_table,
    parse_json_table,
    parse_text_table,
    text_table,
)
from quantkit.errors import CalibrationError
from quantkit.types.calibration import TensorRange
from tests.cli.conftest import DIGITS

NAMES = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), min_size=1)
RANGES = st.dictionaries(NAMES, st.floats(1e-30, 1e30), min_size=1, max_size=8)


def ranges_of(amax) -> dict[str, TensorRange]:
    return {name: TensorRange(value) for name, value in amax.items()}


@pytest.fixture
def written(tmp_path):
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.quant_utils import write_calibration_table

    values = {"x:0": (-3.0, 1.5), "é b": (0.0, 2.64), "aa": (-1.0, 127.25), "z": (0.0, 0.0)}
    arrays = {n: (np.array(low, np.float32), np.array([high], np.float32)) for n, (low, high) in values.items()}
    write_calibration_table(TensorsData(CalibrationMethod.MinMax, arrays), str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "form", "x"),
    [
        ("calibration.flatbuffers", "ort-flatbuffers", 1.5),
        ("calibration.cache", "ort-text", 1.5),
        ("calibration.json", "ort-json", 3.0),
    ],
)
def test_what_onnx_runtime_writes_is_read(written, file, form, x):
    cache = read_ranges(written / file)
    assert cache.form == form
    assert {n: r.amax for n, r in cache.tensors.items()} == {
        "aa": 127.25,
        "x:0": x,  # max(lowest, highest) but for JSON, which has both
        "z": 0.0,
        "é b": float(np.float32(2.64)),
    }
    assert cache.tensors["z"].note == "zero"


def test_rewritten_byte_for_byte(written):
    for file, write in (("calibration.flatbuffers", flatbuffers_table), ("calibration.cache", text_table)):
        content = (written / file).read_bytes()
        made = write(read_ranges(written / file).tensors)
        assert (made if isinstance(made, bytes) else made.encode()) == content


def test_json_is_read_by_onnx_runtime():
    from onnxruntime.quantization.calibrate import TensorsData

    text = json_table({"x": TensorRange(2.0, -5.0, 1.0)} | ranges_of({"y": 4.0}), method="entropy")
    data = json.loads(text)
    assert data["calibration_method"]["value"] == "CalibrationMethod.Entropy"
    assert data["data"]["x"] == {"lowest": -2.0, "highest": 1.0, "CLS": "TensorData"}
    if hasattr(TensorsData, "from_dict"):
        assert list(TensorsData.from_dict(data).keys()) == ["x", "y"]


@given(RANGES)
def test_round_trips(amax):
    ranges = ranges_of(amax)
    assert {n: r.amax for n, r in parse_flatbuffers_table(flatbuffers_table(ranges), name="t").items()} == amax
    assert {n: r.amax for n, r in parse_text_table(text_table(ranges), name="t").items()} == amax
    data = json.loads(json_table(ranges, method="minmax"))
    back, method, notes = parse_json_table(data, name="t")
    assert {n: r.amax for n, r in back.items()} == amax
    assert (method, notes) == ("minmax", ())


@given(RANGES, st.data())
def test_broken_flatbuffers_are_a_table_or_an_error(amax, data):
    content = bytearray(flatbuffers_table(ranges_of(amax)))
    for _ in range(3):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        assert parse_flatbuffers_table(bytes(content), name="t")
    except CalibrationError as error:
        assert str(error).startswith("t")  # noqa: PT017


@given(st.binary(max_size=100))
def test_any_bytes_are_flatbuffers_or_an_error(content):
    try:
        parse_flatbuffers_table(content, name="t")
    except CalibrationError as error:
        assert str(error).startswith("t")  # noqa: PT017


@pytest.mark.parametrize("text", ["", "x\n", "x nan\n", "x inf\n", " 1.0\n", "x 1\nx 2\n", "x 1.0.0\n"])
def test_text_that_is_no_table(text):
    with pytest.raises(CalibrationError, match="t"):
        parse_text_table(text, name="t")


def test_negative_ranges_are_flagged():
    assert "negative" in parse_text_table("x -1.0\n", name="t")["x"].note


def test_line_breaks_have_no_place_in_text():
    with pytest.raises(CalibrationError, match="line break"):
        text_table(ranges_of({"a\nb": 1.0}))


def test_a_table_from_the_wild_is_rewritten_byte_for_byte(shared):
    path = shared / "tensorrt" / "caches" / "ort_trt_ep_text_amax_NOT_TRT.cache"
    cache = read_ranges(path)
    assert cache.form == "ort-text"
    assert text_table(cache.tensors).encode() == path.read_bytes()


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """What quantize_static leaves in its `calibration_cache_path`, by method."""
    import inspect

    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

    if "calibration_cache_path" not in inspect.signature(quantize_static).parameters:
        pytest.skip("this ONNX Runtime has no calibration cache")

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter(np.random.default_rng(7).random((3, 8, 1, 8, 8), np.float32))

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

    folder = tmp_path_factory.mktemp("ort")
    for method in CalibrationMethod:
        path = folder / f"{method.name.lower()}.json"
        quantize_static(DIGITS, folder / "q.onnx", Reader(), calibrate_method=method, calibration_cache_path=path)
    return folder


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile", "distribution"])
def test_the_cache_of_quantize_static_is_read(cached, method):
    from onnxruntime.quantization import load_tensors_data

    cache = read_ranges(cached / f"{method}.json")
    assert (cache.form, cache.method) == ("ort-json", method)
    theirs = load_tensors_data(cached / f"{method}.json")
    assert set(cache.tensors) == set(theirs.keys())
    for name, value in theirs.items():
        low, high = (float(np.asarray(v).reshape(())) for v in value.range_value)
        assert (cache.tensors[name].minimum, cache.tensors[name].maximum) == (low, high)
        assert cache.tensors[name].amax == max(-low, high)
    assert any("FP8" in note for note in cache.notes) == (method == "distribution")


def test_a_range_for_each_channel_becomes_the_one_over_all(tmp_path):
    def array(*values):
        return {"data": [list(values)], "dtype": "float32", "CLS": "numpy.array"}

    data = {
        "CLS": "TensorsData",
        "data": {
            "c": {"lowest": array(-1.0, -4.0), "highest": array(2.0, 3.0), "CLS": "TensorData"},
            "x": {"lowest": -1.0, "highest": array(2.0), "CLS": "TensorData"},
        },
        "calibration_method": {"CLS": "CalibrationMethod", "value": "CalibrationMethod.MinMax"},
        "smooth_quant": True,
    }
    path = tmp_path / "c.json"
    path.write_text(json.dumps(data))
    cache = read_ranges(path)
    assert (cache.tensors["c"].minimum, cache.tensors["c"].maximum, cache.tensors["c"].amax) == (-4.0, 3.0, 4.0)
    assert cache.notes[0].startswith("1 tensors have a range for each channel")
    assert "SmoothQuant" in cache.notes[1]
    data["data"]["c"]["highest"] = array(2.0, float("nan"))
    path.write_text(json.dumps(data))
    with pytest.raises(CalibrationError, match=r"c\.json: \$\.data\['c'\] has no finite"):
        read_ranges(path)


def test_a_damaged_offset_is_named_with_its_place(tmp_path):
    content = bytearray(flatbuffers_table(ranges_of({"x": 1.0, "y": 2.0})))
    content[:4] = (10**6).to_bytes(4, "little")
    path = tmp_path / "c.flatbuffers"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"c\.flatbuffers .* an offset leads to byte 1000000 of \d+"):
        read_ranges(path)
