"""Numbers as text, the same in every form of a report: which digits are shown is decided here alone."""

from __future__ import annotations

import math

from quantkit.types import Score

__all__ = [
    "MISSING",
    "format_beside",
    "format_bounds",
    "format_count",
    "format_decibels",
    "format_difference",
    "format_interval",
    "format_p_value",
    "format_percent",
    "format_plus_minus",
    "format_score",
    "format_score_difference",
    "format_significant",
    "format_speedup",
    "one_line",
    "plural",
    "score_unit",
    "shorten",
]

MISSING = "–"


def format_count(value: float) -> str:
    """12345 → "12,345"."""
    return f"{value:,.0f}" if abs(value) < 1e15 else format_significant(value)


def plural(count: int, noun: str) -> str:
    """(1, "sample") → "1 sample", (1200, "sample") → "1,200 samples", (2, "class") → "2 classes"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def format_percent(fraction: float | None) -> str:
    """0.81034 → "81.03"."""
    return MISSING if fraction is None else _plain(100 * fraction, ".2f")


def format_difference(fraction: float | None) -> str:
    """-0.00103 → "-0.10", 0.002 → "+0.20"; what rounds to nothing has no sign."""
    return MISSING if fraction is None else _without_sign_at_zero(_plain(100 * fraction, "+.2f"))


def format_score(value: float | None, score: Score) -> str:
    """A score without its unit: percent of a fraction with two decimals, else four significant digits."""
    if value is None:
        return MISSING
    return format_percent(value) if score.is_fraction else format_significant(value, 4)


def format_score_difference(value: float | None, score: Score) -> str:
    """A difference of scores with its sign: points of a fraction, else three significant digits at the most."""
    if value is None:
        return MISSING
    if score.is_fraction:
        return format_difference(value)
    text = _without_zeros(format_significant(value))
    return text if value <= 0 or not math.isfinite(value) else f"+{text}"


def score_unit(score: Score, *, of_difference: bool = False) -> str:
    """Percent sign or "points" of a fraction; nothing otherwise."""
    if not score.is_fraction:
        return ""
    return "points" if of_difference else "%"


def format_interval(low: str, high: str) -> str:
    """("1.22", "1.25") → "1.22 to 1.25"."""
    return f"{low} to {high}"


def format_bounds(low: float, high: float, score: Score) -> str:
    """An interval of a difference: "-0.35 to +0.15"; of a score that is no fraction, with the digits of its length.

    >>> format_bounds(-0.00046532, 0.00048792, Score("loss", "Loss", is_fraction=False))
    '-0.00047 to +0.00049'
    """
    if score.is_fraction or not (math.isfinite(low) and math.isfinite(high) and low < high):
        return format_interval(format_score_difference(low, score), format_score_difference(high, score))
    decimals = _decimals((high - low) / 2)
    return format_interval(*(_rounded(end, decimals) for end in (low, high)))


def format_beside(difference: float, low: float, high: float, score: Score) -> str:
    """A difference with the digits of its interval, which `format_bounds` shows beside it."""
    if score.is_fraction or not all(map(math.isfinite, (difference, low, high))) or low >= high:
        return format_score_difference(difference, score)
    return _rounded(difference, _decimals((high - low) / 2))


def format_plus_minus(difference: float, low: float, high: float, score: Score) -> str:
    """A difference and its interval: "-0.10 ± 0.25" where it is that as shown, else "-0.10 (-0.40 to +0.15)"."""
    half = (high - low) / 2
    if not all(map(math.isfinite, (difference, low, high))) or half <= 0:
        return f"{format_score_difference(difference, score)} ({format_bounds(low, high, score)})"
    unit = 100 if score.is_fraction else 1
    decimals = 2 if score.is_fraction else _decimals(half)
    step = 10.0**-decimals
    around = [round(unit * difference, decimals) + sign * round(unit * half, decimals) for sign in (-1, 1)]
    shown = _rounded(unit * difference, decimals)
    if all(abs(end - round(unit * at, decimals)) < 1.5 * step for end, at in zip(around, (low, high), strict=True)):
        return f"{shown} ± {unit * half:.{decimals}f}"
    return f"{shown} ({format_bounds(low, high, score)})"


def format_significant(value: float | None, digits: int = 3) -> str:
    """Rounds to significant digits, plainly from 1e-6 to 1e10: 0.24549 → "0.245", 4081.6 → "4082"; inf → "∞"."""
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
    return f"{value:.{max(digits - 1 - exponent, 0)}f}" if -7 < exponent < 10 else scientific


def format_decibels(value: float | None) -> str:
    """24.87 → "24.9"; inf, of equal outputs, → "∞"."""
    return format_significant(value) if value is None or not math.isfinite(value) else f"{value:.1f}"


def format_speedup(ratio: float) -> str:
    """2.0408 → "2.04", 0.8913 → "0.89", 12.34 → "12.3"."""
    return f"{ratio:.2f}" if ratio < 9.995 else format_significant(ratio)


def format_p_value(value: float | None) -> str:
    """0.4853 → "0.485", 1e-9 → "<0.001"."""
    if value is None:
        return MISSING
    return "<0.001" if value < 0.001 else _plain(value, ".3f")


def one_line(text: str) -> str:
    """Text from outside (a file's or tensor's name) without line breaks, escape sequences and other control codes."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def shorten(text: str, length: int) -> str:
    """Text on one line with its middle left out where it is longer than `length`: both ends of a name tell it apart.

    >>> shorten("features.denseblock1.denselayer1", 15)
    'feature…elayer1'
    """
    plain = one_line(text)
    if len(plain) <= length:
        return plain
    head = length // 2
    return f"{plain[:head]}…{plain[len(plain) - (length - head - 1) :]}"


def _plain(value: float, form: str) -> str:
    """A number that is none, from a metric of another's making, is named as such."""
    return format(value, form) if math.isfinite(value) else format_significant(value)


def _without_zeros(text: str) -> str:
    """0.0970 → 0.097, 2.00 → 2; 1.80e+308 as it is."""
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def _without_sign_at_zero(text: str) -> str:
    return text[1:] if text in ("+0.00", "-0.00") else text


def _decimals(half: float) -> int:
    """Decimals at which half the length of an interval has two digits, none of large numbers."""
    return min(max(1 - math.floor(math.log10(half)), 0), 300) if 0 < half < math.inf else 0


def _rounded(value: float, decimals: int) -> str:
    """With its sign, but what rounds to nothing has none."""
    if decimals > 9 or abs(value) >= 1e10:
        return f"{value:+.2e}"
    text = f"{value:+.{decimals}f}"
    return text if text.strip("+-0.") else text[1:]
