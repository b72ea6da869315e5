import json

import pytest

from quantkit.calibration.formats import read_ranges
from quantkit.calibration.ranges import bits_from_amax
from quantkit.errors import CalibrationError

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
    assert "asymmetric" in cache.tensors["y"].flag
    assert list(cache.tensors) == ["x", "y"]
    assert "'h'" in cache.notes[0]


@pytest.mark.parametrize("data", [old(), old(h=HALF), new(CHANNELS), {"activation_encodings": 3}])
def test_without_a_range(tmp_path, data):
    path = tmp_path / "m.encodings"
    path.write_text(json.dumps(data))
    with pytest.raises(CalibrationError, match=r"m\.encodings"):
        read_ranges(path)
