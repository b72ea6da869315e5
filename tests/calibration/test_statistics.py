import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantkit.calibration.statistics import EXACT_BINS, TENSORRT_BINS, merge, new_statistics, rebin, update
from quantkit.errors import CalibrationError
from tests.calibration.entropy_reference import Hist

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ARRAYS = hnp.arrays(np.float32, st.integers(1, 200), elements=FINITE)
SCALED = st.builds(
    lambda x, e: (x * np.float32(2.0**e)).astype(np.float32),
    hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1, 1, width=32)),
    st.integers(-60, 60),
)


def collected(parts, rule="exact"):
    statistics = new_statistics(rule)
    for part in parts:
        update(statistics, part)
    return statistics


def same(a, b):
    assert a.bin_width == b.bin_width
    assert (a.minimum, a.maximum) == (b.minimum, b.maximum)
    np.testing.assert_array_equal(a.histogram, b.histogram)


def slow_histogram(values, width):
    """The definition in exact arithmetic: bin i is (i, i + 1] * width, zeros in bin 0."""
    from fractions import Fraction

    counts = np.zeros(EXACT_BINS, np.int64)
    for value in values.tolist():
        counts[max(math.ceil(Fraction(abs(value)) / Fraction(width)) - 1, 0)] += 1
    return counts


@given(ARRAYS | SCALED)
def test_histogram_is_its_definition(values):
    statistics = collected([values])
    assert statistics.count == values.size
    assert statistics.amax == float(np.abs(values).max())
    if statistics.amax == 0:
        assert statistics.bin_width == 0
        return
    assert math.frexp(statistics.bin_width)[0] == 0.5
    np.testing.assert_array_equal(statistics.histogram, slow_histogram(values, statistics.bin_width))


@given(SCALED, st.randoms(use_true_random=False), st.integers(1, 6))
def test_any_order_and_split_gives_the_same_bits(values, random, parts):
    shuffled = values.tolist()
    random.shuffle(shuffled)
    cuts = sorted(random.randrange(len(shuffled) + 1) for _ in range(parts))
    pieces = np.split(np.array(shuffled, np.float32), cuts)
    same(collected([values]), collected(pieces))


@given(st.lists(ARRAYS | SCALED, min_size=3, max_size=3))
def test_merge_is_exact_commutative_and_associative(parts):
    a, b, c = (collected([part]) for part in parts)
    whole = collected(parts)
    same(merge(merge(a, b), c), whole)
    same(merge(a, merge(b, c)), whole)
    same(merge(merge(c, a), b), whole)


def test_the_range_is_as_tight_as_a_power_of_two_allows():
    for amax in (1.0, 1.0000001, 0.75, 3.4e38, 1e-30):
        statistics = collected([np.array([amax], np.float32)])
        assert statistics.bin_width * EXACT_BINS >= statistics.amax > statistics.bin_width * EXACT_BINS / 2


def test_zeros_are_counted_in_the_first_bin_and_do_not_set_the_width():
    statistics = collected([np.zeros(5, np.float32), np.array([-0.0, 2.0], np.float32), np.zeros(3, np.float32)])
    assert statistics.histogram[0] == 9
    assert statistics.histogram[-1] == 1
    assert statistics.bin_width == 2.0 / EXACT_BINS


def test_counts_do_not_saturate_where_float32_would():
    statistics = new_statistics()
    ones = np.ones(1 << 20, np.float32)
    for _ in range(17):
        update(statistics, ones)
    update(statistics, np.ones(1, np.float32))
    assert statistics.count == 17 * (1 << 20) + 1 > 1 << 24


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", ["exact", "tensorrt"])
def test_non_finite_values_are_refused_and_leave_no_trace(bad, rule):
    statistics = collected([np.array([1.0, -3.0], np.float32)], rule)
    before = statistics.histogram.copy(), statistics.minimum, statistics.maximum
    with pytest.raises(FloatingPointError):
        update(statistics, np.array([100.0, bad], np.float32))
    np.testing.assert_array_equal(statistics.histogram, before[0])
    assert (statistics.minimum, statistics.maximum) == before[1:]


@given(st.lists(SCALED, min_size=1, max_size=5))
def test_tensorrt_rule_equals_the_reference(parts):
    magnitudes = [float(np.abs(part).max()) for part in parts]
    assume(all(m == 0 or m > 1e-34 for m in magnitudes))  # the reference's float32 ends there
    statistics = collected(parts, "tensorrt")
    reference = Hist()
    for part in parts:
        reference.add(part)
    assert statistics.bin_width * TENSORRT_BINS == reference.r
    np.testing.assert_array_equal(statistics.histogram, reference.h)


@pytest.mark.parametrize("amax", [1e-35, 1e-36, 1e-40, 2.0**-149])
def test_tensorrt_rule_counts_what_is_nearly_zero(amax):
    values = np.array([0, 0.25, 0.5, 1], np.float32) * np.float32(amax)
    statistics = collected([values], "tensorrt")
    assert statistics.count == 4
    assert statistics.histogram[-1] >= 1
    update(statistics, np.array([1.0], np.float32))
    assert statistics.count == 5
    assert statistics.amax == 1


def test_tensorrt_rule_depends_on_the_order_and_cannot_be_merged():
    small, large = np.linspace(0.1, 1, 50, dtype=np.float32), np.linspace(0.1, 3, 50, dtype=np.float32)
    assert collected([small, large], "tensorrt").bin_width != collected([large, small], "tensorrt").bin_width
    with pytest.raises(CalibrationError, match="--histogram exact"):
        merge(collected([small], "tensorrt"), collected([large], "tensorrt"))


@given(SCALED)
@settings(max_examples=50)
def test_rebin_keeps_every_count_and_covers_the_maximum(values):
    statistics = collected([values])
    histogram, width = rebin(statistics, TENSORRT_BINS)
    assert histogram.size == TENSORRT_BINS
    assert histogram.sum() == values.size
    if statistics.amax:
        assert width * TENSORRT_BINS >= statistics.amax
        assert width <= 4 * statistics.bin_width
        edge = int(np.flatnonzero(histogram)[-1])
        assert edge * width <= statistics.amax


def test_fp16_and_non_contiguous_input():
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    same(collected([values.T]), collected([values]))
    same(collected([values.astype(np.float16)]), collected([values]))
    update(statistics := new_statistics(), np.zeros((0, 3), np.float32))
    assert statistics.count == 0
    assert statistics.amax == 0
