from __future__ import annotations

import math

import pytest

from quantkit.errors import EvaluationError, OutputError
from quantkit.reporting import load_report, report_html, report_markdown, write_report

from .reports import make_report


def test_three_files_of_one_report(tmp_path):
    report = make_report()
    paths = write_report(report, tmp_path / "new" / "folder")
    assert {form: path.name for form, path in paths.items()} == {
        "json": "report.json",
        "markdown": "report.md",
        "html": "report.html",
    }
    assert load_report(paths["json"]) == report
    assert paths["markdown"].read_text(encoding="utf-8") == report_markdown(report)
    assert paths["html"].read_text(encoding="utf-8") == report_html(report)
    assert sorted(path.name for path in paths["json"].parent.iterdir()) == ["report.html", "report.json", "report.md"]


def test_a_report_that_cannot_be_stored_leaves_the_old_files(tmp_path):
    before = {name: path.read_bytes() for name, path in write_report(make_report(), tmp_path).items()}
    with pytest.raises(EvaluationError):
        write_report(make_report(dataset={"x": math.nan}), tmp_path)
    assert {name: path.read_bytes() for name, path in write_report(make_report(), tmp_path).items()} == before


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_report(make_report(), tmp_path / "file")
