"""Batch axes and constants in the settings of a table, and options laid over them."""

from dataclasses import replace

import numpy as np
import pytest

from quantkit.datasets.open import prepared_as
from quantkit.datasets.placement import placed_as, placement_settings
from quantkit.datasets.resolve_preprocessing import resolve_preprocessing
from quantkit.errors import DatasetError
from quantkit.types import CalibrationTable, Preprocessing, TensorRange, TensorSpec
from quantkit.types.options import ImageOptions

SAID = ImageOptions(batch_axis={"a=b": 2, "c,d": 0}, constant={"sr": 16000.0, "t": 1234567.125})


def table(settings, preprocessing=None):
    return CalibrationTable({"x": TensorRange(1.0, -1.0, 1.0)}, "", "", 1, settings, preprocessing=preprocessing)


def test_settings_are_read_back_exactly():
    settings = placement_settings(SAID)
    assert settings == {"batch_axis": "a=b=2,c,d=0", "constant": "sr=16000,t=1234567.125"}
    assert placed_as(settings, ImageOptions()) == SAID
    assert placement_settings(ImageOptions()) == {}
    assert placed_as({}, SAID) == SAID


def test_options_add_to_a_table_and_do_not_contradict_it():
    settings = {"batch_axis": "x=1", "constant": "sr=8000"}
    both = placed_as(settings, ImageOptions(batch_axis={"x": 1, "y": 2}))
    assert (both.batch_axis, both.constant) == ({"x": 1, "y": 2}, {"sr": 8000})
    with pytest.raises(DatasetError, match="--batch-axis x=2: the table was calibrated with x=1"):
        placed_as(settings, ImageOptions(batch_axis={"x": 2}))
    with pytest.raises(DatasetError, match="--constant sr=16000: the table was calibrated with sr=8000"):
        placed_as(settings, ImageOptions(constant={"sr": 16000}))


def test_a_size_alone_changes_the_size_alone(tmp_path):
    crop = Preprocessing(size=(8, 8), resize="crop", shorter_side=10, mean=(3.0,), interpolation="box")
    said = prepared_as(table({}, crop), ImageOptions(size=(16, 16)), tmp_path)
    spec = TensorSpec("x", np.dtype(np.float32), ("n", 3, "h", "w"))
    assert resolve_preprocessing(spec, said) == replace(crop, size=(16, 16), shorter_side=20)
    assert prepared_as(table({}, crop), said, tmp_path) == said
    with pytest.raises(DatasetError, match="--size 16x16 contradicts"):
        resolve_preprocessing(TensorSpec("x", np.dtype(np.float32), ("n", 3, 8, 8)), said)
    mine = Preprocessing(size=(0, 0), function="mine.py:prepare", function_hash="0")
    with pytest.raises(DatasetError, match=r"--size: the table was made with mine\.py:prepare"):
        prepared_as(table({}, mine), ImageOptions(size=(16, 16)), tmp_path)


def test_a_table_is_asked_once_or_twice_alike(tmp_path):
    own, other = Preprocessing(size=(4, 4)), Preprocessing(size=(8, 8))
    made = table({"batch_axis": "x=1"}, own)
    for given, base in ((None, own), (ImageOptions(constant={"sr": 1}), own), (other, other)):
        first = prepared_as(made, given, tmp_path)
        assert (first.base, first.batch_axis) == (base, {"x": 1})
        assert prepared_as(made, first, tmp_path) == first
    assert prepared_as(made, "unit", tmp_path) == ImageOptions("unit", batch_axis={"x": 1})
    assert prepared_as(made, None, "x.npy").base is None
    assert prepared_as(table({}, own), None, tmp_path) == own
    assert prepared_as(None, None, tmp_path) is None
