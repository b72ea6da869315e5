"""Charts of speed: accuracy over latency with intervals both ways, and throughput over latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from quantkit.reporting.charts.axes import Chart, PlotFrame, Scale, log_ticks, nice_ticks, place_ticks
from quantkit.reporting.charts.labels import Point, place_labels
from quantkit.reporting.charts.legend import LegendItem, lay_out_legend
from quantkit.reporting.formatting import format_score, format_significant, score_unit, shorten, single_line, with_unit
from quantkit.types import Evaluation, Interval, Latency, Report, Score

_FRAME = PlotFrame()

_LONGEST_LABEL = 24

_LOG_FROM = 8.0
"""A time axis is logarithmic where the slowest point takes this many times as long as the fastest."""

_AGREEMENT = Score("agreement", "Agreement")


@dataclass(frozen=True)
class Series:
    """A variant at all its batch sizes: a line through small points, each with its batch size."""

    path: str
    dots: tuple[tuple[float, float, str], ...]
    index: int
    representative: bool


@dataclass(frozen=True, kw_only=True)
class SpeedChart(Chart):
    """`heading` names the backend where there are several charts; points are drawn in their order, the last on top."""

    heading: str
    points: tuple[Point, ...]
    series: tuple[Series, ...]
    legend: tuple[LegendItem, ...]
    is_log: bool
    baseline_y: float | None = None
    has_intervals: bool = False


def make_charts(report: Report) -> tuple[SpeedChart, ...]:
    """Accuracy over time, one chart for each backend on which two variants or more were timed, of one vertical scale.

    The height is the score; without one, agreement. The time is that of a call at the first batch size, or per sample
    where several batch sizes were timed: then all of them are drawn. Empty without a height.
    """
    base = _height(report, report.baseline)
    groups = _comparable(report)
    shown = [e for group in groups for e in group]
    if base is None or not shown:
        return ()
    heights = [base, *(h for e in shown if (h := _height(report, e)) is not None)]
    heights += [base + end for e in shown if (pair := _bounds(report, e)) for end in pair]
    y_values = _y_values(heights, _score(report))
    return tuple(_accuracy_chart(report, group, base, y_values, several=len(groups) > 1) for group in groups)


def make_throughput_charts(report: Report) -> tuple[SpeedChart, ...]:
    """Throughput over latency, a line for each variant through its batch sizes; empty where only one was timed.

    Both axes are logarithmic: along a line, latency is what more throughput costs.
    """
    groups = [g for g in _timed_together(report) if any(len(e.latencies) > 1 for e in g)]
    return tuple(_throughput_chart(report, group, several=len(groups) > 1) for group in groups)


def _accuracy_chart(
    report: Report, group: Sequence[Evaluation], base: float, y_values: Sequence[float], *, several: bool
) -> SpeedChart:
    score, per_sample = _score(report), any(e.sweep for e in group)
    times = [end for e in group for latency in e.latencies for end in _times(latency, per_sample)]
    x_scale = _time_scale(times)
    y_scale = _FRAME.y_scale(y_values[0], y_values[-1])
    points = [_point(report, e, x_scale, y_scale, per_sample=per_sample) for e in group]
    rails = tuple(_rail(report, e, x_scale, y_scale) for e in group if e.sweep)
    by_compute = all(latency.compute_ms is not None for e in group for latency in e.latencies)
    what = "GPU compute time" if by_compute else "latency"
    measure = single_line(score.label)
    if score is _AGREEMENT:
        measure += f" with {shorten(report.baseline.name, _LONGEST_LABEL)}"
    unit = score_unit(score)
    size = group[0].latencies[0].batch_size
    x_label = f"Median {what} per sample, ms" if per_sample else f"Median {what} of a batch of {size}, ms"
    legend, height = lay_out_legend(points, _FRAME)
    return SpeedChart(
        frame=replace(_FRAME, height=height),
        heading=single_line(group[0].backend) if several else "",
        title=f"{measure} over median {what}",
        description="; ".join(f"{p.name}: {p.label}" for p in points) + ".",
        y_label=f"{measure}, {unit}" if unit else measure,
        x_label=f"{x_label} (left is faster)",
        x_ticks=place_ticks(_ticks_of(x_scale), x_scale),
        y_ticks=place_ticks(y_values, y_scale),
        points=_place(points, rails),
        series=_without_crowded_sizes(rails),
        legend=legend,
        baseline_y=round(y_scale(base), 2),
        has_intervals=any(p.low is not None for p in points),
        is_log=x_scale.is_log,
    )


def _throughput_chart(report: Report, group: Sequence[Evaluation], *, several: bool) -> SpeedChart:
    latencies = [latency for e in group for latency in e.latencies]
    x_values = log_ticks(min(x.median_ms for x in latencies), max(x.median_ms for x in latencies))
    y_values = log_ticks(min(x.throughput for x in latencies), max(x.throughput for x in latencies))
    x_scale = _FRAME.x_scale(x_values[0], x_values[-1], is_log=True)
    y_scale = _FRAME.y_scale(y_values[0], y_values[-1], is_log=True)
    series, ends = [], []
    for e in group:
        ordered = sorted(e.latencies, key=lambda latency: latency.batch_size)
        places = [(round(x_scale(x.median_ms), 1), round(y_scale(x.throughput), 1), str(x.batch_size)) for x in ordered]
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y, _ in places)
        series.append(Series(path, tuple(places), report.evaluations.index(e), e.representative))
        numbers = ", ".join(
            f"batch {x.batch_size} {format_significant(x.median_ms)} ms, {format_significant(x.throughput)} samples/s"
            for x in ordered
        )
        ends.append(_bare_point(report, e, places[-1][0], places[-1][1], numbers))
    legend, height = lay_out_legend(ends, _FRAME)
    return SpeedChart(
        frame=replace(_FRAME, height=height),
        heading=single_line(group[0].backend) if several else "",
        title="Throughput over median latency at each batch size",
        description="; ".join(f"{p.name}: {p.label}" for p in ends) + ".",
        y_label="Throughput, samples/s",
        x_label="Median latency of a call, ms (left is faster)",
        x_ticks=place_ticks(x_values, x_scale),
        y_ticks=place_ticks(y_values, y_scale),
        points=_place(ends, series),
        series=_without_crowded_sizes(series),
        legend=legend,
        is_log=True,
    )


def _place(points: Sequence[Point], series: Sequence[Series]) -> tuple[Point, ...]:
    dots = [(x, y) for drawn in series for x, y, _ in drawn.dots]
    for point, drawn in zip(points, series, strict=False):  # a line at the height of its point leads to its dots
        ends = [point.x, *(x for x, y, _ in drawn.dots if abs(y - point.y) < 1)]
        dots += [(float(x), point.y) for x in range(round(min(ends)), round(max(ends)), 8)]
    return place_labels(points, left=_FRAME.left, right=_FRAME.width, avoid=dots)


def _without_crowded_sizes(series: Sequence[Series]) -> tuple[Series, ...]:
    """Leaves out the batch sizes that would be written over one another; their points stay."""
    written: list[tuple[float, float]] = []
    result = []
    for line in series:
        dots = []
        for x, y, size in line.dots:
            is_free = all(abs(x - other) > 14 or abs(y - height) > 12 for other, height in written)
            written += [(x, y)] if is_free else []
            dots.append((x, y, size if is_free else ""))
        result.append(replace(line, dots=tuple(dots)))
    return tuple(result)


def _score(report: Report) -> Score:
    """What the height is; a score that the baseline has no number of is none."""
    return report.score if report.score and report.score.name in report.baseline.metrics else _AGREEMENT


def _height(report: Report, evaluation: Evaluation) -> float | None:
    """The score, in percent if it is a share; without one, agreement, of which the baseline has all by definition."""
    score = _score(report)
    if score is _AGREEMENT and evaluation is report.baseline:
        return 100.0
    value = evaluation.metrics.get(score.name)
    # A number that is none, from a metric of another's making, has no place on the axis.
    if value is None or not abs(value) < 1e9 or (score.is_fraction and not 0 <= value <= 1):
        return None
    return 100 * value if score.is_fraction else value


def _bounds(report: Report, evaluation: Evaluation) -> Interval | None:
    """The interval of the difference, in the unit of the axis."""
    pair = report.difference_interval(evaluation)
    score = _score(report)
    most = 1.0 if score.is_fraction else 1e9
    if pair is None or not -most <= pair[0] <= pair[1] <= most:
        return None
    unit = 100 if score.is_fraction else 1
    return unit * pair[0], unit * pair[1]


def _y_values(heights: Sequence[float], score: Score) -> list[float]:
    """At least a point of a share tall: a smaller window would make a cliff of noise."""
    least = 1.0 if score.is_fraction else 0.02 * max(abs(h) for h in heights) or 1.0
    middle, half = (min(heights) + max(heights)) / 2, max(max(heights) - min(heights), least) * 0.6
    low, high = middle - half, middle + half
    return nice_ticks(max(low, 0.0), min(high, 100.0), 5) if score.is_fraction else nice_ticks(low, high, 5)


def _timed_together(report: Report) -> list[list[Evaluation]]:
    """Groups of two variants or more that were timed by one method on one backend, the largest first."""
    groups: dict[tuple[str, str], list[Evaluation]] = {}
    for evaluation in report.evaluations:
        latencies = evaluation.latencies
        if latencies and all(
            1e-9 < end < 1e12 for x in latencies for end in (*_times(x, False), x.median_ms, x.throughput)
        ):
            groups.setdefault((evaluation.backend, latencies[0].method), []).append(evaluation)
    return sorted((group for group in groups.values() if len(group) > 1), key=lambda group: -len(group))


def _comparable(report: Report) -> list[list[Evaluation]]:
    groups = ([e for e in g if _height(report, e) is not None] for g in _timed_together(report))
    return [group for group in groups if len(group) > 1]


def _time(latency: Latency, per_sample: bool) -> float:
    return latency.compared_ms / (latency.batch_size if per_sample else 1)


def _times(latency: Latency, per_sample: bool) -> list[float]:
    """The time and the ends of its interval."""
    pair = latency.median_interval_ms if latency.compute_ms is None else None  # the computation alone has none
    size = latency.batch_size if per_sample else 1
    return [_time(latency, per_sample), *(end / size for end in pair or ())]


def _time_scale(times: Sequence[float]) -> Scale:
    if max(times) > _LOG_FROM * min(times) > 0:
        values = log_ticks(min(times) / 1.1, max(times) * 1.1)
        return _FRAME.x_scale(values[0], values[-1], is_log=True)
    values = nice_ticks(0.0, 1.08 * max(times), 6)
    return _FRAME.x_scale(values[0], values[-1])


def _ticks_of(scale: Scale) -> list[float]:
    return log_ticks(scale.low, scale.high) if scale.is_log else nice_ticks(scale.low, scale.high, 6)


def _point(report: Report, evaluation: Evaluation, x_scale: Scale, y_scale: Scale, *, per_sample: bool) -> Point:
    score, base, height = _score(report), _height(report, report.baseline), _height(report, evaluation)
    assert height is not None
    assert base is not None
    latency, pair = evaluation.latencies[0], _bounds(report, evaluation)
    time, *ends = _times(latency, per_sample)
    value = with_unit(format_score(height / (100 if score.is_fraction else 1), score), score_unit(score))
    point = _bare_point(report, evaluation, x_scale(time), y_scale(height), f"{value}, {format_significant(time)} ms")
    if pair is not None:
        # A share ends at 100%, where its interval, which is that of a difference, may not.
        low, high = (min(max(base + end, y_scale.low), y_scale.high) for end in pair)
        point = replace(point, low=round(y_scale(low), 2), high=round(y_scale(high), 2))
    if ends:
        point = replace(point, left=round(x_scale(ends[0]), 2), right=round(x_scale(ends[1]), 2))
    return point


def _bare_point(report: Report, evaluation: Evaluation, x: float, y: float, numbers: str) -> Point:
    return Point(
        name=shorten(evaluation.name, _LONGEST_LABEL),
        x=round(x, 2),
        y=round(y, 2),
        label=numbers,
        index=report.evaluations.index(evaluation),
        is_baseline=evaluation is report.baseline,
        representative=evaluation.representative,
    )


def _rail(report: Report, evaluation: Evaluation, x_scale: Scale, y_scale: Scale) -> Series:
    """All batch sizes of a variant, at the height of its score."""
    height = _height(report, evaluation)
    assert height is not None
    y = round(y_scale(height), 1)
    dots = [(round(x_scale(_time(latency, True)), 1), y, str(latency.batch_size)) for latency in evaluation.latencies]
    ends = [x for x, _, _ in dots]
    return Series(
        f"M{min(ends):g} {y:g}H{max(ends):g}",
        tuple(dots[1:]),  # the first is the variant's own point
        report.evaluations.index(evaluation),
        evaluation.representative,
    )
