"""Every column of a report's tables, declared once: terminal, Markdown and HTML are rendered from `TABLES`.

A new column is one `Column` in its table: its value, heading, unit and glossary term appear in every form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from quantkit.reporting import range_choices as chosen
from quantkit.reporting import terms
from quantkit.reporting.changes import ChangeCard, cards_by_variant
from quantkit.reporting.classes import ClassRow, class_tables
from quantkit.reporting.column import ALL_FORMS, Column, Form, Row, Table
from quantkit.reporting.coverage import OperatorCount, coverages
from quantkit.reporting.formatting import (
    MISSING,
    format_bounds,
    format_cosine,
    format_count,
    format_decibels,
    format_difference,
    format_interval,
    format_p_value,
    format_percent,
    format_plus_minus,
    format_score,
    format_significant,
    format_speedup,
    format_throughput,
    score_unit,
    shorten,
    single_line,
)
from quantkit.reporting.tensors import TensorRow, tensor_tables
from quantkit.reporting.terms import Term
from quantkit.reporting.variants import Variant, speed_rows, sweep_rows, variant_rows
from quantkit.significance import agreement_interval, mlperf, names_one_class
from quantkit.types import Interval, Report

_FILES: tuple[Form, ...] = ("markdown", "html")

COUNTED = {"classify": "Samples", "detect": "Objects", "segment": "Pixels"}
"""What a class is counted in, by task."""


def shown_columns(
    name: str, rows: Sequence[Row], report: Report, form: Form | None, *, variant: str = ""
) -> tuple[Column[Row], ...]:
    """The columns of a table that have a value in these rows, with their headings filled in.

    Args:
        name: key of `TABLES`.
        rows: of this table.
        report: that they are of.
        form: None for every column of any form.
        variant: for headings that name it.
    """
    score = report.score
    words = {
        "score": "" if score is None else single_line(score.label),
        "unit": score_unit(score),
        "points": score_unit(score, of_difference=True),
        "baseline": shorten(report.baseline.name, 14) if form == "terminal" else single_line(report.baseline.name),
        "variant": single_line(variant),
        "counted": COUNTED.get(report.task, "Count"),
    }
    first, *others = (c for c in TABLES[name].columns if form is None or form in c.forms)
    return tuple(
        replace(
            column,
            heading=column.heading.format(**words),
            unit=column.unit.format(**words),
            term=_own_score(report) if column.term is terms.SCORE else column.term,
        )
        for column in (first, *(column for column in others if column.is_measured(rows)))
    )


def terms_by_field(report: Report) -> dict[str, Term]:
    """Field of each number that the report shows → its term, in the order of the glossary."""
    found: dict[str, Term | None] = {}
    for name, table in TABLES.items():
        rows = table.rows(report)
        for column in shown_columns(name, rows, report, None) if rows else ():
            found[column.field] = column.term
            if column.interval and column.interval.is_measured(rows):
                found[column.interval.field] = column.interval.term
    if report.score is not None:
        found["within"] = terms.WITHIN
    if report.changes or report.num_changes:
        found |= {"change_shown": terms.CHANGED, "change_total": terms.CHANGED}
    if report.layers or report.skipped:
        found["reason_count"] = terms.COVERAGE
    if report.sensitivity is not None:
        found["total_damage"] = terms.UNIT_DAMAGE
    if report.is_partial:
        found["samples"] = terms.SAMPLES
    return {field: term for field, term in found.items() if term is not None}


def _own_score(report: Report) -> Term | None:
    score = report.score
    return None if score is None else Term(score.label, score.definition or terms.SCORE.definition)


def _name(heading: str, text: Callable[[Row], str], field: str = "name") -> Column[Row]:
    """The first column of a table."""
    return Column(field, heading, text, align="left")


def _metric(
    name: str,
    heading: str,
    term: Term,
    text: Callable[[float | None], str],
    unit: str = "",
    forms: tuple[Form, ...] = _FILES,
) -> Column[Variant]:
    """A number beside the score; where it is the score, that column has it."""

    def show(row: Variant) -> str:
        is_score = row.report.score is not None and row.report.score.name == name
        return text(None if is_score else row.metric(name))

    return Column(name, heading, show, term, unit, forms)


def _time(
    name: str, heading: str, term: Term = terms.COMPUTE, forms: tuple[Form, ...] = _FILES, *, interval: str = ""
) -> Column[Variant]:
    """A field of `Latency` in milliseconds."""
    return Column(
        name,
        heading,
        lambda row: format_significant(getattr(row.latency, name, None)),
        term,
        "ms",
        forms,
        interval=Column(interval, "95% interval", lambda row: _interval(row, f"{interval}_ms"), terms.RANK_INTERVAL)
        if interval
        else None,
    )


def _interval(row: Variant, name: str, text: Callable[[float], str] = format_significant) -> str:
    pair: Interval | None = getattr(row.latency, name, None)
    return MISSING if pair is None else format_interval(text(pair[0]), text(pair[1]))


def _score(row: Variant) -> str:
    score = row.report.score
    return MISSING if score is None else format_score(row.metric(score.name), score)


def _difference(row: Variant) -> str:
    score = row.report.score
    return MISSING if score is None else format_difference(row.difference, score, row.difference_interval)


def _bounds(row: Variant) -> str:
    score, pair = row.report.score, row.difference_interval
    return MISSING if score is None or pair is None else format_bounds(pair, score)


def _plus_minus(row: Variant) -> str:
    score, pair, value = row.report.score, row.difference_interval, row.difference
    if score is None or pair is None or value is None:
        return _difference(row)
    return format_plus_minus(value, pair, score)


def _mlperf(row: Variant) -> str:
    """One word for each target: "99%: pass, 99.9%: inconclusive"."""
    found = {} if row.is_baseline else mlperf(row.report, row.evaluation)
    return ", ".join(f"{name}: {word}" for name, word in found.items()) or MISSING


def _flips(row: Variant) -> str:
    fixed, broken = row.metric("fixed"), row.metric("broken")
    return MISSING if fixed is None or broken is None else f"{format_count(fixed)} / {format_count(broken)}"


def _size_ratio(row: Variant) -> str:
    whole = row.report.baseline.size_bytes
    return f"{row.evaluation.size_bytes / whole:.2f}x" if whole else MISSING


def _speedup(row: Variant) -> str:
    return MISSING if row.speedup is None else f"{format_speedup(row.speedup)}x"


def _speedup_interval(row: Variant) -> str:
    if row.speedup is None:
        return MISSING
    return _interval(row, "speedup_interval", format_speedup).replace(MISSING, "no interval")


def _agreement(row: Variant) -> str:
    return MISSING if names_one_class(row.report) else format_percent(row.metric("agreement"))


def _agreement_interval(row: Variant) -> str:
    pair = None if names_one_class(row.report) else agreement_interval(row.report, row.evaluation)
    return MISSING if pair is None else format_interval(*map(format_percent, pair))


def _class_change(row: ClassRow) -> str:
    if row.before is None or row.after is None:
        return MISSING
    return format_difference(row.after - row.before, row.score)


def _class_interval(row: ClassRow) -> str:
    return MISSING if row.interval is None else format_interval(*map(format_percent, row.interval))


def _tensor_decibels(value: float | None) -> str:
    return "∞" if value is None else format_decibels(value)


_ACCURACY: tuple[Column[Variant], ...] = (
    _name("Variant", lambda row: row.name, "measured_variant"),
    Column("score", "{score}", _score, terms.SCORE, "{unit}"),
    Column("with_interval", "vs {baseline}", _plus_minus, terms.DIFFERENCE, "{points}", ("terminal",)),
    Column(
        "difference",
        "Difference",
        _difference,
        terms.DIFFERENCE,
        "{points}",
        _FILES,
        interval=Column("interval", "95% interval", _bounds, terms.INTERVAL),
    ),
    Column("mlperf", "MLPerf", _mlperf, terms.MLPERF, forms=_FILES),
    _metric("top5", "Top-5", terms.TOP5, format_percent, "%"),
    Column("flips", "Fixed / broken", _flips, terms.FLIPS, forms=_FILES),
    _metric("p_value", "p", terms.FLIPS, format_p_value),
    replace(
        _metric("agreement", "Agreement", terms.AGREEMENT, format_percent, "%", ALL_FORMS),
        text=_agreement,
        interval=Column("agreement_interval", "95% interval", _agreement_interval, terms.AGREEMENT),
    ),
    Column("agreement_bounds", "95% interval", _agreement_interval, terms.AGREEMENT, forms=("terminal",)),
    _metric("sqnr_db", "SQNR", terms.SQNR, format_decibels, "dB", ALL_FORMS),
    _metric("cosine", "Cosine", terms.COSINE, format_cosine),
    _metric("cosine_mean", "Mean cosine", terms.VECTOR_ANGLE, format_cosine),
    _metric("cosine_min", "Lowest cosine", terms.VECTOR_ANGLE, format_cosine),
    _metric("image_psnr", "PSNR", terms.IMAGE_QUALITY, format_decibels, "dB"),
    _metric("image_ssim", "SSIM", terms.IMAGE_QUALITY, format_cosine),
    Column("size_mb", "Size", lambda row: format_significant(row.evaluation.size_bytes / 1e6), terms.SIZE, "MB"),
    Column("size_ratio", "Ratio", _size_ratio, terms.SIZE),
)

_SPEED: tuple[Column[Variant], ...] = (
    _name("Variant", lambda row: row.name),
    Column(
        "batch_size", "Batch", lambda row: str(row.latency.batch_size) if row.latency else MISSING, terms.BATCH_SIZE
    ),
    _time("median_ms", "Median", terms.LATENCY, ALL_FORMS, interval="median_interval"),
    _time("p90_ms", "p90", terms.LATENCY, interval="p90_interval"),
    _time("p99_ms", "p99", terms.LATENCY, ALL_FORMS, interval="p99_interval"),
    _time("compute_ms", "Compute", forms=ALL_FORMS),
    Column(
        "speedup",
        "Speed-up",
        _speedup,
        terms.SPEEDUP,
        interval=Column("speedup_interval", "95% interval", _speedup_interval, terms.SPEEDUP),
    ),
    Column("speedup_bounds", "95% interval", _speedup_interval, terms.SPEEDUP, forms=("terminal",)),
    Column(
        "throughput",
        "Throughput",
        lambda row: format_throughput(row.latency.throughput if row.latency else None),
        terms.THROUGHPUT,
        "samples/s",
    ),
)

_BACKEND: Column[Variant] = Column("backend", "Backend", lambda row: row.backend, forms=("markdown",), align="left")

_QUERY: tuple[Column[Variant], ...] = (
    _name("Variant", lambda row: row.name),
    _time("h2d_ms", "H2D"),
    _time("compute_p99_ms", "Compute p99"),
    _time("d2h_ms", "D2H"),
    _time("enqueue_ms", "Enqueue"),
)

_CLASSES: tuple[Column[ClassRow], ...] = (
    _name("Class", lambda row: row.label, "class"),
    Column("class_count", "{counted}", lambda row: format_count(row.count), terms.CLASS_SCORE),
    Column(
        "class_before",
        "{baseline}",
        lambda row: format_score(row.before, row.score),
        terms.CLASS_SCORE,
        "{unit}",
    ),
    Column(
        "class_after",
        "{variant}",
        lambda row: format_score(row.after, row.score),
        terms.CLASS_SCORE,
        "{unit}",
        interval=Column("class_interval", "95% interval", _class_interval, terms.CLASS_SCORE),
    ),
    Column("class_change", "Change", _class_change, terms.CLASS_SCORE, "{points}"),
    Column("class_bar", "Change, drawn", lambda row: "", forms=("html",), drawing="diverging"),
)

_CHANGES: tuple[Column[ChangeCard], ...] = (
    _name("Sample", lambda row: row.sample, "sample"),
    Column("truth", "Ground truth", lambda row: row.truth or MISSING, forms=("markdown",), align="left"),
    Column("before", "{baseline}", lambda row: row.before, forms=("markdown",), align="left"),
    Column("after", "{variant}", lambda row: row.after, forms=("markdown",), align="left"),
)

_TENSORS: tuple[Column[TensorRow], ...] = (
    _name("Activation", lambda row: row.name, "tensor"),
    Column("producer", "Produced by", lambda row: row.producer, forms=("markdown",), align="left"),
    Column("tensor_position", "Position", lambda row: format_count(row.position), terms.POSITION),
    Column(
        "tensor_own_sqnr",
        "Local SQNR",
        lambda row: _tensor_decibels(row.quality.own_sqnr_db),
        terms.LOCAL_SQNR,
        "dB",
    ),
    Column(
        "tensor_sqnr",
        "Accumulated SQNR",
        lambda row: _tensor_decibels(row.quality.sqnr_db),
        terms.ACCUMULATED_SQNR,
        "dB",
    ),
    Column("tensor_bars", "SQNR, drawn", lambda row: "", forms=("html",), drawing="levels"),
    Column("tensor_amax", "amax", lambda row: format_significant(row.quality.amax), terms.AMAX),
    Column(
        "tensor_range",
        "Observed range",
        lambda row: format_interval(*map(format_significant, (row.quality.minimum, row.quality.maximum))),
        terms.OBSERVED_RANGE,
    ),
    Column("tensor_clipped", "Clipped", lambda row: format_percent(row.quality.clipped), terms.CLIPPED, "%"),
    Column("tensor_histogram", "Histogram", lambda row: "", terms.HISTOGRAM, "", ("html",), drawing="histogram"),
)

_COVERAGE: tuple[Column[OperatorCount], ...] = (
    _name("Operator", lambda row: row.op_type or "All", "operator"),
    Column("int8_count", "Quantized", lambda row: format_count(row.num_quantized), terms.COVERAGE),
    Column("operator_count", "Total", lambda row: format_count(row.num_all), terms.COVERAGE),
    Column("coverage_bar", "Share, drawn", lambda row: "", forms=("html",), drawing="share"),
)

_METHODS: tuple[Column[chosen.MethodRow], ...] = (
    _name("Method", lambda row: row.method, "method"),
    Column("method_count", "Activations", lambda row: format_count(row.num_tensors), terms.RANGE_METHOD),
    Column("method_bar", "Share, drawn", lambda row: "", forms=("html",), drawing="share"),
)

_FLOAT_TENSORS: tuple[Column[chosen.FloatTensorRow], ...] = (
    _name("Activation", lambda row: row.tensor, "float_tensor"),
    Column("float_reason", "Reason", lambda row: row.reason, terms.FLOAT_TENSOR, align="left"),
)

_CHOICES: tuple[Column[chosen.ChoiceRow], ...] = (
    Column("choice_float", "In float", lambda row: str(row.point.num_float), terms.CHOICES),
    Column("choice_work", "Multiply-adds in INT8", lambda row: row.work, terms.CHOICES, unit="%"),
    Column("choice_score", "{score}", lambda row: row.score, terms.CHOICES, unit="{unit}"),
    Column("choice_loss", "Drop", lambda row: f"{row.loss} {row.plan.loss_unit}".rstrip(), terms.CHOICES),
    Column("choice_interval", "95% interval", lambda row: row.interval or MISSING, terms.CHOICES),
    Column("choice_mark", "Choice", lambda row: row.mark, align="left"),
)

_SENSITIVITY: tuple[Column[chosen.UnitRow], ...] = (
    _name("Unit", lambda row: row.name, "unit"),
    Column("unit_bar", "Damage, drawn", lambda row: "", forms=("html",), drawing="share"),
    Column("unit_damage", "Alone", lambda row: format_significant(row.unit.damage), terms.UNIT_DAMAGE),
    Column("unit_saved", "Saved", lambda row: format_significant(row.unit.saved, 2), terms.UNIT_DAMAGE),
)

TABLES: dict[str, Table[Any]] = {
    "accuracy": Table(variant_rows, _ACCURACY),
    "speed": Table(speed_rows, (*_SPEED, _BACKEND)),
    "query": Table(speed_rows, _QUERY),
    "sweep": Table(sweep_rows, _SPEED),
    "classes": Table.of_variants(lambda report: [(t.variant, t.rows) for t in class_tables(report)], _CLASSES),
    "changes": Table.of_variants(cards_by_variant, _CHANGES),
    "tensors": Table.of_variants(lambda report: [(t.variant, t.all) for t in tensor_tables(report)], _TENSORS),
    "coverage": Table.of_variants(lambda report: [(c.variant, c.rows) for c in coverages(report)], _COVERAGE),
    "methods": Table(chosen.method_rows, _METHODS),
    "float_tensors": Table(chosen.float_tensor_rows, _FLOAT_TENSORS),
    "choices": Table(lambda report: chosen.choice_rows(report.plan), _CHOICES),
    "sensitivity": Table(chosen.unit_rows, _SENSITIVITY),
}
"""Every table by name."""
