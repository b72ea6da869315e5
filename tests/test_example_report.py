"""The report that the README links to is one that quantkit writes: rendered again, it is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantkit.reporting import load_report, report_html, report_json, report_markdown

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "docs" / "example_report"


@pytest.mark.parametrize(
    ("name", "render"), [("report.html", report_html), ("report.md", report_markdown), ("report.json", report_json)]
)
def test_it_is_what_this_version_writes(name, render):
    stored = (EXAMPLE / name).read_text(encoding="utf-8")
    assert render(load_report(EXAMPLE / "report.json")) == stored, "quantkit report docs/example_report/report.json"


def test_it_is_of_the_demo_and_linked():
    report = load_report(EXAMPLE / "report.json")
    assert report.model_name == "digits.onnx"
    assert not report.is_partial
    assert [e.name for e in report.evaluations] == ["fp32", "fp16", "int8", "int8-cpu"]
    assert any(command.startswith("quantkit evaluate --data calib_data/digits/val") for command in report.commands)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for name in ("report.html", "report.md"):
        assert f"docs/example_report/{name}" in readme
