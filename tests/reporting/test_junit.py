import json
from dataclasses import replace
from xml.etree import ElementTree

from hypothesis import given

from quantkit.evaluation import Limits, check_limits
from quantkit.evaluation.limits import Drop
from quantkit.reporting import cautions, gate_json, gate_junit, gate_markdown
from quantkit.types import GateCheck
from tests.reporting.reports import HOSTILE, any_report, make_hostile, make_report

LIMITS = Limits(max_drop=Drop(0.2), min_speedup=3)


def checks_of(report):
    return check_limits(report, LIMITS)


def test_junit_counts_cases_and_failures():
    report = make_report()
    root = ElementTree.fromstring(gate_junit(report, checks_of(report)))
    assert root.tag == "testsuites"
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    assert suite.get("timestamp") == "2026-11-22T14:03:11"
    properties, drop, speed = suite
    told = {p.get("name"): p.get("value") for p in properties}
    assert (told["model_hash"], told["num_samples"], told["score"]) == ("9f2c7c0a", "10000", "top1")
    assert drop.get("name") == "int8 --max-drop 0.2pt"
    assert drop.find("failure") is None
    assert "violates --min-speedup 3" in speed.find("failure").get("message")


def test_json_holds_every_check():
    report = make_report()
    content = json.loads(gate_json(report, checks_of(report)))
    assert content["passed"] is False
    assert content["model_hash"] == report.model_hash
    assert (content["is_partial"], content["num_samples"], content["score"]) == (False, 10_000, "top1")
    assert [c["passed"] for c in content["checks"]] == [True, False]
    assert content["checks"][0]["interval"] == [-0.0015, 0.0035]
    assert content["checks"][1]["bound"] == 3


def test_the_format_is_named():
    report = make_report()
    fp8 = tuple(replace(e, precision="fp8") if e.name == "int8" else e for e in report.evaluations)
    report = replace(report, evaluations=fp8)
    assert gate_markdown(report, checks_of(report)).startswith("## ❌ FP8 gate failed: resnet20.onnx")


def test_markdown_is_a_table_with_a_row_for_each_check():
    report = make_report()
    text = gate_markdown(report, checks_of(report), cautions=["mind the | pipe"])
    assert text.startswith("## ❌ INT8 gate failed: resnet20.onnx")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert rows[2].startswith("| ⚠️ | int8 | --max-drop 0.2pt | ")
    assert rows[3].startswith("| ❌ | int8 | --min-speedup 3 | ")
    assert "mind the \\| pipe" in text
    assert "✅ INT8 gate passed" in gate_markdown(report, checks_of(report)[:1])


def test_a_partial_report_is_called_so_everywhere():
    report = replace(make_report(), planned_samples=50_000)
    checks = check_limits(report, replace(LIMITS, allow_partial=True))
    assert json.loads(gate_json(report, checks))["is_partial"] is True
    properties = ElementTree.fromstring(gate_junit(report, checks))[0][0]
    assert ("is_partial", "True") in [(p.get("name"), p.get("value")) for p in properties]
    text = gate_markdown(report, checks, cautions=cautions(report, checks))
    assert text.count("interrupted") == 1
    assert "**Caution:** Partial: 10,000 of 50,000 samples; interrupted." in text


def test_hostile_names_stay_text():
    report = make_hostile()
    check = GateCheck(HOSTILE, "drop", HOSTILE, False, 0.0, 1.0, False, HOSTILE)
    root = ElementTree.fromstring(gate_junit(report, [check]))
    assert [child.tag for child in root[0]] == ["properties", "testcase"]
    assert "\x1b" not in gate_junit(report, [check])
    markdown = gate_markdown(report, [check], cautions=[HOSTILE])
    assert "<script" not in markdown.replace("\\<script", "")
    assert len([line for line in markdown.splitlines() if line.startswith("|")]) == 3


@given(any_report)
def test_any_names_make_well_formed_xml(report):
    checks = [GateCheck(e.name, "size", e.backend, True, 1.0, 1.0, False, e.name) for e in report.evaluations]
    assert ElementTree.fromstring(gate_junit(report, checks))[0].get("failures") == "0"
