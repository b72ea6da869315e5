"""Notices reach the caller and the log, once each; the old keyword `tell` still works and says so."""

import logging
import re
import subprocess
import sys

import pytest

from quantkit.notices import Notice, accepts_tell, announcing, join_names, logs_duration, visible

INFO = Notice("info", "reuse", "Reusing m.calib.json.")
WARNING = Notice("warning", "samples", "Only 12 calibration samples; 100-500 are recommended.")


def test_notices_are_logged_at_their_level_and_handed_on(caplog):
    caplog.set_level(logging.INFO, "quantkit")
    received = []
    notify = announcing(received.append)
    notify(INFO)
    notify(WARNING)
    assert received == [INFO, WARNING]
    assert [(r.name, r.levelname, r.message, r.topic) for r in caplog.records] == [
        ("quantkit", "INFO", INFO.text, "reuse"),
        ("quantkit", "WARNING", WARNING.text, "samples"),
    ]


def test_functions_that_call_each_other_log_a_notice_once(caplog):
    announcing(announcing(announcing(None)))(WARNING)
    assert len(caplog.records) == 1


def test_a_program_without_logging_prints_nothing():
    code = "from quantkit.notices import *; announcing(None)(Notice('warning', 'samples', 'few'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@accepts_tell
def notify_all(notify=None):
    for notice in (INFO, WARNING):
        announcing(notify)(notice)


def test_tell_still_gets_lines_and_is_deprecated():
    lines = []
    with pytest.warns(DeprecationWarning, match="pass notify="):
        notify_all(tell=lines.append)
    assert lines == [INFO.text, f"warning: {WARNING.text}"]
    with pytest.warns(DeprecationWarning, match="notify"):
        notify_all(tell=None)


def test_names_beyond_the_first_few_are_counted():
    assert join_names(["a", "b"]) == "a, b"
    assert join_names(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_invisible_signs_are_written_out():
    assert visible("a\x1b[31m\nb ü") == "a\\x1b[31m\\nb ü"


@logs_duration
def measure(path):
    return path


def test_durations_are_logged_with_the_file(caplog):
    caplog.set_level(logging.DEBUG)
    assert measure("m.onnx") == "m.onnx"
    (record,) = caplog.records
    assert (record.name, record.levelname) == (__name__, "DEBUG")
    assert re.fullmatch(r"measure m\.onnx took \d+\.\d\d s", record.message)
