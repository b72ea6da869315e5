import json
from pathlib import Path

import pytest

from quantkit.caches.formats.detect import read_ranges
from quantkit.errors import CalibrationError
from quantkit.types.calibration import bits_from_amax

SYMMETRIC = {
    "bitwidth": 8,
    "dtype": "int",
    "is_symmetric": "True",
    "min": -64.0,
    "max": 63.5,
    "scale": 0.5,
    "offset": -128,
}
SHIFTED = {"bitwidth": 8, "dtype": "int", "is_symmetric": "False", "min": 0.0, "max": 127.5, "scale": 0.5, "offset": 0}
HALF = {"bitwidth": 16, "dtype": "float"}
CHANNELS = {"name": "c", "bw": 8, "dtype": "INT", "is_sym": True, "scale": [0.5, 0.25], "offset": [-128, -128]}


def old(**entries):
    return {"version": "0.6.1", "activation_encodings": {n: [e] for n, e in entries.items()}, "param_encodings": {}}


def new(*entries):
    return {"version": "1.0.0", "activation_encodings": list(entries), "param_encodings": []}


@pytest.mark.parametrize(
    "data",
    [
        old(x=SYMMETRIC, y=SHIFTED, h=HALF),
        new(
            {"name": "x", "bw": 8, "dtype": "INT", "is_sym": True, "scale": [0.5], "offset": [-128]},
            {"name": "y", "bw": 8, "dtype": "INT", "is_sym": False, "scale": [0.5], "offset": [0]},
            {"name": "h", "bw": 16, "dtype": "FLOAT"},
        ),
    ],
)
def test_both_versions(tmp_path, data):
    path = tmp_path / "m.encodings"
    path.write_text(json.dumps(data))
    cache = read_ranges(path)
    assert cache.title == "AIMET encodings"
    assert (cache.tensors["x"].amax, cache.tensors["x"].minimum) == (63.5, None)
    assert cache.tensors["x"].scale_bits == bits_from_amax(63.5)
    assert (cache.tensors["y"].amax, cache.tensors["y"].minimum, cache.tensors["y"].maximum) == (127.5, 0, 127.5)
    assert "asymmetric" in cache.tensors["y"].note
    assert list(cache.tensors) == ["x", "y"]
    assert "'h'" in cache.notes[0]


@pytest.mark.parametrize("data", [old(), old(h=HALF), new(CHANNELS), {"activation_encodings": 3}])
def test_without_a_range(tmp_path, data):
    path = tmp_path / "m.encodings"
    path.write_text(json.dumps(data))
    with pytest.raises(CalibrationError, match=r"m\.encodings"):
        read_ranges(path)


def version_2(*entries, version="2.0.0"):
    return {"producer": {"package": "aimet-onnx", "version": "2.42.0"}, "version": version, "encodings": list(entries)}


@pytest.mark.parametrize("version", ["2.0.0", "2.1.0"])
def test_entries_like_those_of_quantize_linear(tmp_path, version):
    data = version_2(
        {"name": "x", "output_dtype": "uint8", "y_scale": 0.5, "y_zero_point": 128},
        {"name": "s", "output_dtype": "int8", "y_scale": 0.5},
        {"name": "y", "output_dtype": "uint8", "y_scale": 0.5},
        {"name": "a", "output_dtype": "int8", "y_scale": 0.5, "y_zero_point": 3},
        {"name": "w", "output_dtype": "int8", "y_scale": [0.5, 0.25], "axis": 0},
        {"name": "b", "output_dtype": "int32", "y_scale": 0.125},
        {"name": "h", "output_dtype": "uint16", "y_scale": 0.5},
        version=version,
    )
    path = tmp_path / "m.encodings"
    path.write_text(json.dumps(data))
    cache = read_ranges(path)
    assert {n: (r.amax, r.minimum, r.maximum) for n, r in cache.tensors.items()} == {
        "x": (63.5, None, None),
        "s": (63.5, None, None),
        "y": (127.5, 0, 127.5),
        "a": (65.5, -65.5, 62.0),
    }
    assert cache.notes == ("'h' is skipped: not an 8-bit integer",)


def test_a_newer_version_is_named(tmp_path):
    path = tmp_path / "m.encodings"
    path.write_text(json.dumps(version_2({"name": "x"}, version="3.0.0")))
    with pytest.raises(CalibrationError, match=r"m\.encodings has AIMET's encodings 3\.0\.0: this quantkit reads"):
        read_ranges(path)


def test_what_aimet_wrote_says_the_same_in_every_format():
    """The model of tests/cli/conftest.py, calibrated by aimet-onnx 2.42.0 and written in the three formats."""
    data = Path(__file__).parent / "data"
    caches = [read_ranges(data / f"aimet_{version}.encodings") for version in ("0.6.1", "1.0.0", "2.0.0")]
    assert [cache.form for cache in caches] == ["aimet"] * 3
    for cache in caches:
        ranges = {name: (r.amax, r.minimum, r.maximum) for name, r in cache.tensors.items() if name != "f"}
        assert ranges.keys() == {"x", "r", "g", "y"}
        for name, value in ranges.items():
            first = caches[0].tensors[name]
            assert value == pytest.approx((first.amax, first.minimum, first.maximum))
        assert ranges["r"][1] == 0
        assert ranges["x"][1] < 0 < ranges["x"][2]
    assert "f" in caches[2].tensors  # a copy of g, which AIMET lists from 2.0.0 on
