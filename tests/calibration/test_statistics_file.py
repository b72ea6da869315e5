import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.calibration.statistics import new_statistics, update
from quantkit.calibration.statistics_file import (
    KeptStatistics,
    StatisticsOrigin,
    is_statistics_file,
    load_statistics,
    save_statistics,
)
from quantkit.errors import CalibrationError
from quantkit.types import Preprocessing
from tests.calibration.test_table import PREPROCESSING, TEXT


def collected(values, rule="exact"):
    statistics = new_statistics(rule)
    update(statistics, np.asarray(values, np.float32))
    return statistics


ORIGIN = StatisticsOrigin(
    model_hash="a" * 64,
    model_name="net.onnx",
    contents=(("0/a.png", "1" * 64), ("1/b.png", "2" * 64), ("1/c.png", "unreadable")),
    preprocessing=PREPROCESSING,
    settings={"histogram": "exact", "seed": 0, "batch_size": None},
    versions={"quantkit": "0.1.0"},
    unclipped=frozenset({"p"}),
)
KEPT = KeptStatistics(
    origin=ORIGIN,
    tensors={"x": collected([-1, 0.5, 3]), "p": collected([0, 0]), "empty": new_statistics()},
    num_read=3,
    num_samples=2,
    unreadable={"1/c.png": "truncated"},
    batch_size=2,
)


def same(first, second):
    assert first.origin == second.origin
    assert list(first.tensors) == list(second.tensors)
    for mine, other in zip(first.tensors.values(), second.tensors.values(), strict=True):
        assert np.array_equal(mine.histogram, other.histogram)
        assert mine.histogram.dtype == other.histogram.dtype
        scalars = [dataclasses.replace(s, histogram=np.zeros(0, np.int64)).__dict__ for s in (mine, other)]
        for each in scalars:
            each.pop("histogram")
        assert scalars[0] == scalars[1]
    for name in ("num_read", "num_samples", "unreadable", "batch_size", "num_repeated"):
        assert getattr(first, name) == getattr(second, name)


@st.composite
def kept_statistics(draw):
    rule = draw(st.sampled_from(["exact", "tensorrt"]))
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    tensors = {}
    for name in draw(st.lists(TEXT, min_size=1, max_size=4, unique=True)):
        tensors[name] = new_statistics(rule)
        for values in draw(st.lists(st.lists(finite, max_size=5), max_size=3)):
            update(tensors[name], np.asarray(values, np.float32))
    ids = draw(st.lists(TEXT, min_size=1, max_size=6, unique=True))
    num_read = draw(st.integers(1, len(ids)))
    num_samples = draw(st.integers(1, num_read))
    return KeptStatistics(
        origin=dataclasses.replace(
            ORIGIN,
            contents=tuple((name, "f" * 64) for name in ids),
            preprocessing=draw(st.sampled_from([None, Preprocessing(size=(4, 5)), PREPROCESSING])),
            unclipped=frozenset(list(tensors)[: draw(st.integers(0, 2))]),
        ),
        tensors=tensors,
        num_read=num_read,
        num_samples=num_samples,
        unreadable=dict.fromkeys(ids[: num_read - num_samples], "broken"),
        batch_size=draw(st.integers(1, 99)),
        num_repeated=draw(st.integers(0, 99)),
    )


@given(kept_statistics())
def test_round_trip(tmp_path_factory, kept):
    path = save_statistics(kept, tmp_path_factory.mktemp("s") / "t.stats")
    same(load_statistics(path), kept)


def test_equal_statistics_are_equal_files(tmp_path):
    first, second = (save_statistics(KEPT, tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_loaded_histogram_can_be_counted_on(tmp_path):
    loaded = load_statistics(save_statistics(KEPT, tmp_path / "a"))
    update(loaded.tensors["x"], np.asarray([100.0], np.float32))
    assert loaded.tensors["x"].count == 4


def test_cut_anywhere_is_refused_in_one_line(tmp_path):
    path = save_statistics(KEPT, tmp_path / "a.stats")
    content = path.read_bytes()
    for size in [*range(130), *range(130, len(content), 37)]:
        path.write_bytes(content[:size])
        with pytest.raises(CalibrationError, match=r"a\.stats .*(cut short|not a statistics file)") as error:
            load_statistics(path)
        assert "\n" not in str(error.value)


@given(st.data())
def test_any_changed_byte_is_refused(tmp_path_factory, data):
    path = save_statistics(KEPT, tmp_path_factory.mktemp("s") / "a.stats")
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(CalibrationError) as error:
        load_statistics(path)
    assert "a.stats" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a statistics file"),
        (b"PK\x03\x04" + bytes(100), "not a statistics file"),
        (pickle.dumps({"a": 1}), "not a statistics file"),
        (b'{"format": "quantkit calibration table"}', "not a statistics file"),
        (
            b"quantkit statistics 2 what a later format says\n",
            "format version 2, this quantkit reads version 1: upgrade",
        ),
        (b"quantkit statistics 1 12\n", "first line"),
        (b"quantkit statistics 1 -3 00\n", "first line"),
        (b"quantkit statistics " + b"9" * 10_000, "not a statistics file"),
    ],
)
def test_foreign_and_newer_files(tmp_path, content, message):
    path = tmp_path / "x.stats"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=message):
        load_statistics(path)


