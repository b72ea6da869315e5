"""The README shows real output and one line that runs the tests; links and paths in pages lead to files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quantkit.cli import main

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (REPOSITORY / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")


def test_one_line_runs_the_tests():
    assert re.findall(r"^pip install .*$", README, re.M)[1:] == ["pip install -e '.[test]' && pytest"]


def test_the_summary_is_that_of_the_example_report(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)  # piped text is not wrapped
    with pytest.raises(SystemExit) as ended:
        main(["report", str(REPOSITORY / "docs" / "example_report" / "report.json"), "-o", str(tmp_path)])
    assert not ended.value.code
    printed = {line.rstrip() for line in capsys.readouterr().out.splitlines()}
    shown = [block for block in re.findall(r"```\n(.*?)```", README, re.S) if "Speed-up" in block]
    assert len(shown) == 1
    assert set(shown[0].splitlines()) <= printed


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md"])
def test_links_lead_to_files(page):
    source = REPOSITORY / page
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", source.read_text(encoding="utf-8"))
    assert [target for target in targets if not (source.parent / target).exists()] == []


def test_pages_that_the_code_names_exist():
    """In messages, help and docstrings."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "quantkit").rglob("*.py"))
    named = set(re.findall(r"docs/[\w/-]+\.(?:md|json)", code))
    assert "docs/how-to/detection.md" in named
    assert [page for page in sorted(named) if not (REPOSITORY / page).exists()] == []


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How does a calibration method compute a range?", "quantkit/calibration/methods/"),
        ("Which node inputs get Q/DQ nodes?", "quantkit/graph/placement/tensorrt.py"),
        ("How is a task, method, preset, metric or runtime added?", "CONTRIBUTING.md"),
        ("What makes a table stale?", "quantkit/caches/reuse.py"),
    ],
)
def test_a_stranger_finds_the_file_in_one_line(question, answer):
    (line,) = (line for line in ARCHITECTURE.splitlines() if line.startswith(f"| {question} |"))
    assert f"`{answer}`" in line


def test_the_architecture_names_every_package():
    table = ARCHITECTURE.partition("## Packages")[2].partition("## Types")[0]
    package = (REPOSITORY / "quantkit").iterdir()
    parts = {path.stem for path in package if path.suffix in ("", ".py") and not path.name.startswith("_")}
    assert parts <= set(re.findall(r"`(\w+)`", table))


def test_files_that_the_architecture_names_exist():
    named = set(re.findall(r"`((?:quantkit|tests)/[\w./-]+)`", ARCHITECTURE))
    assert "quantkit/calibration/methods/" in named
    assert [path for path in sorted(named) if not (REPOSITORY / path).exists()] == []
