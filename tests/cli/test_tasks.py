"""Every task as it is typed: calibrate, evaluate, and what the report says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quantkit.reporting import load_report
from quantkit.significance import DIFFERING

from .. import detector, segmenter
from .conftest import CALIB, VAL

QUICK = ("--latency-s", "0", "--layer-samples", "8")


def test_detect_task_reports_map(quantkit, tmp_path):
    model = tmp_path / "net.onnx"
    detector.make_detector(model)
    images, labels = detector.make_images(tmp_path / "data", count=12)
    prepare = ("--preprocess", "unit", "--resize", "letterbox")
    made = quantkit("calibrate", "--data", images, model, "--method", "minmax", *prepare)
    assert made.code == 0, made.err
    task = ("--task", "detect", "--labels", labels, "--detections", "yolov8")
    done = quantkit("evaluate", "--data", images, model, *task, *QUICK, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    report = load_report(tmp_path / "out" / "report.json")
    assert (report.task, report.score.name) == ("detect", "map")
    assert report.baseline.metrics["map"] > 0.8
    assert all(DIFFERING in e.metrics for e in report.evaluations[1:])
    assert not any(report.difference_interval(e) for e in report.evaluations[1:])  # of 12 images
    assert report.dataset["labels"] == labels.name
    assert report.dataset["num_objects"] > 12
    assert len(report.classes) == report.dataset["num_classes"]
    assert "mAP" in done.out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "mAP" in page
    assert "--task detect" not in page or "quantkit evaluate" in page


def test_a_decoder_of_the_user_finds_what_the_layout_does(quantkit, tmp_path):
    model = detector.make_detector(tmp_path / "net.onnx")
    images, labels = detector.make_images(tmp_path / "data", count=8)
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def rows(outputs, input_size):\n"
        "    for x, y, w, h, *scores in outputs['output0']:\n"
        "        scores = np.array(scores)\n"
        "        boxes = np.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), axis=1)\n"
        "        yield boxes, scores.max(axis=0), scores.argmax(axis=0)\n"
    )
    options = ("--data", images, "--preprocess", "unit", "--resize", "letterbox", "--variants", "fp32", *QUICK)
    found = {}
    for reading in (("--detections", "yolov8"), ("--decoder", f"{tmp_path / 'mine.py'}:rows")):
        done = quantkit("evaluate", model, *options, "--task", "detect", "--labels", labels, *reading, "-o", tmp_path)
        assert done.code == 0, done.err
        report = load_report(tmp_path / "report.json")
        found[reading[0]] = report.baseline.metrics["map"]
    assert found["--decoder"] == pytest.approx(found["--detections"], abs=0.01)
    assert re.fullmatch(r"mine\.py:rows \(source [0-9a-f]{12}\)", report.dataset["decoder"])
    done = quantkit(
        "evaluate", model, *options, "--task", "detect", "--labels", labels, *reading, "--detections", "ssd"
    )
    assert "--detections and --decoder exclude each other" in done.err


@pytest.mark.slow
def test_documented_example_is_reproducible(quantkit, tmp_path, monkeypatch):
    """By its own code and commands; to half a point, since runtimes round in their own ways."""
    text = (
        (Path(__file__).parents[2] / "docs" / "how-to" / "detection.md")
        .read_text(encoding="utf-8")
        .partition("## An example")[2]
    )
    monkeypatch.chdir(tmp_path)
    exec(text.partition("```python\n")[2].partition("```")[0], {})
    commands = [
        line.removeprefix("$ quantkit ").split() for line in text.splitlines() if line.startswith("$ quantkit ")
    ]
    for words in commands:
        done = quantkit(*words)
        assert done.code == 0, done.err
    shown = {row[1].rstrip("*†"): float(row[2]) for row in re.findall(r"^( (\S+) +(\d\S+) .*x)$", text, re.MULTILINE)}
    report = load_report(tmp_path / "squares.report" / "report.json")
    measured = {e.name: 100 * e.metrics["map"] for e in report.evaluations}
    # The weights of int8-cpu have fewer bits on processors whose products saturate.
    bounds = {name: 0.6 if name == "int8-cpu" else 0.5 for name in shown}
    assert {name for name in shown if abs(measured[name] - shown[name]) > bounds[name]} == set()
    assert measured.keys() == shown.keys()
    broken = report.num_changes["int8-cpu"]
    assert broken["broken"] > 20 * broken.get("fixed", 0)
    assert next(change for change in report.changes if change.variant == "int8-cpu").severity > 0.4


def test_segment_task_reports_miou(quantkit, tmp_path):
    model = segmenter.write_segmenter(tmp_path / "net.onnx")
    images, masks = segmenter.write_scenes(tmp_path / "scenes", 12)
    assert quantkit("calibrate", "--data", images, model, "--preprocess", "unit", "--method", "minmax").code == 0
    task = ("--task", "segment", "--labels", masks)
    done = quantkit("evaluate", "--data", images, model, *task, *QUICK, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    report = load_report(tmp_path / "out" / "report.json")
    assert (report.task, report.score.name) == ("segment", "miou")
    assert report.baseline.metrics["miou"] > 0.8
    assert {"pixel_accuracy", "miou"} <= report.baseline.metrics.keys()
    assert all(DIFFERING in e.metrics for e in report.evaluations[1:])
    assert not any(report.difference_interval(e) for e in report.evaluations[1:])  # of 12 images
    assert "mIoU" in done.out


def test_custom_metric_is_reported(quantkit, tmp_path):
    model = segmenter.write_segmenter(tmp_path / "net.onnx")
    images, masks = segmenter.write_scenes(tmp_path / "scenes", 12)
    code = segmenter.write_metric(tmp_path / "mine.py", masks)
    assert quantkit("calibrate", "--data", images, model, "--preprocess", "unit", "--method", "minmax").code == 0
    task = ("--task", "custom", "--postprocess", f"{code}:red_share", "--metric", f"{code}:RedError")
    done = quantkit("evaluate", "--data", images, model, *task, *QUICK, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    report = load_report(tmp_path / "out" / "report.json")
    assert report.task == "custom"
    assert not report.score.higher_is_better
    assert report.score.label in done.out


def test_task_none_reports_agreement(quantkit, digits):
    done = quantkit("evaluate", "--data", VAL, digits, "--task", "none", *QUICK)
    assert done.code == 0, done.err
    assert "agree" in done.out
    assert "top-1" not in done.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--task", "detect", "--labels", "nowhere.json", "--detections", "yolov8"), "nowhere.json"),
        (("--task", "detect", "--labels", ".", "--detections", "yolo99"), "yolo99"),
        (("--task", "segment", "--labels", "nowhere"), "nowhere"),
        (("--task", "custom", "--metric", "nowhere.py:Psnr"), "nowhere.py"),
        (("--task", "custom", "--metric", "Psnr"), "file.py:"),
        (("--task", "none", "--labels", "masks"), "--labels"),
        (("--batch-sizes", "1,x"), "--batch-sizes"),
        (("--batch-sizes", "0"), "--batch-sizes"),
        (("--layer-samples", "-1"), "--layer-samples"),
    ],
)
def test_invalid_task_option_is_named(quantkit, digits, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    done = quantkit("evaluate", "--data", VAL, digits, *words)
    assert done.code in (1, 2)
    error = [line for line in done.err.splitlines() if line.startswith("quantkit: error:")]
    assert len(error) == 1
    assert named in error[0]
    assert "Traceback" not in done.err
    assert not (tmp_path / "digits.report").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--task", "none", "--max-drop", "1%"), "--max-drop"),
        (("--task", "none", "--gate", "mlperf-99"), "no score"),
        (("--min-speedup", "1.2", "--latency-s", "0"), "--min-speedup"),
        (("--min-speedup", "1.2", "--at-batch", "8"), "--at-batch"),
        (("--max-drop", "1%", "--gate-variant", "int4"), "--gate-variant"),
    ],
)
def test_unusable_limit_is_refused_before_the_run(quantkit, digits, tmp_path, words, named):
    done = quantkit("evaluate", "--data", VAL, digits, *words)
    assert done.code == 2
    assert named in done.err
    assert "data:" not in done.err
    assert not (tmp_path / "digits.report").exists()


@pytest.mark.parametrize(
    "words", [("--variants", "fp32,FP8,int8-cpu"), ("--gate-variant", "int8"), ("--calibrate-data", CALIB)]
)
def test_a_speed_that_cannot_be_gated_is_refused_before_the_run(quantkit, digits, words):
    done = quantkit("evaluate", "--data", VAL, digits, "--min-speedup", "1.01", *words)
    assert done.code == 1
    assert "can only be timed on a device it is not made for" in done.err
    assert "data:" not in done.err


@pytest.mark.parametrize("name", ["fp8", "int4", "int4+int8"])
def test_a_format_that_is_asked_for_can_be_gated(quantkit, digits, name):
    words = ("evaluate", "--data", VAL, digits, "--min-agreement", "0.9", "--gate-variant", name)
    done = quantkit(*words, "--variants", name.upper())
    assert done.code == 1
    assert "digits.calib.json is missing" in done.err
    assert quantkit(*words).code == 2


def test_sigterm_removes_temporary_files(digits, tmp_path):
    """SIGTERM, as `timeout` and CI services send it: exit code 143, no temporary folder."""
    import os
    import signal
    import subprocess
    import sys
    import time

    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "quantkit", "evaluate", "--data", str(VAL), str(digits), "--latency-s", "600"],
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    for _ in range(600):
        if any(temporary.glob("quantkit-*")):  # ONNX Runtime leaves a file of its own
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert not list(temporary.glob("quantkit-*"))
    assert not (tmp_path / "digits.report").exists()


def test_ctrl_c_writes_a_partial_report(quantkit, digits, tmp_path, monkeypatch):
    import signal

    from quantkit.commands import evaluate as evaluation

    def make_batches(*arguments, original=evaluation.make_batches, **options):
        for i, batch in enumerate(original(*arguments, **options)):
            if i == 3:
                signal.raise_signal(signal.SIGINT)
            yield batch

    monkeypatch.setattr(evaluation, "make_batches", make_batches)
    monkeypatch.setattr("quantkit.cli.leaves_threads", lambda: False)  # this process goes on
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        words = ("--batch-size", "16", "--variant", f"copy={digits}", "--min-speedup", "99")
        done = quantkit("evaluate", "--data", VAL, digits, *words)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.code == 130
    assert "Interrupted after 64 of 597 samples" in done.err
    assert "FAILED" not in done.out
    folder = tmp_path / "digits.report"
    assert load_report(folder / "report.json").planned_samples == 597
    for name in ("report.html", "report.md"):
        assert "Partial: 64 of 597 samples" in (folder / name).read_text()
    assert "artial" in done.out
    judged = quantkit("compare", folder / "report.json", "--variant", "fp16", "--max-drop", "5%")
    assert judged.code == 1
    assert "partial" in judged.err
