from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import Phase, given, settings

from quantkit.reporting import report_html
from quantkit.reporting.changes import change_groups
from quantkit.reporting.classes import class_tables
from quantkit.reporting.columns import terms_by_field
from quantkit.reporting.coverage import coverages
from quantkit.reporting.html import slug
from quantkit.reporting.tensors import tensor_tables
from quantkit.reporting.variants import speed_rows, sweep_rows, variant_rows

from .reports import HOSTILE, any_report, cells, make_engines, make_hostile, make_report, make_unlabeled
from .samples import SAMPLES, make_classification, make_hostile_everywhere, make_partial

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects tags, attributes, text and cells by field, and fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: list[tuple[str, str]] = []
        self.untraced: list[str] = []
        self.words: list[str] = []
        self._open: list[tuple[str, int | None, str]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in named.items()]
        cell = None
        if "data-field" in named:
            cell = len(self.cells)
            self.cells.append((named["data-field"], ""))
        if tag not in VOID:
            self._open.append((tag, cell, named.get("class", "")))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        tags = [tag for tag, _, _ in self._open]
        if "style" in tags or "script" in tags:
            return
        self.words.append(data)
        cells = [cell for _, cell, _ in self._open if cell is not None]
        if cells:
            field, text = self.cells[cells[-1]]
            self.cells[cells[-1]] = (field, " ".join(f"{text}{data}".split()) + " " * data.endswith(" "))
        elif re.search(r"\d", data) and "td" in tags and not any(c == "metrics" for _, _, c in self._open):
            self.untraced.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def shown(self, field: str) -> list[str]:
        """Texts of the cells of a field, as a report in plain signs has them."""
        found = (text.strip() for name, text in self.cells if name == field)
        return [text.replace("−", "-").replace("×", "x").removesuffix("*") for text in found]


@cache
def sample_page(name: str) -> Page:
    """The page of a sample, which several tests look at."""
    return Page(report_html(SAMPLES[name]()))


def test_a_variant_that_has_not_run_on_tensorrt_is_called_expected_there():
    found = re.findall(r"<bdi>(.*?)</bdi> <span class=\"below\"><bdi>expected on", report_html(make_report()))
    assert found == ["fp16"]


def test_every_number_stands_where_its_row_is_and_is_that_of_the_report():
    report = make_classification()
    page = sample_page("classification")
    rows, swept = variant_rows(report), sweep_rows(report)
    lead = 2  # int8, whose key figures stand before the tables
    for field in ("score", "top5", "mlperf", "flips", "p_value", "sqnr_db", "cosine", "size_mb"):
        assert page.shown(field) == cells("accuracy", rows, field), field
    for field in ("difference", "agreement", "size_ratio"):
        assert page.shown(field) == cells("accuracy", [rows[lead], *rows], field), field
    assert page.shown("interval") == cells("accuracy", [rows[lead], *rows[1:]], "interval")
    for field in ("median_ms", "speedup"):
        assert page.shown(field) == cells("speed", [rows[lead], *rows, *swept], field), field
    for field in ("p90_ms", "p90_interval", "p99_ms", "p99_interval", "throughput", "batch_size"):
        assert page.shown(field) == cells("speed", [*rows, *swept], field), field


def test_every_number_of_classes_samples_layers_and_coverage_too():
    report = make_classification()
    page = sample_page("classification")
    order = ("int8", "int8-minmax", "fp16")
    tables = sorted(class_tables(report), key=lambda table: order.index(table.variant))
    rows = [row for table in tables for row in table.rows]
    assert rows
    for field in ("class_count", "class_before", "class_after", "class_change", "class_interval"):
        assert page.shown(field) == cells("classes", rows, field), field
    groups = [group for found in change_groups(report).values() for group in found]
    for field in ("change_shown", "change_total"):
        assert page.shown(field) == [getattr(group, field) for group in groups], field
    tensors = [row for table in tensor_tables(report) for row in (*table.worst, *table.all)]
    for field in ("tensor_position", "tensor_sqnr", "tensor_own_sqnr", "tensor_amax", "tensor_range", "tensor_clipped"):
        assert page.shown(field) == cells("tensors", tensors, field), field
    counts = [count for coverage in coverages(report) for count in coverage.rows]
    for field in ("int8_count", "operator_count"):
        assert page.shown(field) == cells("coverage", counts, field), field


def test_every_number_of_a_device_too():
    report = SAMPLES["detection"]()
    page = Page(report_html(report))
    rows = speed_rows(report)
    for field in ("compute_p99_ms", "h2d_ms", "d2h_ms", "enqueue_ms"):
        assert page.shown(field) == cells("query", rows, field), field
    assert page.shown("compute_ms") == cells("speed", [*rows, *sweep_rows(report)], "compute_ms")
    assert page.shown("score") == ["39.14", "39.14", "39.12", "37.21"]