def test_missing_file(tmp_path):
    with pytest.raises(CalibrationError, match=r"cannot read statistics .*none\.stats: No such file"):
        load_statistics(tmp_path / "none.stats")


def rewritten(path, change, tail=b""):
    """The file with another header and a right checksum: what an attacker, or a bug, would write."""
    import hashlib

    _, _, content = save_statistics(KEPT, path).read_bytes().partition(b"\n")
    text, _, body = content.partition(b"\n")
    header = json.loads(text)
    change(header)
    content = json.dumps(header).encode() + b"\n" + body + tail
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(f"quantkit statistics 1 {len(content)} {digest}\n".encode() + content)
    return path


def test_the_rewriting_of_these_tests_is_sound(tmp_path):
    same(load_statistics(rewritten(tmp_path / "a", lambda header: header.update(later_key=1))), KEPT)


def put(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(header):
        for key in keys:
            header = header[key]
        header[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("tensors", 0, "num_occupied", 10**15), "not there"),
        (put("tensors", 0, "num_occupied", -1), "not there"),
        (put("tensors", 0, "num_occupied", 2), "tensor|follow"),
        (put("tensors", 0, "bin_width", 0.3), "power of two"),
        (put("tensors", 0, "bin_width", 2.0**-20), "last occupied bin"),
        (put("tensors", 0, "bin_width", 0.0), "width 0"),
        (put("tensors", 0, "bin_width", 2.0**-300), "smaller than any"),
        (put("tensors", 0, "maximum", 300.0), "last occupied bin"),
        (put("tensors", 0, "minimum", 5.0), "ordered"),
        (put("tensors", 0, "minimum", None), "extremes"),
        (put("tensors", 0, "name", "p"), "twice"),
        (put("tensors", []), "0 tensors"),
        (put("tensors", [{}] * 3), "missing required field"),
        (put("tensors", "x"), "Expected `array`"),
        (put("num_read", 4), "of 3"),
        (put("num_samples", 0), "0 samples"),
        (put("num_samples", 3), "unreadable"),
        (put("batch_size", 0), "batch size"),
        (put("num_repeated", -1), "repeated"),
        (put("histogram", "gaussian"), "Invalid enum"),
        (put("histogram", "tensorrt"), "bins must ascend|power of two"),
        (put("samples", 1, ["0/a.png", "1" * 64]), "there twice"),
        (put("preprocessing", "size", [0, 0]), "size"),
    ],
)
def test_contradictions_behind_a_right_checksum(tmp_path, change, message):
    with pytest.raises(CalibrationError, match=message) as error:
        load_statistics(rewritten(tmp_path / "a.stats", change))
    assert "a.stats is not a valid statistics file" in str(error.value)


def test_bytes_behind_the_last_histogram(tmp_path):
    with pytest.raises(CalibrationError, match="5 bytes follow"):
        load_statistics(rewritten(tmp_path / "a", lambda header: None, b"12345"))


def test_more_tensors_than_memory_for_them(tmp_path):
    def change(header):
        header["tensors"] = [{**header["tensors"][2], "name": str(i)} for i in range(20_001)]

    with pytest.raises(CalibrationError, match="20001 tensors"):
        load_statistics(rewritten(tmp_path / "a", change))


def test_the_sign_of_zero_does_not_depend_on_the_order():
    first, second = collected([-0.0, 0.0, -0.0]), collected([0.0, -0.0])
    assert str(first.minimum) == str(first.maximum) == str(second.minimum) == str(second.maximum) == "0.0"


def test_what_was_damaged_is_named(tmp_path):
    path = save_statistics(KEPT, tmp_path / "a.stats")
    content = path.read_bytes()
    body = content.index(b"\n", content.index(b"\n") + 1) + 1
    sizes = [10 * int(np.count_nonzero(t.histogram)) for t in KEPT.tensors.values()]
    for place, said in (
        (body, "the histogram of tensor 'x'"),
        (body + sizes[0] - 1, "the histogram of tensor 'x'"),
        (body + sizes[0], "the histogram of tensor 'p'"),
        (content.index(b'"net.onnx"') + 1, "the header (line 2); all histograms are whole"),
        (content.index(b'{"model"'), "its header (line 2) is damaged"),
        (content.index(b'"num_occupied":') + 15, "lists other histograms than follow"),
    ):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CalibrationError, match=r"a\.stats was changed after it was written: ") as error:
            load_statistics(path)
        assert said in str(error.value)
    path.write_bytes(content + b"12")
    with pytest.raises(CalibrationError, match="2 bytes follow its end"):
        load_statistics(path)


def test_the_first_written_statistics_stay_readable(tmp_path):
    path = Path(__file__).parent / "data" / "version_1.calib.stats"
    assert b"digest" not in path.read_bytes()
    same(load_statistics(path), KEPT)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "a.stats").write_bytes(damaged)
    with pytest.raises(CalibrationError, match="is wrong, and it has no digests to locate the damage"):
        load_statistics(tmp_path / "a.stats")


def test_what_begins_as_statistics_is_taken_for_them(tmp_path):
    assert is_statistics_file(save_statistics(KEPT, tmp_path / "a.stats"))
    (tmp_path / "b").write_bytes(b"quantkit statistics 9 of a later format")
    assert is_statistics_file(tmp_path / "b")
    (tmp_path / "c").write_bytes(b"quantkit")
    assert not is_statistics_file(tmp_path / "c")
    assert not is_statistics_file(tmp_path / "none")
