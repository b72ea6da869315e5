"""In a browser, where there is one: no column of the table of accuracies is out of sight, on a screen or phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from quantkit.reporting import report_html
from quantkit.types import Report

from .samples import make_classification

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium")

# A frame has the width of a phone, which a window cannot have.
_PAGE = """<!doctype html><iframe src="report.html" style="width:%dpx;height:2000px;border:0"></iframe><pre></pre>
<script>
const frame = document.querySelector("iframe")
frame.onload = () => {
  const found = [...frame.contentDocument.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth)
  document.querySelector("pre").textContent = JSON.stringify(found.map(e => e.getAttribute("aria-label")))
}</script>"""


def cut_tables(folder: Path, width: int, *, dark: bool) -> list[str]:
    """Labels of the tables that have to be scrolled sideways."""
    (folder / "frame.html").write_text(_PAGE % width)
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom")
    color = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    words = [str(BROWSER), *options, color, f"--user-data-dir={folder / 'profile'}", "--window-size=1600,2100"]
    words += ["--virtual-time-budget=5000", (folder / "frame.html").as_uri()]
    page = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search("<pre>(.+?)</pre>", page, re.DOTALL)
    assert found is not None, page[-500:]
    return list(json.loads(unescape(found[1])))


def with_wide_cells(report: Report) -> Report:
    """Differences and intervals as few samples give them."""
    metrics = {"top1_difference_low": -0.12345, "top1_difference_high": 0.12345, "fixed": 1234.0, "broken": 1234.0}
    evaluations = [
        replace(e, metrics={**e.metrics, **metrics} if e.is_quantized else e.metrics) for e in report.evaluations
    ]
    return replace(report, evaluations=tuple(evaluations))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1500, 1280, 390])
def test_no_table_of_numbers_is_cut(tmp_path, width, dark):
    (tmp_path / "report.html").write_text(report_html(with_wide_cells(make_classification())))
    assert "Accuracy and size" not in cut_tables(tmp_path, width, dark=dark)
