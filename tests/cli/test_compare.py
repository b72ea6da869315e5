"""The gate on reports as a CI runs it, and at the end of evaluate."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from quantkit.reporting import report_json
from tests.cli.conftest import VAL
from tests.reporting.reports import HOSTILE, make_hostile, make_report, make_unlabeled


@pytest.fixture
def saved(tmp_path):
    def save(report=None):
        path = tmp_path / "report.json"
        path.write_text(report_json(report or make_report()), encoding="utf-8")
        return path

    return save


def test_met_limits_exit_with_0(quantkit, saved):
    outcome = quantkit("compare", saved(), "--max-drop", "0.5pt", "--min-speedup", 2, "--min-agreement", 0.97)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines] == ["passed"] * 3
    assert "meets --max-drop 0.5pt" in lines[0]


def test_violated_limit_exits_with_3_and_names_it(quantkit, saved, tmp_path):
    junit, markdown = tmp_path / "out" / "gate.xml", tmp_path / "gate.md"
    outcome = quantkit(
        "compare", saved(), "--max-drop", "0.5%", "--min-speedup", 3, "--junit", junit, "--markdown", markdown
    )
    assert outcome.code == 3
    assert outcome.err == "quantkit: error: gate failed: int8 violates --min-speedup 3\n"
    assert "FAILED  int8: speed-up 2.04x over fp32" in outcome.out
    assert outcome.err.count("\n") == 1
    assert "--max-drop" not in outcome.err
    assert ElementTree.parse(junit).getroot().get("failures") == "1"
    assert "| ❌ | int8 | --min-speedup 3 |" in markdown.read_text()


def test_gate_names_are_mlperf_targets(quantkit, saved):
    outcome = quantkit("compare", saved(), "--gate", "mlperf-99", "--gate", "mlperf-99.9")
    assert outcome.code == 3
    passed, failed = outcome.out.splitlines()
    assert passed.startswith("passed  int8: Top-1 drop 0.12%")
    assert passed.endswith("meets --gate mlperf-99")
    assert failed.startswith("FAILED")
    assert "violates --gate mlperf-99.9; undecided: the interval includes the limit" in failed


def test_speedup_at_a_batch_size_has_an_interval(quantkit, saved):
    report = make_report()
    evaluations = tuple(
        replace(e, sweep=(replace(e.latency, batch_size=8, speedup_interval=None if i == 0 else (1.5, 2.5)),))
        for i, e in enumerate(report.evaluations)
    )
    path = saved(replace(report, evaluations=evaluations))
    kept = quantkit("compare", path, "--min-speedup", 2, "--at-batch", 8)
    assert kept.code == 0, kept.err
    assert "(batch size 8, 95% interval 1.5 to 2.5) meets --min-speedup 2 --at-batch 8" in kept.out
    assert quantkit("compare", path, "--min-speedup", 2, "--at-batch", 8, "--confident").code == 3
    missing = quantkit("compare", path, "--min-speedup", 2, "--at-batch", 32)
    assert missing.code == 1
    assert "--batch-sizes" in missing.err


def test_partial_report_is_refused(quantkit, saved):
    path = saved(replace(make_report(), planned_samples=50_000))
    outcome = quantkit("compare", path, "--max-drop", "5pt")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "--allow-partial" in outcome.err
    assert quantkit("compare", path, "--max-drop", "5pt", "--allow-partial").code == 0


def test_json_on_stdout_is_json_alone(quantkit, saved):
    outcome = quantkit("compare", saved(), "--min-speedup", 3, "--json")
    assert outcome.code == 3
    assert json.loads(outcome.out)["passed"] is False


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--max-drop", "1pt"], "no labels"),
        (["--min-speedup", "1"], "not timed"),
        (["--min-agreement", "0.5", "--variant", "int9"], "int9"),
    ],
)
def test_missing_number_is_an_error(quantkit, saved, words, named):
    outcome = quantkit("compare", saved(make_unlabeled()), *words)
    assert outcome.code == 1
    assert named in outcome.err


def test_unrepresentative_speedup_is_refused(quantkit, saved):
    outcome = quantkit("compare", saved(), "--min-speedup", 0.1, "--variant", "fp16")
    assert outcome.code == 1
    assert "not made for" in outcome.err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--max-drop", "much"],
        ["--min-agreement", "98"],
        ["--confident"],
        ["--min-speedup", "-1"],
        ["--gate", "mlperf"],
        ["--at-batch", "8"],
        ["--allow-partial"],
    ],
)
def test_invalid_limits_are_usage_errors(quantkit, saved, words):
    assert quantkit("compare", saved(), *words).code == 2


def test_baseline_at_chance_level_is_a_caution(quantkit, saved):
    report = make_report()
    fp32, *others = report.evaluations
    fp32 = replace(fp32, metrics={**fp32.metrics, "top1": 0.1})
    outcome = quantkit("compare", saved(replace(report, evaluations=(fp32, *others))), "--max-drop", "1pt")
    assert "caution" in outcome.out
    assert "no better than chance" in outcome.out


def test_hostile_names_cannot_write_to_the_terminal(quantkit, saved):
    outcome = quantkit("compare", saved(make_hostile()), "--max-drop", "0pt", "--variant", HOSTILE)
    assert outcome.code == 3
    assert "\x1b" not in outcome.out + outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.usefixtures("calibrated")
def test_evaluate_gates_after_the_report_is_written(quantkit, digits, tmp_path):
    words = ["evaluate", "--data", VAL, digits, "--num-samples", 100, "--variants", "int8", "-q", "-o", tmp_path / "r"]
    kept = quantkit(*words, "--latency-s", 0, "--max-drop", "5pt", "--max-size-ratio", 0.9)
    assert kept.code == 0, kept.err
    assert kept.out.count("passed  int8") == 2
    (tmp_path / "r" / "report.json").unlink()
    broken = quantkit(*words, "--latency-s", 0, "--max-size-ratio", 0.01)
    assert broken.code == 3
    assert "violates --max-size-ratio 0.01" in broken.err
    assert (tmp_path / "r" / "report.json").is_file()
    timed = quantkit(*words, "--latency-s", 0.01, "--min-speedup", 0.001)
    assert timed.code == 1
    assert "not made for" in timed.err
    assert quantkit(*words, "--max-drop", "x").code == 2
