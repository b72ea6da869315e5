from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given

from quantkit.errors import EvaluationError
from quantkit.reporting import load_report, report_json

from .reports import any_report, make_report


@given(any_report)
def test_any_report_comes_back_equal(tmp_path_factory, report):
    path = tmp_path_factory.getbasetemp() / "report.json"
    text = report_json(report)
    path.write_text(text, encoding="utf-8")
    back = load_report(path)
    assert back == report
    assert report_json(back) == text


def test_infinite_metrics_are_words_that_any_parser_takes(tmp_path):
    report = make_report()
    values = {"sqnr_db": math.inf, "worst": -math.inf, "odd": math.nan}
    report = replace(report, evaluations=(replace(report.baseline, metrics=values),))
    text = report_json(report)
    assert json.loads(text, parse_constant=pytest.fail)["evaluations"][0]["metrics"] == {
        "sqnr_db": "inf",
        "worst": "-inf",
        "odd": "nan",
    }
    (tmp_path / "r.json").write_text(text)
    back = load_report(tmp_path / "r.json").baseline.metrics
    assert (back["sqnr_db"], back["worst"]) == (math.inf, -math.inf)
    assert math.isnan(back["odd"])


def test_infinity_elsewhere_is_refused_by_name():
    with pytest.raises(EvaluationError, match=r"report\.dataset\.mean brightness is inf"):
        report_json(make_report(dataset={"mean brightness": math.inf}))


def broken(change):
    content = json.loads(report_json(make_report()))
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        (report_json(make_report())[:300], "not valid JSON"),
        ("[]", "no quantkit report"),
        ("{}", "no quantkit report"),
        ('{"evaluations": [1]}', "no quantkit report"),
        (broken(lambda c: c.pop("model_hash")), "model_hash"),
        (broken(lambda c: c["evaluations"][1].update(size_bytes="big")), r"\$\.evaluations\[1\]\.size_bytes"),
        (broken(lambda c: c["evaluations"][0].update(precision="int4")), r"int4.*\$\.evaluations\[0\]\.precision"),
        (broken(lambda c: c["evaluations"][0]["metrics"].update(top1="high")), r"\$\.evaluations\[0\]\.metrics"),
        (broken(lambda c: c["evaluations"][2]["latency"].update(median_ms=-1)), "median_ms"),
        (broken(lambda c: c["evaluations"][1].update(name="fp32")), "'fp32' is in the report twice"),
        (broken(lambda c: c["evaluations"].clear()), "at least one evaluation"),
        (broken(lambda c: c["preprocessing"].update(std=[0.0])), "std"),
        (broken(lambda c: c.update(warnigns=[])), "unknown field `warnigns` - at `\\$`"),
        (broken(lambda c: c["evaluations"][1].update(nots=[])), r"`nots` - at `\$\.evaluations\[1\]`"),
        (broken(lambda c: c.update(format_version=3)), "format_version 3 is not 1 to 2"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line_with_file_and_field(tmp_path, text, words):
    path = tmp_path / "some report.json"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=words) as caught:
        load_report(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="cannot read the report"):
        load_report(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(EvaluationError, match="not valid JSON"):
        load_report(tmp_path / "binary.json")
