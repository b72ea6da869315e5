from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from quantkit.errors import EvaluationError
from quantkit.reporting import load_report, report_html, report_json, report_markdown

from .reports import any_report, make_report, make_unlabeled, plausible
from .samples import SAMPLES, make_classification


@given(any_report.map(plausible))
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
        ("[]", "not a quantkit report: Expected `object`, got `array`"),
        ("{}", "not a quantkit report: .* `evaluations`"),
        ('{"evaluations": [1]}', r"not a quantkit report: .* `\$\.evaluations\[0\]`"),
        (broken(lambda c: c["evaluations"][1].pop("metrics")), r"`metrics` - at `\$\.evaluations\[1\]`"),
        (broken(lambda c: c.update(classes=[{"label": "cat"}])), r"`scores` - at `\$\.classes\[0\]`"),
        (broken(lambda c: c.update(changes=[1])), r"`\$\.changes\[0\]`"),
        (broken(lambda c: c.pop("model_hash")), "model_hash"),
        (broken(lambda c: c["evaluations"][1].update(size_bytes="big")), r"\$\.evaluations\[1\]\.size_bytes"),
        (broken(lambda c: c["evaluations"][0].update(precision="int2")), r"int2.*\$\.evaluations\[0\]\.precision"),
        (broken(lambda c: c["evaluations"][0]["metrics"].update(top1="high")), r"\$\.evaluations\[0\]\.metrics"),
        (broken(lambda c: c["evaluations"][2]["latency"].update(median_ms=-1)), "median_ms"),
        (broken(lambda c: c["evaluations"][1].update(name="fp32")), "'fp32' is in the report twice"),
        (broken(lambda c: c["evaluations"].clear()), "at least one evaluation"),
        (broken(lambda c: c["preprocessing"].update(std=[0.0])), "std"),
        (broken(lambda c: c.update(warnigns=[])), "unknown field `warnigns` - at `\\$`"),
        (broken(lambda c: c["evaluations"][1].update(nots=[])), r"`nots` - at `\$\.evaluations\[1\]`"),
        (broken(lambda c: c.update(format_version=3)), "format_version 3 is not 1 to 2"),
        (
            broken(lambda c: c["evaluations"][2]["metrics"].update(top1=1.7)),
            r"`\$\.evaluations\[2\]\.metrics\.top1` is 1\.7, it must be a fraction from 0 to 1",
        ),
        (
            broken(lambda c: c["evaluations"][2]["metrics"].update(top1_difference_low=0.6211)),
            r"metrics\.top1_difference_low` is 0\.6211, it must be at most top1_difference_high, 0\.0015",
        ),
        (
            broken(lambda c: c.update(classes=[{"label": "cat", "count": -1, "scores": {}}])),
            r"`\$\.classes\[0\]\.count` is -1, it must be 0 or more",
        ),
        (
            broken(lambda c: c.update(classes=[{"label": "cat", "count": 1, "scores": {"int8": -0.5}}])),
            r"`\$\.classes\[0\]\.scores\.int8` is -0\.5",
        ),
        (broken(lambda c: c["evaluations"][1].update(num_samples=-5)), r"num_samples` is -5, it must be 0 or more"),
        (broken(lambda c: c["evaluations"][1]["metrics"].update(broken=-5)), r"metrics\.broken` is -5"),
        (broken(lambda c: c["evaluations"][1].update(size_bytes=-5)), "size_bytes` is -5"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line_with_file_and_field(tmp_path, text, words):
    path = tmp_path / "some report.json"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=words) as caught:
        load_report(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused_with_the_file_to_pass(tmp_path):
    with pytest.raises(EvaluationError, match=r"it is a folder; pass the report\.json in it$"):
        load_report(tmp_path)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="cannot read the report"):
        load_report(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(EvaluationError, match="not valid JSON"):
        load_report(tmp_path / "binary.json")


V1 = Path(__file__).with_name("report_v1.json")
"""Written by the version before format 2: a classifier on a CPU, and two engines."""


def test_a_report_of_version_1_is_read_and_shown():
    content = json.loads(V1.read_text())
    assert content["format_version"] == 1
    report = load_report(V1)
    assert [e.name for e in report.evaluations] == [e["name"] for e in content["evaluations"]]
    assert (report.format_version, report.task, report.score.name) == (2, "classify", "top1")
    assert [e.device for e in report.evaluations] == ["cpu", "cpu", "cpu", "gpu", "gpu"]
    assert "int8 is within 1% of fp32" in report_html(report)
    assert "| int8 | 80.93 | -0.10 (-0.35 to +0.15) |" in report_markdown(report)
    assert json.loads(report_json(report))["format_version"] == 2


def test_a_report_of_version_1_without_labels_has_no_score(tmp_path):
    content = json.loads(report_json(make_unlabeled()))
    content["format_version"] = 1
    for name in ("task", "score", "planned_samples", "classes", "changes", "num_changes", "tensors", "layers"):
        del content[name]
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert load_report(tmp_path / "old.json").score is None


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "detection"])
def test_samples_come_back_equal(tmp_path, name):
    report = SAMPLES[name]()
    (tmp_path / "report.json").write_text(report_json(report), encoding="utf-8")
    assert load_report(tmp_path / "report.json") == report


def test_each_tensor_class_layer_and_changed_sample_is_a_line():
    report = make_classification()
    lines = report_json(report).splitlines()
    for mark, entries in (
        ('"histogram": [', report.tensors),
        ('"scores": {', report.classes),
        ('"is_int8": ', report.layers),
        ('"thumbnail": "', report.changes),
    ):
        assert sum(mark in line for line in lines) == len(entries)
    assert '      "median_interval_ms": [' not in lines
    assert '  "model_name": "resnet20_cifar10.onnx",' in lines


def test_numbers_that_are_none_survive_where_they_may_be(tmp_path):
    report = make_classification()
    tensor = replace(report.tensors[0], sqnr_db=math.inf, amax=-math.inf)
    scored = replace(report.classes[0], scores={"fp32": math.inf, "int8": 0.5})
    report = replace(report, tensors=(tensor,), classes=(scored,))
    (tmp_path / "r.json").write_text(report_json(report))
    assert load_report(tmp_path / "r.json") == report


def test_numbers_of_numpy_are_numbers():
    report = make_report()
    first = replace(report.baseline, metrics={"top1": np.float64(0.5), "count": np.int64(3)})
    content = json.loads(report_json(replace(report, evaluations=(first,))))
    assert content["evaluations"][0]["metrics"] == {"top1": 0.5, "count": 3}
