"""Numbers and names as text, the same in every form of a report: which digits are shown is decided here alone."""

from __future__ import annotations

import math

from quantkit.types import Interval, Score

MISSING = "–"

LEAST_DIFFERENCE = 0.00005
"""Half of the last digit of a difference in points: less is shown as 0.00."""


def format_count(value: float) -> str:
    """12345 → "12,345"."""
    return f"{value:,.0f}" if abs(value) < 1e15 else format_significant(value)


def format_percent(fraction: float | None) -> str:
    """0.81034 → "81.03"; a fraction that rounds to 0 but is not → "<0.01"."""
    if fraction is not None and 0 < fraction < 5e-5:
        return "<0.01"
    return MISSING if fraction is None else _finite(100 * fraction, ".2f")


def format_score(value: float | None, score: Score) -> str:
    """A score without its unit: percent of a fraction with two decimals, else four significant digits."""
    if value is None:
        return MISSING
    return _finite(100 * value, ".2f") if score.is_fraction else format_significant(value, 4)


def format_difference(value: float | None, score: Score, interval: Interval | None = None) -> str:
    """A signed difference of scores: points of a fraction, else the digits of its interval, three without one.

    >>> format_difference(-0.00103, Score("top1", "Top-1")), format_difference(0.05, Score("loss", "Loss", False))
    ('-0.10', '+0.05')
    """
    if value is None:
        return MISSING
    if score.is_fraction:
        return _signed(100 * value, 2) if math.isfinite(value) else format_significant(value)
    if interval and math.isfinite(value) and _half(interval) > 0:
        return _signed(value, _decimals(_half(interval)))
    text = format_significant(value)
    text = text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
    return text if value <= 0 or not math.isfinite(value) else f"+{text}"


def score_unit(score: Score | None, *, of_difference: bool = False) -> str:
    """Percent sign or "points" of a fraction; nothing otherwise."""
    if score is None or not score.is_fraction:
        return ""
    return "points" if of_difference else "%"


def with_unit(text: str, unit: str) -> str:
    """("81.03", "%") → "81.03%", ("-0.10", "points") → "-0.10 points", ("4.2", "") → "4.2"."""
    return f"{text}%" if unit == "%" else f"{text} {unit}".strip()


def format_interval(low: str, high: str) -> str:
    """("1.22", "1.25") → "1.22 to 1.25"."""
    return f"{low} to {high}"


def format_bounds(interval: Interval, score: Score) -> str:
    """The interval of a difference, with the digits of its length.

    >>> format_bounds((-0.0035, 0.0015), Score("top1", "Top-1"))
    '-0.35 to +0.15'
    """
    return format_interval(*(format_difference(end, score, interval) for end in interval))


def format_plus_minus(value: float, interval: Interval, score: Score) -> str:
    """A difference and its interval: "-0.10 ± 0.25" where it is that as shown, else "-0.10 (-0.40 to +0.15)"."""
    shown, half = format_difference(value, score, interval), _half(interval)
    if math.isfinite(value) and half > 0:
        unit, decimals = (100, 2) if score.is_fraction else (1, _decimals(half))
        low, middle, high = (round(unit * number, decimals) for number in (interval[0], value, interval[1]))
        margin = round(unit * half, decimals)
        if max(abs(middle - margin - low), abs(middle + margin - high)) < 1.5 * 10.0**-decimals:
            return f"{shown} ± {unit * half:.{decimals}f}"
    return f"{shown} ({format_bounds(interval, score)})"


def format_significant(value: float | None, digits: int = 3) -> str:
    """Rounds to significant digits, plainly from 1e-4 to 1e10: 0.24549 → "0.245", 4081.6 → "4082"; inf → "∞"."""
    if value is None:
        return MISSING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    # The exponent of the rounded number, because 9.996 has one digit before the point and "10.0" two.
    scientific = f"{value:.{digits - 1}e}"
    exponent = int(scientific.rpartition("e")[2])
    return f"{value:.{max(digits - 1 - exponent, 0)}f}" if -5 < exponent < 10 else scientific


def format_decibels(value: float | None) -> str:
    """24.87 → "24.9"; inf, of equal outputs, → "∞"."""
    return MISSING if value is None else _finite(value, ".1f")


def format_cosine(value: float | None) -> str:
    """0.998379 → "0.99838"."""
    return MISSING if value is None else _finite(value, ".5f")


def format_speedup(ratio: float) -> str:
    """2.0408 → "2.04", 0.8913 → "0.89", 12.34 → "12.3"."""
    return f"{ratio:.2f}" if ratio < 9.995 else format_significant(ratio)


def format_throughput(value: float | None) -> str:
    """16326.5 → "16,327", 12.345 → "12.3"."""
    return format_count(value) if value is not None and 1000 <= value < 1e10 else format_significant(value)


def format_p_value(value: float | None) -> str:
    """0.4853 → "0.485", 1e-9 → "<0.001"."""
    if value is None:
        return MISSING
    return "<0.001" if value < 0.001 else _finite(value, ".3f")


def single_line(text: str) -> str:
    """Text from outside (a file's or tensor's name) without line breaks, escape sequences and other control codes."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def shorten(text: str, length: int) -> str:
    """Text on one line with its middle left out where it is longer than `length`: both ends of a name tell it apart.

    >>> shorten("features.denseblock1.denselayer1", 15)
    'feature…elayer1'
    """
    plain = single_line(text)
    if len(plain) <= length:
        return plain
    head = length // 2
    return f"{plain[:head]}…{plain[len(plain) - (length - head - 1) :]}"


def _finite(value: float, form: str) -> str:
    """In this form, but NaN and infinity, which a custom metric may be, by name."""
    return format(value, form) if math.isfinite(value) else format_significant(value)


def _half(interval: Interval) -> float:
    """Half the length; 0 where it has none."""
    half = (interval[1] - interval[0]) / 2
    return half if math.isfinite(half) else 0.0


def _decimals(half: float) -> int:
    """Decimals at which half the length of an interval has two digits, none of large numbers."""
    return min(max(1 - math.floor(math.log10(half)), 0), 300)


def _signed(value: float, decimals: int) -> str:
    """With its sign, but what rounds to nothing has none."""
    if decimals > 9 or abs(value) >= 1e10:
        return f"{value:+.2e}"
    text = f"{value:+.{decimals}f}"
    return text if text.strip("+-0.") else text[1:]
