import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantkit.calibration import statistics as statistics_module
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
    """By the compiled kernel where it was built, and by NumPy: both have to agree."""
    statistics, reference = new_statistics(rule), new_statistics(rule)
    for part in parts:
        update(statistics, part)
        with mock.patch.object(statistics_module, "KERNEL", None):
            update(reference, part)
    same(statistics, reference)
    return statistics


def same(a, b):
    assert a.bin_width == b.bin_width
    assert (a.minimum, a.maximum) == (b.minimum, b.maximum)
    assert math.copysign(1, a.minimum) == math.copysign(1, b.minimum)
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


needs_kernel = pytest.mark.skipif(statistics_module.KERNEL is None, reason="the kernel was not built")


def add_magnitudes(histogram, bin_width, values):
    return statistics_module.KERNEL.add_magnitudes(histogram, bin_width, values)


@needs_kernel
@pytest.mark.parametrize("size", [1, 3, 4095, 4096, 4097, 262_143, 300_001])
def test_the_kernel_equals_numpy_where_chunks_and_counters_end(size):
    random = np.random.default_rng(size)
    growing = (random.standard_normal(size) * np.exp2(np.linspace(-30, 30, size))).astype(np.float32)
    small = np.where(random.random(size) < 0.5, 0, growing / 1000).astype(np.float32)
    collected([small, growing, np.full(size, 0.75, np.float32), -growing, small, np.zeros(size, np.float32)])


@needs_kernel
def test_the_kernel_counts_the_largest_and_the_smallest_magnitudes():
    largest = np.finfo(np.float32).max
    smallest = np.float32(2.0**-149)
    for values in ([largest, -largest, smallest], [-smallest, 0.0], [-0.0], [0.0, -0.0], [smallest, largest / 8192]):
        collected([np.array(values, np.float32)])
        collected([np.array(values, np.float32), np.array([largest, 1.0], np.float32)])


@needs_kernel
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 4095, 4096, 9_998, 9_999])
def test_the_kernel_sees_what_is_not_finite_anywhere(bad, place):
    values = np.linspace(-5, 5, 10_000, dtype=np.float32)
    statistics = collected([values[:10]])
    before = statistics.histogram.copy()
    values[place] = bad
    with pytest.raises(FloatingPointError):
        update(statistics, values)
    np.testing.assert_array_equal(statistics.histogram, before)


@needs_kernel
@pytest.mark.parametrize("width", [-1.0, math.nan, math.inf, 0.3, 2.0**-127, 2.0**127])
def test_the_kernel_refuses_widths_that_it_cannot_divide_by_exactly(width):
    with pytest.raises(ValueError, match="powers of two"):
        add_magnitudes(np.zeros(EXACT_BINS, np.int64), width, np.ones(1, np.float32))


@needs_kernel
@pytest.mark.parametrize("bins", [0, 1, 3, 6, 1 << 17])
def test_the_kernel_refuses_bins_that_do_not_halve(bins):
    with pytest.raises(ValueError, match="powers of two"):
        add_magnitudes(np.zeros(bins, np.int64), 1.0, np.ones(1, np.float32))


@needs_kernel
@pytest.mark.parametrize(
    ("histogram", "values", "error"),
    [
        (np.zeros(8, np.int32), np.ones(1, np.float32), TypeError),
        (np.zeros(8, np.float64), np.ones(1, np.float32), TypeError),
        (np.zeros(8, np.int64), np.ones(1, np.float64), TypeError),
        (np.zeros(8, np.int64), np.ones(1, np.int32), TypeError),
        (np.zeros(8, np.int64), np.zeros(5, np.uint8)[1:5].view(np.float32), TypeError),
        (np.zeros(8, np.int64), np.ones(4, ">f4"), TypeError),
        (np.zeros(8, np.int64), np.ones(4, np.float32)[::2], (BufferError, ValueError)),
        (np.zeros(16, np.int64)[::2], np.ones(1, np.float32), (BufferError, ValueError)),
        (np.frombuffer(bytes(64), np.int64), np.ones(1, np.float32), (BufferError, ValueError)),
        (np.zeros(8, np.int64), np.zeros(0, np.float32), ValueError),
        ("text", np.ones(1, np.float32), TypeError),
    ],
)
def test_the_kernel_refuses_other_memory(histogram, values, error):
    with pytest.raises(error):
        add_magnitudes(histogram, 1.0, values)


def test_unaligned_and_big_endian_values_are_taken():
    values = np.linspace(-3, 7, 50, dtype=np.float32)
    unaligned = np.frombuffer(b"x" + values.tobytes(), np.uint8)[1:].view(np.float32)
    assert not unaligned.flags.aligned
    same(collected([unaligned]), collected([values]))
    same(collected([values.astype(">f4")]), collected([values]))
    same(collected([values.astype(np.float64)]), collected([values]))
