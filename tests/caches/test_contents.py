"""Kept statistics found for what is shown."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quantkit.caches.contents import shown_cache
from quantkit.caches.open import open_cache
from quantkit.caches.reuse import not_of_table
from quantkit.calibration.magnitude_histogram import magnitude_columns
from quantkit.calibration.statistics import new_statistics, update
from quantkit.calibration.statistics_file import load_statistics, save_statistics
from quantkit.calibration.table import load_table, save_table
from quantkit.commands.calibrate import calibrate
from quantkit.errors import CalibrationError
from tests.cli.conftest import CALIB, DIGITS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    options = {
        "num_samples": 100,
        "progress": False,
        "calibrator": "quantkit",
        "keep_statistics": True,
        "method": "entropy",
    }
    calibrate(DIGITS, CALIB, table_path=folder / "d.calib.json", **options)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), st.sampled_from(["exact", "tensorrt"]))
@example([2.0**-126], "exact")  # of the narrowest bins there are, one holds it, and its middle is at half of the value
def test_magnitude_columns_hold_every_value_about_where_it_is(values, rule):
    statistics = new_statistics(rule)
    update(statistics, np.asarray(values, np.float32))
    drawn = magnitude_columns(statistics)
    assert sum(drawn.counts) == len(values)
    assert len(drawn.counts) == 20
    assert drawn.upper == max(abs(v) for v in values)
    if drawn.upper:
        assert drawn.counts[-1] > 0
        edges = np.linspace(0, drawn.upper, 21)
        slack = statistics.bin_width
        magnitudes = np.abs(np.asarray(values))
        for i in range(20):
            below = np.count_nonzero(magnitudes < edges[i + 1] - slack)
            assert sum(drawn.counts[: i + 1]) >= below


def test_a_table_shows_the_histograms_of_its_statistics(folder):
    shown = shown_cache(folder / "d.calib.json")
    kept = load_statistics(folder / "d.calib.stats")
    assert shown.statistics == folder / "d.calib.stats"
    assert shown.histograms.keys() == kept.tensors.keys()
    assert all(sum(h.counts) == kept.tensors[name].count for name, h in shown.histograms.items())
    assert shown.notes == ()


def test_statistics_show_the_thresholds_of_their_table(folder):
    shown = shown_cache(folder / "d.calib.stats")
    table = load_table(folder / "d.calib.json")
    assert (shown.cache.form, shown.cache.method) == ("statistics", "entropy")
    assert {n: r.amax for n, r in shown.cache.tensors.items()} == {n: r.amax for n, r in table.tensors.items()}
    assert "those of d.calib.json beside it" in shown.notes[-1]


def test_statistics_alone_show_what_was_seen(folder):
    (folder / "d.calib.json").unlink()
    shown = shown_cache(folder / "d.calib.stats")
    kept = load_statistics(folder / "d.calib.stats")
    assert {n: r.amax for n, r in shown.cache.tensors.items()} == {n: t.amax for n, t in kept.tensors.items()}
    assert "creates a table" in shown.notes[-1]
    with pytest.raises(CalibrationError, match=r"d\.calib\.stats contains statistics, not ranges"):
        open_cache(folder / "d.calib.stats")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_hash": "f" * 64}, "model hash: 9e4656ae18a1 → ffffffffffff"),
        ({"dataset_fingerprint": "f" * 64}, "data fingerprint: .* → ffffffffffff"),
        ({"preprocessing": None}, "preprocessing: .* → none"),
    ],
)
def test_statistics_of_something_else_are_not_shown(folder, changes, reason):
    table = dataclasses.replace(load_table(folder / "d.calib.json"), **changes)
    save_table(table, folder / "d.calib.json")
    shown = shown_cache(folder / "d.calib.json")
    assert (shown.histograms, shown.statistics) == ({}, None)
    assert re.search(reason, shown.notes[0])
    assert "was not made of it" in shown_cache(folder / "d.calib.stats").notes[1]


def test_what_tells_tensors_apart(folder):
    table, kept = load_table(folder / "d.calib.json"), load_statistics(folder / "d.calib.stats")
    assert not_of_table(kept, table) == ""
    first, *others = kept.tensors
    fewer = dataclasses.replace(kept, tensors={n: kept.tensors[n] for n in others})
    assert not_of_table(fewer, table) == f"it does not have tensor {first!r}"
    less = dataclasses.replace(table, tensors={n: table.tensors[n] for n in others})
    assert not_of_table(kept, less) == f"the table does not have tensor {first!r}"
    other = dataclasses.replace(table.tensors[first], maximum=77.0)
    moved = dataclasses.replace(table, tensors={**table.tensors, first: other})
    assert "was seen from" in not_of_table(kept, moved)


def test_unfinished_and_broken_statistics_are_told(folder):
    kept = load_statistics(folder / "d.calib.stats")
    unfinished = dataclasses.replace(kept, num_read=60, num_samples=60)
    save_statistics(unfinished, folder / "d.calib.stats")
    assert "unfinished: 60 of 100 samples" in shown_cache(folder / "d.calib.json").notes[0]
    assert "--resume continues it" in shown_cache(folder / "d.calib.stats").notes[1]
    (folder / "d.calib.stats").write_bytes(b"quantkit statistics 1 12 0\n")
    assert "cut short" in shown_cache(folder / "d.calib.json").notes[0]
    with pytest.raises(CalibrationError, match="cut short"):
        shown_cache(folder / "d.calib.stats")
    (folder / "d.calib.stats").write_bytes(b"")
    assert shown_cache(folder / "d.calib.json").histograms == {}
