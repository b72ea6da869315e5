from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from quantkit.reporting.tensors import tensor_tables
from quantkit.types import TensorQuality

from .reports import cells
from .samples import make_classification, make_imagenet

PLAIN = TensorQuality("int8", "t", "Conv c", 30.0, 40.0, 2.0, -1.0, 4.0, 0.0123, (100, 10, 1, 1), 4.0)


def table_of(*tensors):
    report = replace(make_classification(), tensors=tuple(tensors))
    (table,) = tensor_tables(report)
    return table


def test_the_worst_are_those_of_the_lowest_own_sqnr():
    table = tensor_tables(make_classification())[0]
    own = sorted(t.own_sqnr_db for t in make_classification().tensors if t.variant == "int8")
    assert cells("tensors", table.worst, "tensor_own_sqnr") == [f"{value:.1f}" for value in own[:10]]
    assert [row.rank for row in table.worst] == list(range(1, 11))
    assert [row.position for row in table.all] == list(range(1, 58))
    assert len(tensor_tables(make_imagenet())[0].all) == 200


def test_a_row_is_its_tensor_in_text():
    row = table_of(PLAIN).all[0]
    fields = ("tensor_sqnr", "tensor_own_sqnr", "tensor_amax", "tensor_range", "tensor_clipped")
    assert [cells("tensors", [row], field) for field in fields] == [
        ["30.0"], ["40.0"], ["2.00"], ["-1.00 to 4.00"], ["1.23"],
    ]  # fmt: skip
    assert (row.bar, row.own_bar) == (0.75, 1.0)


def test_no_error_and_no_number_are_told_apart():
    table = table_of(
        replace(PLAIN, sqnr_db=None, own_sqnr_db=None),
        replace(PLAIN, tensor="nan", sqnr_db=math.nan, own_sqnr_db=math.nan),
        PLAIN,
    )
    assert cells("tensors", table.all, "tensor_sqnr") == ["∞", "NaN", "30.0"]
    assert table.worst[0].name == "nan"
    assert len(table.worst) == 2


def test_a_share_that_rounds_to_nothing_is_not_nothing():
    for clipped, text in ((1e-6, "<0.01"), (0.0, "0.00")):
        assert cells("tensors", table_of(replace(PLAIN, clipped=clipped)).all, "tensor_clipped") == [text]


def test_the_int8_outline_is_on_the_same_axis_with_what_is_clipped_at_the_threshold():
    histogram = table_of(PLAIN).all[0].histogram
    ends = [float(x) for x in re.findall(r"H([\d.]+)", histogram.quantized)]
    heights = [30 - float(y) for y in re.findall(r"V([\d.]+)H", histogram.quantized)]
    kept = re.findall(r"M([\d.]+) 30v-([\d.]+)", histogram.kept)
    assert ends == sorted(ends)
    assert ends[-1] == pytest.approx(histogram.amax_x, abs=0.1)
    assert heights[0] == pytest.approx(float(kept[0][1]), abs=0.05)
    assert heights[-1] >= float(kept[-1][1])
    everything = table_of(replace(PLAIN, amax=8.0)).all[0].histogram
    assert len(re.findall("H", everything.quantized)) == len(PLAIN.histogram)


def test_the_histogram_is_parted_at_the_threshold():
    histogram = table_of(PLAIN).all[0].histogram
    assert histogram.amax_x == pytest.approx(119 * 2 / 4, abs=0.1)
    kept, clipped = (re.findall(r"M([\d.]+) 30v-([\d.]+)", path) for path in (histogram.kept, histogram.clipped))
    assert [float(x) for x, _ in kept] == pytest.approx([0, 29.8], abs=0.1)
    assert [float(x) for x, _ in clipped] == pytest.approx([59.5, 89.2], abs=0.1)
    heights = [float(h) for _, h in kept + clipped]
    assert heights == pytest.approx([28 * math.log1p(n) / math.log1p(100) for n in (100, 10, 1, 1)], abs=0.1)


def test_a_threshold_beyond_the_last_bin_is_on_the_drawing():
    histogram = table_of(replace(PLAIN, amax=8.0)).all[0].histogram
    assert histogram.amax_x == 119
    assert histogram.clipped == ""


def test_many_bins_are_joined_and_lose_no_count():
    histogram = table_of(replace(PLAIN, histogram=(1,) * 2048)).all[0].histogram
    assert 20 <= histogram.kept.count("M") + histogram.clipped.count("M") <= 41


@pytest.mark.parametrize("amax", [0.0, 1e-300, 1e300])
@pytest.mark.parametrize("top", [1e-290, 1.0, 1e300])
def test_ranges_of_any_size_are_drawn(amax, top):
    drawn = table_of(replace(PLAIN, amax=amax, histogram_top=top)).all[0].histogram
    assert not re.search("nan|inf", drawn.quantized + drawn.kept + drawn.clipped)


@pytest.mark.parametrize(
    "changes",
    [{"histogram": ()}, {"histogram": (0, 0)}, {"amax": math.inf}, {"histogram_top": 0.0}, {"histogram_top": 5e-324}],
)
def test_what_cannot_be_drawn_is_not(changes):
    assert table_of(replace(PLAIN, **changes)).all[0].histogram is None


def test_the_profile_goes_from_input_to_output():
    profile = tensor_tables(make_classification())[0].profile
    places = [float(x) for x in re.findall(r"[ML]([\d.]+) ", profile.line)]
    assert places == sorted(places)
    assert len(profile.dots) == 57
    assert [mark.rank for mark in profile.marks] == [1, 2, 3, 4, 5]
    assert table_of(PLAIN).profile is None


@pytest.mark.parametrize("decibels", [(0.0, 0.0), (40.0, 40.0), (300.0, 290.0), (-90.0, -80.0), (-500.0, 500.0)])
def test_the_profile_of_errors_that_are_equal_or_off_the_axis(decibels):
    first, rest = decibels
    values = (first, rest, rest)
    table = table_of(*(replace(PLAIN, tensor=f"t{i}", sqnr_db=v, own_sqnr_db=v) for i, v in enumerate(values)))
    profile = table.profile
    assert [profile.frame.top <= y <= profile.frame.bottom for _, y in profile.dots] == [True] * 3
    assert len({tick.at for tick in profile.y_ticks}) == len(profile.y_ticks) >= 2
