"""A report holds no absolute path, user or host unless it is asked to, and pictures can be left out."""

import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from quantkit.reporting.privacy import without_paths, without_thumbnails
from tests.cli.conftest import CALIB, VAL
from tests.reporting.samples import make_classification


@pytest.fixture
def report(quantkit, digits, tmp_path, monkeypatch):
    """Texts of the report of an evaluation with absolute paths, typed in another folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert quantkit("calibrate", "--data", CALIB, digits, "--method", "minmax", "--num-samples", "32").code == 0

    def run(*words):
        short = ("--latency-s", "0", "--layer-samples", "0", "--num-samples", "40")
        typed = ["evaluate", "--data", str(VAL), str(digits), "--variant", f"same={digits}", *short, *words]
        monkeypatch.setattr("sys.argv", ["/usr/bin/quantkit", *typed])
        outcome = quantkit(*typed, "-o", "out")
        assert outcome.code == 0, outcome.err
        return {path.suffix: path.read_text() for path in (tmp_path / "here" / "out").iterdir()}

    return run


def test_paths_are_relative(report, tmp_path):
    for text in report().values():
        assert str(tmp_path) not in text
        assert str(VAL.parent) not in text
        assert str(Path.home()) + os.sep not in text
        assert len(platform.node()) < 4 or platform.node() not in text


def test_paths_are_kept_where_asked(report, digits):
    assert f"--data {VAL} {digits}" in report("--with-paths")[".md"]


def test_thumbnails_can_be_left_out(report):
    report("--no-thumbnails")
    pictured = make_classification()
    assert any(change.thumbnail for change in pictured.changes)
    plain = without_thumbnails(pictured)
    assert not any(change.thumbnail for change in plain.changes)
    assert [change.sample for change in plain.changes] == [change.sample for change in pictured.changes]


def test_names_that_look_like_paths_stay(tmp_path):
    pictured = make_classification()
    named = replace(pictured, warnings=("/model.0/conv/Conv_output_0 is constant", f"{tmp_path}/x/net.onnx was cut"))
    assert without_paths(named, [tmp_path / "x" / "net.onnx"]).warnings == (
        "/model.0/conv/Conv_output_0 is constant",
        "net.onnx was cut",
    )
