from __future__ import annotations

import csv
import io
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from quantkit.errors import BackendUnavailableError, EvaluationError
from quantkit.reporting.decision import is_expected
from quantkit.reporting.figure import chart_svg, tables_csv, write_chart

from .reports import make_hostile, make_report, make_unlabeled
from .samples import make_classification


@pytest.mark.parametrize("make", [make_report, make_classification, make_hostile])
def test_the_chart_is_a_document_of_its_own(make):
    report = make()
    root = ElementTree.fromstring(chart_svg(report))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not root.findall(".//{http://www.w3.org/2000/svg}script")
    points, names = (root.findall(f".//{{*}}{tag}") for tag in ("path", "text[@class='legend']"))
    assert len([path for path in points if path.get("class", "").startswith("dot ")]) == 2 * len(names) >= 4


def test_no_two_of_many_variants_look_alike():
    report = make_report()
    copies = tuple(replace(report.evaluations[2], name=f"variant {i}") for i in range(9))
    root = ElementTree.fromstring(chart_svg(replace(report, evaluations=(report.baseline, *copies))))
    dots = [path for path in root.findall(".//{*}path") if path.get("class", "").startswith("dot ")]
    looks = [(path.get("class").removesuffix(" hollow"), path.get("d")) for path in dots]
    assert len(looks) == 2 * 10  # each in the chart and in the legend
    assert len(set(looks)) == 10


def test_a_report_without_times_has_no_chart(tmp_path):
    with pytest.raises(EvaluationError, match="has no chart: two variants must be timed"):
        chart_svg(make_unlabeled())
    with pytest.raises(EvaluationError, match=r"a chart is .svg or .png"):
        write_chart(make_report(), tmp_path / "chart.pdf")


def test_names_stand_on_lines_with_a_halo_and_a_png_is_opaque(tmp_path, monkeypatch):
    texts = ElementTree.fromstring(chart_svg(make_report())).findall(".//{*}text")
    shown = [(text.get("class"), text.text) for text in texts if text.get("class", "").endswith("name")]
    assert shown[:2] == [("halo name", shown[0][1]), ("name", shown[0][1])]

    class Drawn:
        def svg2png(self, svg: bytes, *, scale: float, background_color: str) -> bytes:
            return background_color.encode()

    monkeypatch.setitem(sys.modules, "cairosvg", Drawn())
    write_chart(make_report(), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes() == b"white"


def test_a_png_needs_cairosvg(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install cairosvg, or write an \.svg"):
        write_chart(make_report(), tmp_path / "chart.png")
    write_chart(make_report(), tmp_path / "chart.svg")
    assert (tmp_path / "chart.svg").read_text(encoding="utf-8") == chart_svg(make_report())


def test_tables_are_csv_with_their_intervals():
    report = make_classification()
    tables = {name: list(csv.reader(io.StringIO(text))) for name, text in tables_csv(report).items()}
    assert {"accuracy", "sweep", "classes", "tensors"} <= set(tables)
    assert all(len({len(row) for row in rows}) == 1 for rows in tables.values())
    rows = [dict(zip(tables["accuracy"][0], row, strict=True)) for row in tables["accuracy"][1:]]
    int8 = next(row for row in rows if row["Variant"] == "int8")
    assert int8["Top-1 (%)"] == "80.93"
    assert int8["Agreement, 95% interval"] == "97.15 to 97.77"
    assert {row["Variant"]: row["Note"] for row in rows} == {
        e.name: "expected on TensorRT" if is_expected(report, e) else "" for e in report.evaluations
    }
    assert any(row["Note"] for row in rows)
    assert (rows[0]["Difference (points)"], rows[0]["Ratio"]) == ("", "1.00")  # numbers, or nothing
    throughput = tables["sweep"][0].index("Throughput (samples/s)")
    assert max(float(row[throughput]) for row in tables["sweep"][1:]) > 1000


def test_tables_of_several_variants_name_them():
    report = make_classification()
    tables = {name: list(csv.DictReader(io.StringIO(text))) for name, text in tables_csv(report).items()}
    for name in ("classes", "changes", "tensors", "coverage"):
        assert {row["Variant"] for row in tables[name]} <= {e.name for e in report.evaluations}
        assert all(heading.strip() for heading in tables[name][0])
    assert len({row["Variant"] for row in tables["classes"]}) > 1
    assert {"variant (%)", "variant, 95% interval"} <= tables["classes"][0].keys()
    aside = [e.name for e in report.evaluations if e.latency and not e.representative]
    noted = [row["Variant"] for row in tables["speed"] if row.get("Note")]
    assert noted == aside
