"""Geometry of the chart of accuracy over latency: where axes, ticks, points and labels lie. Drawn by the template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from quantkit.reporting.figures import format_significant, interval, one_line
from quantkit.types import Evaluation, Report

__all__ = ["Chart", "Point", "Tick", "make_chart", "nice_ticks"]

WIDTH, HEIGHT = 640.0, 360.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 16.0, 28.0, 62.0

_CHARACTER_WIDTH, _CHARACTER_HEIGHT = 10.5, 15.0
_LABEL_RISES = (-9.0, 21.0, -28.0, 40.0, -47.0, 59.0, 4.0)


@dataclass(frozen=True)
class Tick:
    """A line of the grid: where (SVG units) and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Point:
    """One variant: position, interval bar (None without one) and label, in SVG units; `label` is its numbers."""

    name: str
    x: float
    y: float
    low: float | None
    high: float | None
    label_x: float
    label_y: float
    anchor: str
    label: str
    is_baseline: bool
    representative: bool


@dataclass(frozen=True)
class Chart:
    """Everything that the template draws."""

    title: str
    description: str
    y_label: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    baseline_y: float
    has_intervals: bool
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


def make_chart(report: Report) -> Chart | None:
    """Lays out the variants that have an accuracy (or agreement) and comparable times; None with fewer than two.

    Times of different backends are not comparable: the backend with the most variants is shown, the first of equals.
    """
    labelled = "top1" in report.baseline.metrics
    base = _height(report, report.baseline)
    shown = _comparable(report)
    if len(shown) < 2 or base is None:
        return None
    by_compute = all(e.latency and e.latency.compute_ms is not None for e, _ in shown)
    bounds = [_bounds(base, e) for e, _ in shown]
    heights = [base, *(v for _, v in shown)] + [end for pair in bounds if pair for end in pair]
    # At least a point tall: a smaller window would make a cliff of noise.
    middle, half = (min(heights) + max(heights)) / 2, max(max(heights) - min(heights), 1.0) * 0.6
    y_values = nice_ticks(max(middle - half, 0.0), min(middle + half, 100.0), 5)
    x_values = nice_ticks(0.0, 1.08 * max(e.latency.compared_ms for e, _ in shown if e.latency), 6)
    x_scale = _Scale(x_values[0], x_values[-1], _LEFT, WIDTH - _RIGHT)
    y_scale = _Scale(y_values[0], y_values[-1], HEIGHT - _BOTTOM, _TOP)
    points = [
        _point(e, value, pair, x_scale, y_scale, is_baseline=e is report.baseline)
        for (e, value), pair in zip(shown, bounds, strict=True)
    ]
    measure = "top-1 accuracy" if labelled else f"agreement with {one_line(report.baseline.name)}"
    return Chart(
        title=f"{measure.capitalize()} over median {'compute time' if by_compute else 'latency'}",
        description="; ".join(f"{p.name}: {p.label}" for p in points) + ".",
        y_label=f"{measure.capitalize()}, %",
        x_label=f"Median {'GPU compute time' if by_compute else 'latency'}, ms (left is faster)",
        x_ticks=_ticks(x_values, x_scale),
        y_ticks=_ticks(y_values, y_scale),
        points=tuple(_place_labels(points)),
        baseline_y=round(y_scale(base), 2),
        has_intervals=any(bounds),
    )


def nice_ticks(low: float, high: float, target: int) -> list[float]:
    """About `target` multiples of 1, 2 or 5 times a power of ten, of which the first and last enclose the range.

    >>> nice_ticks(0.0, 0.53, 5)
    [0.0, 0.2, 0.4, 0.6]
    """
    span = max(high - low, 1e-9)
    rough = span / target
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def _height(report: Report, evaluation: Evaluation) -> float | None:
    """Top-1 in percent; without labels, agreement, of which the baseline has all by definition."""
    if "top1" in report.baseline.metrics:
        value = evaluation.metrics.get("top1")
    else:
        value = 1.0 if evaluation is report.baseline else evaluation.metrics.get("agreement")
    # A share of 1 by definition; a number that is none, from a metric of another's making, has no place on the axis.
    return 100 * value if value is not None and 0 <= value <= 1 else None


def _comparable(report: Report) -> list[tuple[Evaluation, float]]:
    """The largest group of variants with a height that were timed by one method on one backend."""
    groups: dict[str, list[tuple[Evaluation, float]]] = {}
    for evaluation in report.evaluations:
        reference, height = report.speed_reference(evaluation), _height(report, evaluation)
        if reference is not None and height is not None:
            groups.setdefault(reference.name, []).append((evaluation, height))
    return max(groups.values(), key=len, default=[])


def _bounds(base: float, evaluation: Evaluation) -> tuple[float, float] | None:
    pair = interval(evaluation)
    if pair is None or not -1 <= pair[0] <= pair[1] <= 1:
        return None
    return base + 100 * pair[0], base + 100 * pair[1]


def _point(
    evaluation: Evaluation,
    value: float,
    pair: tuple[float, float] | None,
    x_scale: _Scale,
    y_scale: _Scale,
    *,
    is_baseline: bool,
) -> Point:
    latency = evaluation.latency.compared_ms if evaluation.latency else 0.0
    x, y = x_scale(latency), y_scale(value)
    low, high = (None, None) if pair is None else (round(y_scale(pair[0]), 2), round(y_scale(pair[1]), 2))
    return Point(
        name=one_line(evaluation.name),
        x=round(x, 2),
        y=round(y, 2),
        low=low,
        high=high,
        label_x=x,
        label_y=y,
        anchor="start",
        label=f"{value:.2f} %, {format_significant(latency)} ms",
        is_baseline=is_baseline,
        representative=evaluation.representative,
    )


def _place_labels(points: Sequence[Point]) -> list[Point]:
    """Gives each label the first place beside its point where it covers no other label, point or interval bar."""
    taken = [_Box(p.x - 8, p.y - 8, p.x + 8, p.y + 8) for p in points]
    taken += [_Box(p.x - 5, p.high, p.x + 5, p.low) for p in points if p.low is not None and p.high is not None]
    placed = []
    for point in points:
        candidates = [_label_at(point, dx, dy) for dy in _LABEL_RISES for dx in (12.0, -12.0)]
        inside = [(p, box) for p, box in candidates if box.left >= _LEFT and box.right <= WIDTH]
        free = [(p, box) for p, box in inside if not any(box.meets(other) for other in taken)]
        best, box = (free or inside or candidates)[0]
        placed.append(best)
        taken.append(box)
    return placed


def _label_at(point: Point, dx: float, dy: float) -> tuple[Point, _Box]:
    """The point with its label there, and the room that the label needs; widths are estimated, on the safe side."""
    x, y, width = point.x + dx, point.y + dy, _CHARACTER_WIDTH * len(point.name)
    left = x if dx > 0 else x - width
    label = replace(point, label_x=round(x, 2), label_y=round(y, 2), anchor="start" if dx > 0 else "end")
    return label, _Box(left, y - _CHARACTER_HEIGHT, left + width, y + 4)


def _ticks(values: Sequence[float], scale: _Scale) -> tuple[Tick, ...]:
    step = values[1] - values[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return tuple(Tick(at=round(scale(v), 2), label=f"{v:.{decimals}f}") for v in values)