@pytest.mark.parametrize("name", SAMPLES)
def test_no_number_is_without_a_definition(name):
    report = SAMPLES[name]()
    page = sample_page(name)
    ids = {value for _, attribute, value in page.attributes if attribute == "id"}
    assert page.untraced == []
    terms = terms_by_field(report)
    for field in {field for field, _ in page.cells}:
        assert slug(terms[field].name) in ids, field
    assert "Glossary" in page.text
    for _, attribute, value in page.attributes:
        if attribute == "href":
            assert value.startswith("#")
            assert value[1:] in ids, value


def test_every_fact_is_on_the_page():
    text = Page(report_html(make_report())).text
    for words in (
        "resnet20.onnx",
        "int8 is within 1% of fp32 and runs 2.04× as fast on this CPU.",
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
        "one call at batch size 4",
        "1,234 calls",
        "pass MLPerf 99% of fp32",
        "inconclusive MLPerf 99.9% of fp32",
    ):
        assert words in text, words


def test_commands_are_there_to_be_copied():
    page = sample_page("classification")
    assert "pre" in page.tags
    for command in make_classification().commands:
        assert command in page.text


def test_pictures_are_shown_and_described():
    page = sample_page("classification")
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    texts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert sources == [c.thumbnail for c in make_classification().changes]
    assert (
        texts[0]
        == "Sample airplane/0137.jpg: ground truth airplane; fp32 predicts airplane (91%), int8 predicts bird (48%)"
    )
    assert all(texts)


def test_a_partial_report_says_so_before_everything():
    text = report_html(make_partial())
    assert "<title>Partial: resnet20" in text
    words = Page(text).text
    assert words.index("Partial: 200 of 10,000 samples; interrupted") < words.index("no significant difference")
    assert "Partial" not in Page(report_html(make_report())).text


@pytest.mark.parametrize("report", [make_report(), make_unlabeled(), make_hostile(), make_hostile_everywhere()])
def test_it_asks_for_nothing_from_elsewhere(report):
    text = report_html(report)
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "base", "form", "b"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("srcset", "action")
        assert name != "src" or re.fullmatch(r"data:image/(png|jpeg|webp);base64,[A-Za-z0-9+/=]+", value)
        assert name != "href" or value.startswith("#")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_only_pictures_of_pixels_are_taken():
    assert "img" not in Page(report_html(make_hostile_everywhere())).tags


def test_hostile_names_are_text():
    text = report_html(make_hostile())
    page = Page(text)
    assert "<script" not in text
    assert "<script>alert('x')</script>" in page.text
    assert HOSTILE not in text
    assert page.tags.count("html") == 1


@pytest.mark.parametrize("name", SAMPLES)
def test_it_can_be_read_without_seeing(name):
    page = sample_page(name)
    ids = [value for _, attribute, value in page.attributes if attribute == "id"]
    assert len(ids) == len(set(ids))
    for _, attribute, value in page.attributes:
        if attribute in ("aria-labelledby", "aria-describedby"):
            assert set(value.split()) <= set(ids)
    assert page.tags.count("table") == page.tags.count("caption") > 0
    assert ("svg", "role", "img") in page.attributes
    for tag in ("desc", "nav", "main", "header", "footer"):
        assert tag in page.tags
    assert page.tags.count("th") == sum((tag, name) == ("th", "scope") for tag, name, _ in page.attributes)
    headings = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(headings))


def luminance(color):
    parts = (
        [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        if len(color) == 7
        else [int(c, 16) / 15 for c in color[1:]]
    )
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_contrast_in_light_and_dark_and_on_paper():
    """WCAG 2.2, 1.4.3: at least 4.5 to 1."""
    style = report_html(make_report()).split("<style>")[1].split("</style>")[0]
    palettes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(palettes) == 3
    for palette in palettes:
        for front, back in (
            *((name, "paper") for name in ("ink", "soft", "accent", "good", "bad", "caution")),
            ("ink", "faint"),
            ("ink", "caution-back"),
            ("paper", "bad"),
        ):
            light, dark = sorted((luminance(palette[front]), luminance(palette[back])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back, palette)


def test_what_was_not_measured_has_no_section():
    page = Page(report_html(make_unlabeled()))
    assert "svg" not in page.tags
    assert {field for field, _ in page.cells} == {
        "size_mb",
        "size_ratio",
        "agreement",
        "agreement_interval",
        "sqnr_db",
        "cosine",
        "reason_count",
    }


def test_a_baseline_alone_has_no_verdict():
    report = make_report()
    text = Page(report_html(make_report(evaluations=(report.baseline,)))).text
    assert "Only fp32 was measured" in text


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
    assert "GPU events, as in trtexec" in text
    assert "not comparable across them" in text
    plain = report_html(make_report())
    assert "GPU events, as in trtexec" not in plain
    assert "enqueue_ms" not in plain


def test_commands_in_caveats_are_code():
    report = replace(make_classification(), warnings=("run `quantkit doctor` & see", "an odd ` <b>"))
    text = report_html(report)
    assert "run <code>quantkit doctor</code> &amp; see" in text
    assert "an odd  &lt;b&gt;" in text


def test_a_class_of_one_sample_is_worth_all_points():
    report = make_classification()
    few = tuple(replace(c, count=1) for c in report.classes)
    assert "1 sample, each worth 100 points." in report_html(replace(report, classes=few))
