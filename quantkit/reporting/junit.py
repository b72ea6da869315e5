"""The checks of a gate as JUnit XML, which every CI shows, and as JSON and Markdown for programs and pull requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from xml.etree import ElementTree

import msgspec

from quantkit.reporting.formatting import single_line
from quantkit.reporting.markdown import escape
from quantkit.types import GateCheck, Report, title_of


def gate_junit(report: Report, checks: Sequence[GateCheck]) -> str:
    """Writes a test suite named after the model, with a test case for each check; a broken limit is a failure.

    Its properties tell of which model and data, and on how many samples. What passed, but may not with other samples,
    says so in its case's output.
    Names are text of others: what XML does not allow in them becomes U+FFFD.
    """
    failures = sum(not check.passed for check in checks)
    suite = ElementTree.Element(
        "testsuite",
        name=single_line(f"quantkit {report.model_name}"),
        tests=str(len(checks)),
        failures=str(failures),
        errors="0",
        skipped="0",
    )
    if report.created:
        suite.set("timestamp", single_line(report.created).split("+")[0].removesuffix("Z"))
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _identity(report).items():
        ElementTree.SubElement(properties, "property", name=name, value=single_line(str(value)))
    for check in checks:
        name = f"{check.variant} {check.limit}"
        case = ElementTree.SubElement(suite, "testcase", classname="quantkit.compare", name=single_line(name))
        if check.passed:
            ElementTree.SubElement(case, "system-out").text = single_line(check.sentence)
        else:
            ElementTree.SubElement(case, "failure", message=single_line(check.sentence), type="gate")
    root = ElementTree.Element("testsuites", tests=str(len(checks)), failures=str(failures))
    root.append(suite)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def gate_json(report: Report, checks: Sequence[GateCheck]) -> str:
    """Writes `passed`, which model, data and score, and each check field by field."""
    content = {
        "passed": all(check.passed for check in checks),
        **_identity(report),
        "checks": [{**msgspec.to_builtins(check), "sentence": check.sentence} for check in checks],
    }
    return json.dumps(content, indent=2) + "\n"


def gate_markdown(report: Report, checks: Sequence[GateCheck], *, cautions: Sequence[str] = ()) -> str:
    """Writes a heading, a table of the checks and the cautions, for a job summary or a comment on GitHub."""
    passed = all(check.passed for check in checks)
    precisions = {e.name: e.precision for e in report.evaluations}
    words = title_of([precisions[check.variant] for check in checks if check.variant in precisions] or ["int8"])
    lines = [
        f"## {'✅' if passed else '❌'} {words} gate {'passed' if passed else 'failed'}: {escape(report.model_name)}",
        "",
        "| | Variant | Limit | Measured |",
        "|:--|:--|:--|:--|",
    ]
    for check in checks:
        sign = "❌" if not check.passed else "⚠️" if check.undecided else "✅"
        cells = (check.variant, check.limit, check.finding)
        lines.append(f"| {sign} | " + " | ".join(escape(cell) for cell in cells) + " |")
    for caution in cautions:
        lines += ["", f"**Caution:** {escape(caution)}"]
    return "\n".join(lines) + "\n"


def _identity(report: Report) -> dict[str, str | int | bool]:
    return {
        "model_name": report.model_name,
        "model_hash": report.model_hash,
        "dataset_fingerprint": str(report.dataset.get("fingerprint") or ""),
        "num_samples": report.baseline.num_samples,
        "is_partial": report.is_partial,
        "score": "" if report.score is None else report.score.name,
        "created": report.created,
    }
