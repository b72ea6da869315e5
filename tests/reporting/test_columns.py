from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from quantkit.reporting import print_report, report_html, report_markdown, terms
from quantkit.reporting.columns import TABLES, Column, terms_by_field
from quantkit.reporting.terms import Term

from .reports import make_report
from .samples import make_classification, make_detection, make_unlabeled_arrays


def glossary(report):
    return {term.name: term.definition for term in terms_by_field(report).values()}


@pytest.mark.parametrize("table", ["accuracy", "speed"])
def test_a_column_is_one_declaration(table, monkeypatch):
    """It is then in the terminal's, the page's and the Markdown table, and its term in both glossaries."""
    term = Term("Kurtosis", "Fourth standardized moment of the outputs.")
    column = Column("kurtosis", "Kurt.", lambda row: f"k-{row.name}", term, "1/s")
    columns = TABLES[table].columns
    monkeypatch.setitem(TABLES, table, replace(TABLES[table], columns=(columns[0], column, *columns[1:])))
    report = make_report()
    buffer = io.StringIO()
    print_report(report, Console(file=buffer, width=80))
    markdown, page = report_markdown(report), report_html(report)
    for text in (buffer.getvalue(), markdown, page):
        assert "Kurt." in text
        assert all(f"k-{e.name}" in text for e in report.evaluations)
    assert "Kurt., 1/s" in markdown
    assert f"- Kurtosis: {term.definition}" in markdown
    assert '<div id="term-kurtosis"><dt>Kurtosis</dt>' in page
    assert '<a href="#term-kurtosis">Kurt.</a>' in page


def test_every_column_of_numbers_has_a_term_and_every_term_words():
    for name, table in TABLES.items():
        for column in table.columns[1:]:
            assert column.term or column.align == "left" or column.drawing, (name, column.field)
    found = [value for value in vars(terms).values() if isinstance(value, Term) and value is not terms.SCORE]
    assert len({term.name for term in found}) == len(found) > 20
    assert all(len(term.definition) > 30 and term.definition.endswith(".") for term in found)


def test_the_score_is_defined_by_the_report():
    assert next(iter(glossary(make_detection()))) == "mAP"
    assert glossary(make_detection())["mAP"].startswith("Mean over classes of average precision")


def test_what_is_not_in_a_report_is_not_explained():
    whole = glossary(make_classification())
    assert {"Top-5", "MLPerf", "Interval of a percentile", "Local SQNR", "Coverage", "Class score"} <= whole.keys()
    assert not {"Compute", "Samples"} & whole.keys()
    bare = glossary(make_unlabeled_arrays())
    assert not {"Top-1", "Difference", "MLPerf", "Top-5", "Class score"} & bare.keys()
    assert "Compute" in glossary(make_detection())
