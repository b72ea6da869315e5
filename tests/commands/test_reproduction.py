"""The command that makes a table again, where the table says that all samples were taken."""

import shlex
from dataclasses import replace

import pytest

from quantkit.commands.calibrate import calibrate
from quantkit.commands.reproduction import calibrate_command
from tests.cli.conftest import CALIB, DIGITS


@pytest.mark.parametrize(("asked", "stated"), [(64, 64), (300, None), (512, None)])
def test_the_number_asked_for_is_kept_only_where_it_decides(asked, stated):
    table = calibrate(DIGITS, CALIB, num_samples=asked, method="entropy", progress=False)
    assert table.settings["num_samples"] == stated
    words = shlex.split(calibrate_command(table, "m.onnx"))
    given = int(words[words.index("--num-samples") + 1]) if "--num-samples" in words else 512
    assert given == stated or (stated is None and given >= 300)


@pytest.mark.parametrize(("count", "least"), [(40, 80), (256, 512), (511, 1000), (1000, 2000), (99_999, 200_000)])
def test_all_samples_are_taken_again_though_some_could_not_be_read(count, least):
    table = replace(calibrate(DIGITS, CALIB, num_samples=20, method="entropy", progress=False), num_samples=count)
    table = replace(table, settings={**table.settings, "num_samples": None})
    words = shlex.split(calibrate_command(table, "m.onnx"))
    given = int(words[words.index("--num-samples") + 1]) if "--num-samples" in words else 512
    assert given >= least
