"""Histograms in one line."""

from hypothesis import given
from hypothesis import strategies as st

from quantkit.calibration.magnitude_histogram import MagnitudeHistogram
from quantkit.cli.sparkline import ASCII_MARK, MARK, sparkline

COUNTS = st.lists(st.integers(0, 10**15), min_size=1, max_size=30).filter(any).map(tuple)


def test_examples_are_drawn_as_expected():
    histogram = MagnitudeHistogram(2.0, (1000, 100, 10, 0, 1))
    assert sparkline(histogram, None, ascii_only=False) == "█▆▃ ▁"
    assert sparkline(histogram, 0.8, ascii_only=True) == "@*!- ."
    assert sparkline(histogram, 0.8, ascii_only=False) == "█▆│▃ ▁"
    assert sparkline(histogram, 5.0, ascii_only=False) == "█▆▃ ▁│"
    assert sparkline(histogram, 0.0, ascii_only=False) == "█▆▃ ▁"
    assert sparkline(MagnitudeHistogram(0.0, (7, 0)), None, ascii_only=False) == ""


@given(COUNTS, st.booleans())
def test_heights_follow_the_counts(counts, ascii_only):
    levels = " .:-=+*#@" if ascii_only else " ▁▂▃▄▅▆▇█"
    line = sparkline(MagnitudeHistogram(1.0, counts), None, ascii_only=ascii_only)
    heights = [levels.index(sign) for sign in line]
    assert [h > 0 for h in heights] == [n > 0 for n in counts]
    ordered = [h for _, h in sorted(zip(counts, heights, strict=True))]
    assert ordered == sorted(ordered)
    assert max(heights) == 8


@given(COUNTS, st.floats(1e-6, 10), st.booleans())
def test_threshold_is_marked_once(counts, amax, ascii_only):
    mark = ASCII_MARK if ascii_only else MARK
    plain = sparkline(MagnitudeHistogram(1.0, counts), None, ascii_only=ascii_only)
    line = sparkline(MagnitudeHistogram(1.0, counts), amax, ascii_only=ascii_only)
    assert line.count(mark) == 1
    assert line.replace(mark, "") == plain
    assert abs(line.index(mark) - min(amax, 1.0) * len(counts)) <= 0.5
