from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import Phase, given, settings

from quantkit.reporting import report_html
from quantkit.reporting.figures import rows

from .reports import HOSTILE, any_report, make_engines, make_hostile, make_report, make_unlabelled

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in named.items()]
        field = named.get("data-field", "")
        if field:
            self.cells.append((field, ""))
        if tag not in VOID:
            self._open.append((tag, field))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if any(tag in ("style", "script") for tag, _ in self._open):
            return
        self.words.append(data)
        if any(field for _, field in self._open):
            field, text = self.cells[-1]
            self.cells[-1] = (field, text + data.strip())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_every_cell_is_the_number_of_the_report():
    report = make_report()
    page = Page(report_html(report))
    fields = list(dict.fromkeys(field for field, _ in page.cells))
    assert len(fields) == 16
    for field in fields:
        shown = [text for name, text in page.cells if name == field]
        plain = [text.replace("−", "-").replace("×", "x").rstrip("*") for text in shown]
        assert plain == [getattr(row, field) for row in rows(report)], field


def test_every_fact_is_on_the_page():
    text = Page(report_html(make_report())).text
    for words in (
        "resnet20.onnx",
        "int8 is as accurate as fp32 to within 0.35 points and runs 2.04× as fast on this CPU.",
        "9f2c7c0a",
        "cifar10/test",
        "entropy",
        "Some CPU",
        "Softmax_41",
        "keeps float precision",
        "Calibration and evaluation share 12 samples.",
        "fp16 : computed by casting",
        "32 × 32 px (height × width)",
        "2026-11-22T14:03:11Z",
        "One call on a batch of 4",
        "1,234 calls",
    ):
        assert words in text, words


@pytest.mark.parametrize("report", [make_report(), make_unlabelled(), make_hostile()])
def test_it_asks_for_nothing_from_elsewhere(report):
    text = report_html(report)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert not [a for a in page.attributes if a[1] in ("src", "href", "srcset", "action") or a[1].startswith("on")]
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_hostile_names_are_text():
    text = report_html(make_hostile())
    page = Page(text)
    assert "<script" not in text
    assert "<script>alert('x')</script>" in page.text
    assert HOSTILE not in text
    assert page.tags.count("html") == 1


def test_it_can_be_read_without_seeing():
    text = report_html(make_report())
    page = Page(text)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for _, name, value in page.attributes:
        if name == "aria-labelledby":
            assert set(value.split()) <= set(ids)
    assert page.tags.count("table") == page.tags.count("caption") == 4
    assert ("svg", "role", "img") in page.attributes
    assert "desc" in page.tags
    headings = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(headings))


def test_what_was_not_measured_has_no_section():
    page = Page(report_html(make_unlabelled()))
    assert "svg" not in page.tags
    assert {field for field, _ in page.cells} == {"size_mb", "size_ratio", "agreement", "sqnr_db", "cosine"}


def test_a_baseline_alone_has_no_verdict():
    report = make_report()
    text = Page(report_html(make_report(evaluations=(report.baseline,)))).text
    assert "fp32 was measured alone" in text


@given(any_report)
@settings(
    max_examples=30, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # shrinking pages takes minutes
def test_any_report_is_a_page_that_nests(report):
    Page(report_html(report))


def test_a_device_s_own_times_are_shown_where_there_are_any():
    text = report_html(make_engines())
    for heading in ("Compute", "H2D", "D2H", "Enqueue"):
        assert f"{heading}" in text
    assert "by events on the GPU" in text
    assert "not comparable between them" in text
    plain = report_html(make_report())
    assert "by events on the GPU" not in plain
    assert "enqueue_ms" not in plain
